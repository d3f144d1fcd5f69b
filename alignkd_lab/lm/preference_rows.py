"""A preference pair, or a prompt alone, from a row of any of TRL's formats, or the reason why there is none.

The formats are told apart by what a row holds: `prompt`, `chosen` and `rejected` as strings (standard) or as lists of
messages (conversational), or no prompt of its own, which is then what `chosen` and `rejected` share (implicit). Rated
responses in HelpSteer2's shape become pairs by helpfulness. Left out compared with TRL: tools and
images; a row that has them is skipped, with the reason. A prompt alone may also be a plain text, an `instruction`
(AlpacaEval) or the first of the `turns` (MT-Bench).
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from alignkd_lab.errors import BadInput

FIELDS = ("prompt", "chosen", "rejected")
UNREAD = ("tools", "images", "image")  # a row that has one was answered with more than its text
_RATED = {"prompt", "response", "helpfulness"}
# HelpSteer2 writes the earlier turns of a conversation into its prompt, each after such a line.
_TURN = re.compile(r"\s*<extra_id_1>(User|Assistant)[^\S\n]*\n")

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair.

    Attributes:
        row: its row in the source, counted from 1 (the line, in JSON Lines).
        prompt: messages with `role` and `content`, the last by the user.
        chosen, rejected: the text of the assistant's answer.
    """

    row: int
    prompt: list[Message]
    chosen: str
    rejected: str

    def digests(self) -> tuple[int, int]:
        """A hash of what the pair says, and that of the opposite."""
        asked = tuple((turn["role"], turn["content"]) for turn in self.prompt)
        return hash((asked, self.chosen, self.rejected)), hash((asked, self.rejected, self.chosen))


class Unusable(ValueError):
    """Why a row is skipped."""


def standard(rows: Iterator[tuple[int, object]], columns: dict[str, str], name: str) -> Iterator[tuple[int, object]]:
    """Numbered rows whose fields are called as in `FIELDS`; in place of one that has no pair an `Unusable`.

    Args:
        columns: what the rows of the source `name` call those fields, where it differs.

    Raises:
        BadInput: the first row lacks a column that was asked for.
    """
    first = next(rows, None)
    if first is None:
        return
    rows = itertools.chain([first], rows)
    number, row = first
    found = list(row) if isinstance(row, Mapping) else []
    for field, column in columns.items():
        if column not in found:
            raise BadInput(
                f"columns: row {number} of {name} has no {column!r} to be its {field}; it has {', '.join(found)}"
            )
    if not columns and set(found) >= _RATED and "chosen" not in found:
        yield from _by_helpfulness(rows)
        return
    for number, row in rows:
        named = {field: row.get(column) for field, column in columns.items()} if isinstance(row, Mapping) else None
        yield number, {**row, **named} if named else row


def preference(number: int, row: object) -> Preference:
    """The pair of a row that `standard` gave.

    Raises:
        Unusable: there is none, with the reason.
    """
    row = _readable(row)
    prompt, chosen, rejected = (row.get(field) for field in FIELDS)
    for field, answer in (("chosen", chosen), ("rejected", rejected)):
        if answer is None:
            raise Unusable(f"missing {field}")
        if answer in ("", []):
            raise Unusable(f"empty {field}")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            prompt, chosen, rejected = _shared_words(chosen, rejected)
        turns, chosen, rejected = _turns(prompt, "prompt"), _unjoined(chosen), _unjoined(rejected)
    else:
        turns, chosen, rejected = _conversations(prompt, _turns(chosen, "chosen"), _turns(rejected, "rejected"))
    _check_prompt(turns)
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise Unusable(f"empty {field}")
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen equals rejected")
    return Preference(number, turns, chosen, rejected)


