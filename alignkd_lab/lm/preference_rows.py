"""A preference pair, or a prompt alone, from a row of any of TRL's formats, or the reason why there is none.

The formats are told apart by what a row holds: `prompt`, `chosen` and `rejected` as strings (standard) or as lists of
messages (conversational), or no prompt of its own, which is then what `chosen` and `rejected` share (implicit). Rated
responses in HelpSteer2's shape become pairs by helpfulness, transcripts in HH-RLHF's shape messages. A prompt may also
be called `instruction` (Alpaca). Left out compared with TRL: tools and images; a row that has them, or a question under
another name, is skipped, with the reason. A prompt alone may also be a plain text or the first of the `turns`
(MT-Bench).
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from alignkd_lab.errors import BadInput

FIELDS = ("prompt", "chosen", "rejected")
UNREAD = ("tools", "images", "image")  # a row that has one was answered with more than its text
# What rows hold beside a prompt, as Alpaca's and Orca's do.
CONTEXT = ("system", "system_prompt", "system_message", "input", "context", "history")
SCORES = ("score_{}", "{}_score", "{}_rating", "{}-rating")  # what sets call the scores of chosen and rejected
_RATED = {"prompt", "response", "helpfulness"}
# How texts mark the turns of a conversation: HelpSteer2 in its prompts, HH-RLHF in its answers.
_MARKS = re.compile(r"\s*<extra_id_1>(User|Assistant)[^\S\n]*\n")
_SPEAKERS = re.compile(r"\n\n(Human|Assistant):[^\S\n]?")
# What sets call a prompt that nobody renamed; other names stand for what a row is about, its source or a model.
_QUESTIONS = {"question", "query", "problem", "request", "task", "post", "user", "human", "text", "user_prompt",
              "turns", "messages", "conversation", "conversations"}  # fmt: skip
# Messages as they stand in a table that holds texts alone, by JSON or by Python.
_WRITTEN_OUT = re.compile(r"""\s*\[\s*\{\s*(["'])(role|content)\1\s*:.*\}\s*\]\s*""", re.DOTALL)

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked.

    Attributes:
        row: its row in the source, counted from 1 (the line, in JSON Lines).
        prompt: messages with `role` and `content`, the last by the user.
    """

    row: int
    prompt: list[Message]

    @property
    def said(self) -> str | list[Message]:
        """As a reward reads it: the text of a single turn of the user, else the messages."""
        alone = len(self.prompt) == 1 and self.prompt[0]["role"] == "user"
        return self.prompt[0]["content"] if alone else self.prompt


@dataclass(frozen=True, slots=True)
class Preference(Asked):
    """A pair: what is asked, and the texts of the assistant's two answers."""

    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Prompt(Asked):
    """A prompt alone.

    Attributes:
        later: what the user says after the first answer, the second and so on.
        fields: the row as it stands in the source, where it is an object.
    """

    later: list[str] = field(default_factory=list)
    fields: Mapping[str, Any] = field(default_factory=dict)


class Unusable(ValueError):
    """Why a row is skipped."""


def standard(
    rows: Iterator[tuple[int, object]], columns: dict[str, str], name: str, pairs: bool = True
) -> Iterator[tuple[int, object]]:
    """Numbered rows whose fields are called as in `FIELDS`; in place of one that has no pair an `Unusable`.

    Args:
        columns: what the rows of the source `name` call those fields, where it differs.
        pairs: whether rated responses are paired; else each row stays, for its prompt.

    Raises:
        BadInput: the first row lacks a column that was asked for.
    """
    first = next(rows, None)
    if first is None:
        return
    rows = itertools.chain([first], rows)
    number, row = first
    found = list(row) if isinstance(row, Mapping) else []
    for wanted, column in columns.items():
        if column not in found:
            raise BadInput(
                f"columns: row {number} of {name} has no {column!r} to be its {wanted}; it has {', '.join(found)}"
            )
    if pairs and not columns and set(found) >= _RATED and "chosen" not in found:
        yield from _by_helpfulness(rows)
        return
    for number, row in rows:
        if columns and isinstance(row, Mapping):
            named = {wanted: row.get(column) for wanted, column in columns.items()}
            row = {name: value for name, value in row.items() if name not in columns.values()} | named
        yield number, row


def preference(number: int, row: object) -> Preference:
    """The pair of a row that `standard` gave.

    Raises:
        Unusable: there is none, with the reason.
    """
    row = _readable(row)
    turns, chosen, rejected = _pair(row, row.get("prompt"))
    _check_prompt(turns, row)
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise Unusable(f"empty {name}")
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen equals rejected")
    return Preference(number, turns, chosen, rejected)


def _pair(row: Mapping, prompt: object) -> tuple[list[Message], str, str]:
    """The turns before the answers, and the two answers."""
    texts = [row.get("chosen"), row.get("rejected")]
    chosen, rejected = (_answer(text, name) for text, name in zip(texts, FIELDS[1:], strict=True))
    plain = prompt is None and all(isinstance(text, str) for text in texts)
    if plain and not all(map(_transcript, texts)):
        if "prompt" in row:  # which is null: what the answers share is none
            raise Unusable("missing prompt")
        prompt, *texts = _shared_words(*texts)
        if asked := next((name for name, value in row.items() if _may_ask(name, value, prompt)), None):
            raise Unusable(f"has {asked} and no prompt; call it prompt, or leave it out")
        chosen, rejected = ([_message("assistant", text)] for text in texts)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1]["role"] != "assistant":
            raise Unusable(f"the last turn of {name} is not by the assistant")
    shared = chosen[:-1]
    if not _same(shared, rejected[:-1]):
        raise Unusable("chosen and rejected differ before their last turn")
    if prompt is None and not shared:
        raise Unusable("no shared prompt")
    before = shared if prompt is None else _joined(_turns(prompt, "prompt"), shared, isinstance(prompt, str))
    return before, chosen[-1]["content"], rejected[-1]["content"]


def _may_ask(name: str, value: object, prompt: str) -> bool:
    """Whether a field is what the answers were given to, rather than the words that they share."""
    if name in (*FIELDS, *CONTEXT) or not value or (isinstance(value, str) and value.strip() in prompt):
        return False
    return name.lower() in _QUESTIONS or (isinstance(value, str) and value.strip().endswith(("?", "=")))


def doubts(row: Mapping) -> bool:
    """Whether the row itself has scores by which chosen is not better than rejected."""
    for name in SCORES:
        with contextlib.suppress(TypeError, ValueError):  # a table of texts has numbers as texts
            chosen, rejected = (float(row.get(name.format(role))) for role in FIELDS[1:])
            if chosen <= rejected:
                return True
    return False


def asked(number: int, row: object) -> Prompt:
    """The prompt of a row that `standard` gave, and what the user says later.

    Raises:
        Unusable: there is none, with the reason.
    """
    fields = row if isinstance(row, Mapping) else {}
    row, later = _readable({"prompt": row} if isinstance(row, str) else row), []
    prompt, turns = row.get("prompt"), row.get("turns")
    if prompt is None and turns is not None:
        if not (isinstance(turns, list) and turns and all(isinstance(turn, str) and turn.strip() for turn in turns)):
            raise Unusable("turns must be a list of what the user says, none of it empty")
        prompt, *later = turns
        for turn in later:
            _turns(turn, "turns")
    if row.get("chosen") is not None and row.get("rejected") is not None:
        messages, *_ = _pair(row, prompt)
    elif prompt is None:
        raise Unusable("missing prompt (or instruction, or turns)")
    else:
        rated = isinstance(prompt, str) and row.keys() >= _RATED
        messages = _turns(_spoken(prompt, _MARKS) if rated else prompt, "prompt")
    _check_prompt(messages, row)
    return Prompt(number, messages, later, fields)


def _readable(row: object) -> Mapping:
    """The row, with its instruction as the prompt where it has no other."""
    if isinstance(row, Unusable):
        raise row
    if not isinstance(row, Mapping):
        raise Unusable("not an object with fields")
    for name in UNREAD:
        if row.get(name):
            raise Unusable(f"has {name}, which no prompt would show")
    if row.get("prompt") is None and "instruction" in row:
        return {**row, "prompt": row["instruction"]}
    return row


def _check_prompt(turns: list[Message], row: Mapping) -> None:
    if not turns or not turns[-1]["content"].strip():
        raise Unusable("empty prompt")
    if turns[-1]["role"] != "user":
        raise Unusable("the prompt's last turn is not by the user")
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise Unusable("the prompt has a system message after its first turn")
    shown = "\n".join(turn["content"] for turn in turns)
    for name in CONTEXT:
        said = row.get(name)
        if said and not (isinstance(said, str) and said.strip() in shown):
            raise Unusable(f"has {name}, which its prompt does not show; write it there")


def _answer(value: object, name: str) -> list[Message]:
    """The turns of a field that holds an answer.

    A text is without the one space by which a continuation joins its prompt; an indented line of code keeps its spaces.
    """
    if value is None:
        raise Unusable(f"missing {name}")
    if value in ("", []):
        raise Unusable(f"empty {name}")
    joined = isinstance(value, str) and value[:1] == " " and not value[1:2].isspace()
    return _turns(value[1:] if joined else value, name)


def _message(role: str, content: str) -> Message:
    return {"role": sys.intern(role), "content": content}


def _turns(value: object, name: str) -> list[Message]:
    """Messages of a field; a string is one turn, of the user in a prompt and of the assistant in an answer."""
    if isinstance(value, str):
        if _WRITTEN_OUT.fullmatch(value):
            raise Unusable(f"{name} is a list of messages written out as text; keep it a list, in .jsonl or .parquet")
        marked = _transcript(value)
        value = marked or [_message("user" if name == "prompt" else "assistant", value)]
        if marked and name == "prompt" and value[-1]["role"] == "assistant" and not value[-1]["content"].strip():
            value.pop()  # where the answer is to begin
    if not isinstance(value, list):
        raise Unusable(f"{name} is neither text nor messages")
    for turn in value:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise Unusable(f"{name} has a turn without role and text")
        if turn["role"] not in ("system", "user", "assistant"):
            raise Unusable(f"{name} has a turn by {turn['role']!r}")
        if more := [key for key, value in turn.items() if key not in ("role", "content") and value]:
            raise Unusable(f"{name} has a turn with {more[0]}, which the answer is not read with")
        if not turn["content"].isascii() and re.search("[\ud800-\udfff]", turn["content"]):
            raise Unusable(f"{name} holds half a character (a lone surrogate), which no tokenizer reads")
    return [_message(turn["role"], turn["content"]) for turn in value]


def _transcript(text: str) -> list[Message]:
    """The turns of a text in HH-RLHF's shape, empty of another one; the line ends at its start may have been lost."""
    text = text.replace("\r\n", "\n")
    if text.startswith("Human:") and "\n\nAssistant:" in text:
        text = f"\n\n{text}"
    return _spoken(text, _SPEAKERS) if _SPEAKERS.match(text) else []


def _spoken(text: str, marks: re.Pattern) -> list[Message]:
    """The turns of a text that marks who speaks; what stands before the first mark is the user's."""
    start, *later = marks.split(text)
    turns = [_message("user", start)] if start.strip() else []
    roles = ("assistant" if speaker == "Assistant" else "user" for speaker in later[::2])
    return turns + [_message(role, said) for role, said in zip(roles, later[1::2], strict=True)]


def _joined(prompt: list[Message], shared: list[Message], plain: bool) -> list[Message]:
    """The prompt and the turns that both answers begin with, which many sets repeat; some have it as `plain` text."""
    size = len(prompt)
    if any(_same(shared[at : at + size], prompt) for at in range(len(shared) - size + 1)):
        return shared
    if plain and shared:
        text = prompt[0]["content"].strip()
        if any(turn["content"].strip() in text or text in turn["content"] for turn in shared):
            return shared
    both = next(count for count in range(size, -1, -1) if _same(prompt[size - count :], shared[:count]))
    if shared and not both and (plain or prompt[-1]["role"] == shared[0]["role"]):
        raise Unusable("prompt is not among the turns that chosen and rejected share")
    return prompt + shared[both:]


def _same(one: list[Message], other: list[Message]) -> bool:
    """Whether the same is said by the same, but for the white space around it."""
    said = ([(turn["role"], turn["content"].strip()) for turn in turns] for turns in (one, other))
    return next(said) == next(said)


def _shared_words(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two texts as what they share, up to the end of a word, and what is left of each after the space between."""
    if chosen == rejected:
        raise Unusable("chosen equals rejected")
    least = min(len(chosen), len(rejected))
    end = next((index for index in range(least) if chosen[index] != rejected[index]), least)
    while end and not (chosen[end : end + 1].isspace() and rejected[end : end + 1].isspace()):
        end -= 1
    if not chosen[:end].strip():
        raise Unusable("no shared prompt")
    return chosen[:end].rstrip(), chosen[end:].lstrip(), rejected[end:].lstrip()


def _by_helpfulness(rows: Iterator[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    """HelpSteer2: of two neighbouring rows with one prompt, the response of higher helpfulness is chosen.

    That is how its authors pair the ratings for a Bradley-Terry model; a pair has the number of its first row.
    """
    groups = itertools.groupby(rows, lambda row: row[1].get("prompt") if isinstance(row[1], Mapping) else object())
    for _, same in groups:
        for (number, row), second in itertools.zip_longest(same, same):
            if not isinstance(row, Mapping):
                yield number, row
            elif second is None:
                yield number, Unusable("no second response to its prompt")
            else:
                yield number, _rated_pair(row, second[1])


def _rated_pair(one: Mapping, other: Mapping) -> object:
    scores = one.get("helpfulness"), other.get("helpfulness")
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        return Unusable("helpfulness is no number")
    if scores[0] == scores[1]:
        return Unusable("tie in helpfulness")
    better, worse = (one, other) if scores[0] > scores[1] else (other, one)
    prompt = one.get("prompt")
    if isinstance(prompt, str):
        prompt = _spoken(prompt, _MARKS)
    return {"prompt": prompt, "chosen": better.get("response"), "rejected": worse.get("response")}
