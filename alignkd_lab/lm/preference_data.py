"""Preference pairs and prompts that somebody collected: from the hub, a file or a `datasets.Dataset`; and as examples.

What a row may look like is in `preference_rows`. A row that cannot be used is skipped with its number and the reason;
one that repeats or contradicts an earlier row is kept and counted. Where rows come from is in `preference_sources`.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.preference_rows import FIELDS, Message, Preference, Unusable, asked, preference, standard
from alignkd_lab.lm.preference_sources import open_source
from alignkd_lab.lm.templates import frame_of
from alignkd_lab.ranges import check_number

if TYPE_CHECKING:  # whoever reads pairs need not load torch
    from alignkd_lab.lm.batch import Example

_FIRST = 5  # row numbers that a report names for each reason
_BATCH = 250  # pairs that are tokenised together
REFUSED = "the chat template refuses the prompt"

Skipped = list[tuple[int, str]]


@dataclass(frozen=True)
class Preferences:
    """Pairs, where they come from, and what was left out.

    Attributes:
        rows: the pairs, in the order of the source.
        skipped: (row, reason) of each row that could not be used.
        provenance: `source`, `split`, `version` (`revision:…` of the hub, `sha256:…` of the file, or `rows-sha256:…` of
            the pairs of a data set in memory) and `licence`; None where it is not known.
        noted: (row, what is odd) of rows that are kept: one says what an earlier one says, or the opposite.
    """

    rows: list[Preference]
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


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Its token ids up to where the answer starts, and what a reward reads of it: a text, or messages."""

    prompt: list[int]
    said: str | list[Message]


class Encoded(NamedTuple):
    """Examples with the responses [chosen, rejected], or prompts; the rows skipped, and the responses that were cut."""

    examples: list[Example] | list[EncodedPrompt]
    skipped: Skipped
    cut: Skipped


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


def load_preferences(
    source,
    *,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    limit: int | None = None,
) -> Preferences:
    """Pairs of a known set (`KNOWN`), `id@commit` of the hub, file (`SUFFIXES`), folder of `save_to_disk` or `Dataset`.

    The white space around an answer is kept, but for the one space that joins a plain string to its prompt.

    Args:
        split: of a set on the hub; `train` unless given.
        columns: what the source calls `prompt`, `chosen` and `rejected`, where it differs.
        limit: keep the first so many usable pairs; later rows are not looked at.

    Raises:
        BadInput: unknown source or column, a file that cannot be read, no row that can be used.
        CannotContinue: the hub did not give the set.
    """
    columns = columns or {}
    for name in columns:
        if name not in FIELDS:
            raise BadInput(f"columns: unknown field {name!r}; the fields are {', '.join(FIELDS)}")
    check_number("limit", 1 if limit is None else limit, least=1, whole=True)
    rows, provenance = open_source(source, split=split)
    name, kept, skipped, noted = provenance["source"], [], [], []
    seen: set[int] = set()  # hashes of what was said
    with tqdm(desc=f"loading {name}", unit="rows", total=limit, leave=False) as bar:
        for number, row in standard(rows, columns, name):
            bar.update()
            try:
                kept.append(preference(number, row))
            except Unusable as reason:
                skipped.append((number, str(reason)))
                continue
            said, opposite = kept[-1].digests()
            if said in seen:
                noted.append((number, "repeats an earlier pair"))
            elif opposite in seen:
                noted.append((number, "contradicts an earlier pair"))
            seen.add(said)
            if len(kept) == limit:
                break
    if not kept:
        raise BadInput(_nothing_usable(name, skipped))
    if provenance["version"] is None:
        digest = hashlib.sha256(json.dumps([asdict(pair) for pair in kept], sort_keys=True).encode())
        provenance["version"] = f"rows-sha256:{digest.hexdigest()}"
    return Preferences(kept, skipped, provenance, noted)