def asked(number: int, row: object) -> tuple[list[Message], list[str]]:
    """The prompt of a row that `standard` gave, and what the user says after the first answer, the second and so on.

    Raises:
        Unusable: there is none, with the reason.
    """
    row, later = _readable({"prompt": row} if isinstance(row, str) else row), []
    prompt, turns = row.get("prompt"), row.get("turns")
    if prompt is None and row.get("instruction") is not None:
        if row.get("input"):
            raise Unusable("has an input, which no prompt would show; write it into its instruction")
        prompt = row["instruction"]
    elif prompt is None and turns is not None:
        if not (isinstance(turns, list) and turns and all(isinstance(turn, str) and turn.strip() for turn in turns)):
            raise Unusable("turns must be a list of what the user says, none of it empty")
        prompt, *later = turns
    if row.get("chosen") is not None and row.get("rejected") is not None:
        return preference(number, {**row, "prompt": prompt}).prompt, later
    if prompt is None:
        raise Unusable("missing prompt (or instruction, or turns)")
    messages = _turns(prompt, "prompt")
    _check_prompt(messages)
    return messages, later


def _readable(row: object) -> Mapping:
    if isinstance(row, Unusable):
        raise row
    if not isinstance(row, Mapping):
        raise Unusable("not an object with fields")
    for field in UNREAD:
        if row.get(field):
            raise Unusable(f"has {field}, which no prompt would show")
    return row


def _check_prompt(turns: list[Message]) -> None:
    if not turns or not turns[-1]["content"].strip():
        raise Unusable("empty prompt")
    if turns[-1]["role"] != "user":
        raise Unusable("the prompt's last turn is not by the user")


def _message(role: str, content: str) -> Message:
    return {"role": sys.intern(role), "content": content}


def _unjoined(answer: str) -> str:
    """Without the one space by which a continuation joins its prompt; an indented line of code keeps its spaces."""
    return answer[1:] if answer[:1] == " " and not answer[1:2].isspace() else answer


def _turns(value: object, field: str) -> list[Message]:
    """Messages of a field; a string is one turn, of the user in a prompt and of the assistant in an answer."""
    if isinstance(value, str):
        return [_message("user" if field == "prompt" else "assistant", value)]
    if not isinstance(value, list):
        raise Unusable(f"{field} is neither text nor messages")
    for turn in value:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise Unusable(f"{field} has a turn without role and text")
        if turn["role"] not in ("system", "user", "assistant"):
            raise Unusable(f"{field} has a turn by {turn['role']!r}")
        if more := [key for key, value in turn.items() if key not in ("role", "content") and value]:
            raise Unusable(f"{field} has a turn with {more[0]}, which the answer is not read with")
    return [_message(turn["role"], turn["content"]) for turn in value]


def _conversations(prompt: object, chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """The turns before the answers, and the two answers."""
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1]["role"] != "assistant":
            raise Unusable(f"the last turn of {field} is not by the assistant")
    shared = chosen[:-1]
    if shared != rejected[:-1]:
        raise Unusable("chosen and rejected differ before their last turn")
    # Some sets repeat the prompt at the start of both answers, some in a column of its own that is plain text.
    if prompt is None or (isinstance(prompt, str) and shared):
        before = shared
    else:
        asked = _turns(prompt, "prompt")
        before = shared if shared[: len(asked)] == asked else asked + shared
    if not before:
        raise Unusable("no shared prompt")
    return before, chosen[-1]["content"], rejected[-1]["content"]


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
    alone = Unusable("no second response to its prompt")
    waiting = None
    for number, row in rows:
        if not isinstance(row, Mapping):
            yield number, row
        elif waiting is not None and waiting[1].get("prompt") == row.get("prompt"):
            yield waiting[0], _rated_pair(waiting[1], row)
            waiting = None
        else:
            if waiting is not None:
                yield waiting[0], alone
            waiting = number, row
    if waiting is not None:
        yield waiting[0], alone


def _rated_pair(one: Mapping, other: Mapping) -> object:
    scores = one.get("helpfulness"), other.get("helpfulness")
    if not all(isinstance(score, int | float) for score in scores):
        return Unusable("helpfulness is no number")
    if scores[0] == scores[1]:
        return Unusable("tie in helpfulness")
    better, worse = (one, other) if scores[0] > scores[1] else (other, one)
    prompt = one.get("prompt")
    if isinstance(prompt, str):
        start, *later = _TURN.split(prompt)
        prompt = [_message("user", start)] if start.strip() else []
        prompt += [_message(role.lower(), text) for role, text in zip(later[::2], later[1::2], strict=True)]
    return {"prompt": prompt, "chosen": better.get("response"), "rejected": worse.get("response")}
