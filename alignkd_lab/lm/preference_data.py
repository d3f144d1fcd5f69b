"""Preference pairs and prompts that somebody collected: from the hub, a file or a `datasets.Dataset`; and as examples.

What a row may look like is in `preference_rows`. A row that cannot be used is skipped with its number and the reason;
a pair that repeats or contradicts an earlier one is kept and counted. Where rows come from is in `preference_sources`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput, check_number
from alignkd_lab.lm.preference_rows import (
    FIELDS,
    Asked,
    Message,
    Preference,
    Prompt,
    Unusable,
    asked,
    doubts,
    preference,
    standard,
)
from alignkd_lab.lm.preference_sources import open_source
from alignkd_lab.lm.templates import end_ids, frame_of

if TYPE_CHECKING:  # whoever reads pairs need not load torch
    from alignkd_lab.lm.batch import EncodedPrompt, Example

PAIR = ("chosen", "rejected")
_FIRST = 5  # row numbers that a report names for each reason
_BATCH = 250  # texts that are tokenised together
_PAIR_NEEDS = (
    "chosen and rejected, and mostly a prompt: rename its fields, or `load_preferences(columns={'chosen': 'name'})`"
)

Skipped = list[tuple[int, str]]


@dataclass(frozen=True)
class Rows:
    """Pairs or prompts, where they come from, and what was left out.

    Attributes:
        rows: `Preference` or `Prompt`, in the order of the source.
        skipped: (row, reason) of each row that could not be used.
        provenance: `source`, `split`, `version` (`revision:…` of the hub, `sha256:…` of the file, or `rows-sha256:…` of
            the rows of a data set in memory) and `licence`; None where it is not known.
        noted: (row, what is odd) of pairs that are kept: one says what an earlier one says, or the opposite, or has
            scores of its own that do not prefer what it prefers.
    """

    rows: list
    skipped: Skipped
    provenance: dict[str, str | None]
    noted: Skipped = field(default_factory=list)

    def report(self) -> str:
        """How many rows were kept, what is odd of these, and how many were skipped for each reason; with first rows."""
        about = ", ".join(value for value in self.provenance.values() if value)
        lines = [f"{about}: {len(self.rows)} pairs kept, {len(self.skipped)} rows skipped"]
        for reason, count, rows in by_reason(self.noted) + by_reason(self.skipped):
            lines.append(f"{count:7d}  {reason} (row{'s' * (count > 1)} {rows})")
        return "\n".join(lines)


def by_reason(entries: Skipped) -> list[tuple[str, int, str]]:
    """Each reason, how often it stands in (row, reason) entries, and its first few rows; the most frequent first."""
    found: dict[str, list[int]] = {}
    for row, reason in entries:
        found.setdefault(reason, []).append(row)
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    return [(reason, len(rows), ", ".join(map(str, rows[:_FIRST])) + ", …" * (len(rows) > _FIRST))
            for reason, rows in ranked]  # fmt: skip


def count_reasons(entries: Skipped) -> dict[str, int]:
    """How often each reason stands in (row, reason) entries, as a record holds it."""
    return {reason: count for reason, count, _ in by_reason(entries)}


# Loading ----------------------------------------------------------------------------------------------


def load_preferences(source, *, split: str | None = None, columns: dict[str, str] | None = None) -> Rows:
    """Pairs of a known set (`KNOWN`), `id@commit` of the hub, file (`SUFFIXES`), folder of `save_to_disk` or `Dataset`.

    The white space around an answer is kept, but for the one space that joins a plain string to its prompt, and for
    what stands between a plain prompt that both answers begin with and the rest of each.

    Args:
        split: of a set on the hub; `train` unless given.
        columns: what the source calls `prompt`, `chosen` and `rejected`, where it differs.

    Raises:
        BadInput: unknown source or column, a file that cannot be read, no row that can be used.
        CannotContinue: the hub did not give the set.
    """
    columns = columns or {}
    for name in columns:
        if name not in FIELDS:
            raise BadInput(f"columns: unknown field {name!r}; the fields are {', '.join(FIELDS)}")
    noted, seen = [], set()  # hashes of what was said

    def read(number: int, row: object) -> Preference:
        pair = preference(number, row)
        prompt = json.dumps(pair.prompt)
        if hash((prompt, pair.chosen, pair.rejected)) in seen:
            noted.append((number, "repeats an earlier pair"))
        elif hash((prompt, pair.rejected, pair.chosen)) in seen:
            noted.append((number, "contradicts an earlier pair"))
        seen.add(hash((prompt, pair.chosen, pair.rejected)))
        if doubts(row):
            noted.append((number, "scores chosen no higher than rejected"))
        return pair

    return replace(_read(source, "preferences", read, columns, split), noted=noted)


def read_prompts(source: Any, field: str = "prompts", *, strict: bool = False) -> Rows:
    """The prompts of a source, each once; `field` is what errors call it.

    A row that cannot be used, has several turns or repeats an earlier one is skipped, with the reason. Where it is
    `strict`, every row is read, in its order, and the first that cannot be used is refused.

    Raises:
        BadInput: a source that is unknown or cannot be read, or that holds no prompt.
        CannotContinue: the hub did not give the set.
    """
    seen = set()

    def read(number: int, row: object) -> Prompt:
        prompt = asked(number, row)
        said = json.dumps(prompt.prompt)
        if prompt.later and not strict:
            raise Unusable("has several turns")
        if said in seen and not strict:
            raise Unusable("repeats an earlier prompt")
        seen.add(said)
        return prompt

    return _read(source, field, read, strict=strict, pairs=False)


def _read(
    source, field: str, read: Callable, columns: dict | None = None, split: str | None = None, strict: bool = False,
    pairs: bool = True,
) -> Rows:  # fmt: skip
    """What `read(number, row)` makes of each row; where it is `strict`, the first row that is `Unusable` is refused."""
    rows, provenance = open_source(source, field, split)
    name, found = provenance["source"], Rows([], [], provenance)
    with tqdm(desc=f"loading {name}", unit="rows", leave=False) as bar:
        for number, row in standard(rows, columns or {}, name, pairs):
            bar.update()
            try:
                found.rows.append(read(number, row))
            except Unusable as reason:
                if strict:
                    raise BadInput(
                        f"{field}: row {number} of {name}: {reason}; mend the row, or leave it out"
                    ) from reason
                found.skipped.append((number, str(reason)))
    if not found.rows:
        reasons = "; ".join(f"{reason}: row {rows}" for reason, _, rows in by_reason(found.skipped))
        needs = _PAIR_NEEDS if pairs else "a prompt"
        raise BadInput(f"{field}: no row of {name} can be used ({reasons or 'it holds no rows'}). A row needs {needs}")
    if not provenance["version"]:  # a data set in memory is known by what was read of it
        said = [asdict(row) if pairs else row.prompt for row in found.rows]
        digest = hashlib.sha256(json.dumps(said, sort_keys=pairs).encode()).hexdigest()
        provenance["version"] = f"rows-sha256:{digest}"
    return found


# From texts to tokens -------------------------------------------------------------------------------


class Encoded(NamedTuple):
    """Examples with the responses [chosen, rejected], or prompts; the rows skipped, and the responses that were cut."""

    examples: list[Example] | list[EncodedPrompt]
    skipped: Skipped
    cut: Skipped


def to_examples(preferences: Rows, tokenizer, *, max_prompt_tokens: int, max_response_tokens: int) -> Encoded:
    """Each pair as an `Example` with the responses [chosen, rejected] in these roles, each with its end token.

    Too long a prompt is skipped. Too long a response (its end token counts) is cut, and a cut one has no end token. An
    answer is what the chat template makes of it: many take off the white space around it. Token ids are `array`s: lists
    of them would take ten times the memory.

    Raises:
        BadInput: a limit below 1, a tokenizer without a chat template or an end token, or a template that is refused
            (`lm.templates.frame_of`).
    """
    check_number("max_prompt_tokens", max_prompt_tokens, least=1, whole=True)
    check_number("max_response_tokens", max_response_tokens, least=1, whole=True)
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise BadInput("tokenizer: it needs a chat template and an end token; use that of a model made for chat")
    encoded, frame = Encoded([], [], []), frame_of(tokenizer)
    ends = [frame.end, *end_ids(tokenizer)]

    def texts(pair: Preference) -> list[str | None]:
        prompt = render(pair.prompt, tokenizer)
        turns = ([*pair.prompt, {"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected))
        return [prompt, *(frame.answer(prompt, render(whole, tokenizer, asks=False)) for whole in turns)]

    rows = tqdm(preferences.rows, desc="reading pairs", unit="pairs", leave=False)
    for pair, said, tokens in _tokenised(rows, texts, tokenizer):
        try:
            encoded.examples.append(_example(said, tokens, ends, max_prompt_tokens, max_response_tokens))
        except Unusable as reason:
            encoded.skipped.append((pair.row, str(reason)))
            continue
        for role, answer in zip(PAIR, tokens[1:], strict=True):
            if len(answer) >= max_response_tokens:
                encoded.cut.append((pair.row, f"{role} cut to {max_response_tokens} tokens"))
    return encoded


def encode_prompts(prompts: Sequence[Asked], tokenizer, max_prompt_tokens: int) -> Encoded:
    """Each prompt as an `EncodedPrompt`; too long a one is skipped.

    Raises:
        BadInput: a template that is refused (`lm.templates.frame_of`).
    """
    from alignkd_lab.lm.batch import EncodedPrompt

    frame_of(tokenizer)
    encoded = Encoded([], [], [])
    for row, (text,), (tokens,) in _tokenised(prompts, lambda row: [render(row.prompt, tokenizer)], tokenizer):
        try:
            _check_length(text, tokens, max_prompt_tokens)
        except Unusable as reason:
            encoded.skipped.append((row.row, str(reason)))
        else:
            encoded.examples.append(EncodedPrompt(tokens, row.said))
    return encoded


def render(turns: list[Message], tokenizer, *, asks: bool = True) -> str | None:
    """As the chat template writes it, with the generation prompt where it `asks`; None where the template refuses.

    Some refuse a system message.
    """
    import jinja2

    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
    except jinja2.TemplateError:
        return None


def _tokenised(rows: Iterable[Asked], texts: Callable, tokenizer) -> Iterator[tuple[Asked, list, list]]:
    """Each row with its texts and their token ids; many at once, which a fast tokenizer shares out to processors."""
    rows = iter(rows)
    while part := list(itertools.islice(rows, _BATCH)):
        said = [texts(row) for row in part]
        ids = iter(_token_ids([text or "" for row in said for text in row], tokenizer))
        for row, held in zip(part, said, strict=True):
            yield row, held, [next(ids) for _ in held]


def _token_ids(texts: list[str], tokenizer) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.padding is None and backend.truncation is None:
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids


def _check_length(text: str | None, tokens: list[int], most: int) -> None:
    if text is None:
        raise Unusable("the chat template refuses the prompt")
    if len(tokens) > most:
        raise Unusable(f"prompt longer than {most} tokens")


def _example(texts: list[str | None], tokens: list[list[int]], ends: list[int], most: int, longest: int) -> Example:
    """Of a prompt and its two answers, as texts of the chat template and as tokens; the first of `ends` is added."""
    from alignkd_lab.lm.batch import Example

    _check_length(texts[0], tokens[0], most)
    for role, text, answer in zip(PAIR, texts[1:], tokens[1:], strict=True):
        if text is None:
            raise Unusable(f"the chat template does not write {role} after the prompt")
        if not answer:
            raise Unusable(f"{role} has no tokens")
        if not set(ends).isdisjoint(answer):
            raise Unusable(f"{role} holds an end token itself")
    prompt, *responses = map(_compact, [tokens[0], *([*answer, ends[0]][:longest] for answer in tokens[1:])])
    if responses[0] == responses[1]:
        raise Unusable("chosen equals rejected as far as they are read")
    return Example(prompt, responses, list(PAIR))


def _compact(tokens: list[int]) -> array:
    """In two bytes a token where the ids allow, else in four."""
    return array("H" if max(tokens) < 1 << 16 else "i", tokens)