def _nothing_usable(name: str, skipped: Skipped) -> str:
    if not skipped:
        return f"preferences: {name} holds no rows"
    reasons = "; ".join(f"{reason}: row {rows}" for reason, _, rows in by_reason(skipped))
    return (
        f"preferences: no row of {name} can be used ({reasons}). A row needs chosen and rejected, and mostly a prompt; "
        "where they have other names, say so with columns={'chosen': 'its name'}"
    )


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        row: its row in the source, counted from 1 (the line, in JSON Lines).
        prompt: messages with `role` and `content`, the last by the user.
        later: what the user says after the first answer, the second and so on.
        fields: the row as it stands in the source, where it is an object.
    """

    row: int
    prompt: list[Message]
    later: list[str]
    fields: Any

    @property
    def said(self) -> str | list[Message]:
        """As a reward reads it: the text of a single turn of the user, else the messages."""
        alone = len(self.prompt) == 1 and self.prompt[0]["role"] == "user"
        return self.prompt[0]["content"] if alone else self.prompt


class Prompts(NamedTuple):
    """`(row, reason)` of rows left out, and where the others come from, beside them."""

    rows: list[Prompt]
    skipped: list[tuple[int, str]]
    provenance: dict


def read_prompts(source: Any, field: str = "prompts", *, strict: bool = False) -> Prompts:
    """The prompts of a source, each once; `field` is what errors call it.

    A row that cannot be used, has several turns or repeats an earlier one is skipped, with the reason. Where it is
    `strict`, every row is read, in its order, and the first that cannot be used is refused.

    Raises:
        BadInput: a source that is unknown or cannot be read, or that holds no prompt.
        CannotContinue: the hub did not give the set.
    """
    found, skipped, seen = [], [], set()
    rows, provenance = open_source(source, field)
    name = provenance["source"]
    for number, row in standard(rows, {}, name):
        try:
            prompt = Prompt(number, *asked(number, row), row if isinstance(row, Mapping) else {})
            if prompt.later and not strict:
                raise Unusable("has several turns")
            if (said := json.dumps(prompt.prompt)) in seen and not strict:
                raise Unusable("repeats an earlier prompt")
        except Unusable as reason:
            if strict:
                raise BadInput(f"{field}: row {number} of {name}: {reason}; mend the row, or leave it out") from reason
            skipped.append((number, str(reason)))
            continue
        seen.add(said)
        found.append(prompt)
    if not found:
        first = "; ".join(f"row {row}: {reason}" for row, reason in skipped[:3])
        raise BadInput(f"{field}: {name} holds no prompt ({first or 'it is empty'}); a row needs a prompt")
    said = json.dumps([prompt.prompt for prompt in found])
    version = provenance["version"] or f"rows-sha256:{hashlib.sha256(said.encode()).hexdigest()}"
    return Prompts(found, skipped, {**provenance, "version": version})


# From texts to tokens -------------------------------------------------------------------------------


def to_examples(preferences: Preferences, tokenizer, *, max_prompt_tokens: int, max_response_tokens: int) -> Encoded:
    """Each pair as an `Example` with the responses [chosen, rejected] in these roles, each with its end token.

    Too long a prompt is skipped. Too long a response (its end token counts) is cut, and a cut one has no end token. The
    white space around an answer stays where the chat template would leave it. Token ids are `array`s: lists of them
    would take ten times the memory.

    Raises:
        BadInput: a limit below 1, a tokenizer without a chat template or an end token, or a template that is refused
            (`lm.templates.frame_of`).
    """
    check_number("max_prompt_tokens", max_prompt_tokens, least=1, whole=True)
    check_number("max_response_tokens", max_response_tokens, least=1, whole=True)
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise BadInput("tokenizer: it needs a chat template and an end token; use that of a model made for chat")
    encoded, rows, stripped = Encoded([], [], []), preferences.rows, _strips(tokenizer)
    frame = frame_of(tokenizer)
    with tqdm(total=len(rows), desc="reading pairs", unit="pairs", leave=False) as bar:
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            prompts = render([pair.prompt for pair in part], tokenizer)
            texts = [text or "" for text in prompts]
            for pair in part:
                texts += [frame.opening + (text.strip() if stripped else text) for text in (pair.chosen, pair.rejected)]
            ids = token_ids(texts, tokenizer)
            for at, pair in enumerate(part):
                answers = ids[len(part) + 2 * at : len(part) + 2 * at + 2]
                try:
                    if prompts[at] is None:
                        raise Unusable(REFUSED)
                    _add(encoded, pair.row, ids[at], answers, frame.end,
                         max_prompt_tokens, max_response_tokens)  # fmt: skip
                except Unusable as reason:
                    encoded.skipped.append((pair.row, str(reason)))
            bar.update(len(part))
    return encoded


def encode_prompts(prompts: list[Prompt], tokenizer, max_prompt_tokens: int) -> Encoded:
    """Each prompt as an `EncodedPrompt`; too long a one is skipped.

    Raises:
        BadInput: a template that is refused (`lm.templates.frame_of`).
    """
    frame_of(tokenizer)
    encoded = Encoded([], [], [])
    rendered = render([row.prompt for row in prompts], tokenizer) if prompts else []
    ids = token_ids([text or "" for text in rendered], tokenizer) if prompts else []
    for row, text, tokens in zip(prompts, rendered, ids, strict=True):
        if text is None:
            encoded.skipped.append((row.row, REFUSED))
        elif len(tokens) > max_prompt_tokens:
            encoded.skipped.append((row.row, f"prompt longer than {max_prompt_tokens} tokens"))
        else:
            encoded.examples.append(EncodedPrompt(list(tokens), row.said))
    return encoded


def _add(encoded: Encoded, row: int, prompt: list[int], answers: list[list[int]], end: int, most: int, longest: int):
    """One example more. Raises Unusable where there is none."""
    from alignkd_lab.lm.batch import Example

    if len(prompt) > most:
        raise Unusable(f"prompt longer than {most} tokens")
    roles = ["chosen", "rejected"]
    for role, tokens in zip(roles, answers, strict=True):
        if not tokens:
            raise Unusable(f"{role} has no tokens")
        if end in tokens:
            raise Unusable(f"{role} holds the end token itself")
    responses = [_compact([*tokens, end][:longest]) for tokens in answers]
    if responses[0] == responses[1]:
        raise Unusable("chosen equals rejected as far as they are read")
    encoded.examples.append(Example(_compact(prompt), responses, roles))
    for role, tokens in zip(roles, answers, strict=True):
        if len(tokens) >= longest:
            encoded.cut.append((row, f"{role} cut to {longest} tokens"))


def _compact(tokens: list[int]) -> array:
    """In two bytes a token where the ids allow, else in four."""
    return array("H" if max(tokens) < 1 << 16 else "i", tokens)


def render(prompts: list[list[Message]], tokenizer) -> list[str | None]:
    """Each prompt as the chat template writes it; None where it refuses, as some do a system message."""
    import jinja2

    options = {"tokenize": False, "add_generation_prompt": True}
    try:
        return tokenizer.apply_chat_template(prompts, **options)
    except jinja2.TemplateError:
        if len(prompts) == 1:
            return [None]
        return [text for prompt in prompts for text in render([prompt], tokenizer)]


def _strips(tokenizer) -> bool:
    """Whether the chat template takes off the white space around an answer, as many do."""
    import jinja2

    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "  b\n"}]
    try:
        return "  b\n" not in tokenizer.apply_chat_template(turns, tokenize=False)
    except jinja2.TemplateError:
        return True


def token_ids(texts: list[str], tokenizer) -> list[list[int]]:
    """All of them at once: a fast tokenizer shares them out among the processors."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.padding is None and backend.truncation is None:
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False).input_ids
