"""Preference pairs that somebody else collected: from the hub, a file or a `datasets.Dataset`, and as examples.

What a row may look like is in `preference_rows`. A row that cannot be used is skipped with its number and the reason.
Left out: sets of the hub with several configurations, and files of other kinds, which `datasets` opens.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.preference_rows import FIELDS, Preference, Unusable, preference, standard
from alignkd_lab.lm.templates import Frame, frame_of
from alignkd_lab.store import file_sha256

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")
_FIRST = 5  # row numbers that a report names for each reason

Skipped = list[tuple[int, str]]


class Known(NamedTuple):
    """A set of the hub that goes by its name alone: the commit it is pinned to, and what is said before a download."""

    revision: str
    licence: str
    megabytes: int
    mapping: str


KNOWN = {
    "argilla/dpo-mix-7k": Known(
        "f8869fc91bde5c71a104667292addcbbfd15985d",
        "MIT",
        24,
        "chosen and rejected are conversations, the turns that they share are the prompt",
    ),
    "nvidia/HelpSteer2": Known(
        "990b2711a36180dd19d9c94b8627844866f8982a",
        "CC-BY-4.0",
        12,
        "two rows to a prompt, the response of higher helpfulness is chosen, ties are skipped",
    ),
}


@dataclass(frozen=True)
class Preferences:
    """Pairs, where they come from, and what was left out.

    Attributes:
        rows: the pairs, in the order of the source.
        skipped: (row, reason) of each row that could not be used.
        provenance: `source`, `split`, `version` (`revision:…` of the hub, `sha256:…` of the file, or `rows-sha256:…` of
            the pairs of a data set in memory) and `licence`; None where it is not known.
    """

    rows: list[Preference]
    skipped: Skipped
    provenance: dict[str, str | None]

    def table(self) -> pd.DataFrame:
        """How many rows were kept, and how many skipped for each reason, with the numbers of the first few."""
        kept = by_reason([(pair.row, "kept") for pair in self.rows])
        return pd.concat([kept, by_reason(self.skipped)], ignore_index=True) if self.skipped else kept

    def report(self) -> str:
        """The same in a few lines to read."""
        about = ", ".join(value for value in self.provenance.values() if value)
        lines = [f"{about}: {len(self.rows)} pairs kept, {len(self.skipped)} rows skipped"]
        for line in by_reason(self.skipped).itertuples():
            lines.append(f"{line.count:7d}  {line.reason} (row{'s' * (line.count > 1)} {line.rows})")
        return "\n".join(lines)


class Encoded(NamedTuple):
    """Examples with the responses [chosen, rejected], the rows skipped on the way, and the responses that were cut."""

    examples: list[Example]
    skipped: Skipped
    cut: Skipped


def by_reason(entries: Skipped) -> pd.DataFrame:
    """`reason`, `count` and the first few `rows` of (row, reason) entries, the most frequent reason first."""
    found: dict[str, list[int]] = {}
    for row, reason in entries:
        found.setdefault(reason, []).append(row)
    ranked = sorted(found.items(), key=lambda item: -len(item[1]))
    return pd.DataFrame(
        {
            "reason": [reason for reason, _ in ranked],
            "count": [len(rows) for _, rows in ranked],
            "rows": [", ".join(map(str, rows[:_FIRST])) + ", …" * (len(rows) > _FIRST) for _, rows in ranked],
        }
    )


# Loading ----------------------------------------------------------------------------------------------


def load_preferences(
    source,
    *,
    split: str | None = None,
    revision: str | None = None,
    columns: dict[str, str] | None = None,
    limit: int | None = None,
) -> Preferences:
    """Pairs of a known set (`KNOWN`), a hub id, a file (`SUFFIXES`) or a `datasets.Dataset`.

    A plain string answer loses the white space around it, since a chat turn starts on a line of its own.

    Args:
        split: of a set on the hub; `train` unless given.
        revision: commit of a set on the hub, 40 hex digits; known sets are pinned.
        columns: what the source calls `prompt`, `chosen` and `rejected`, where it differs.
        limit: keep the first so many usable pairs; later rows are not looked at.

    Raises:
        BadInput: unknown source or column, a file that cannot be read, no row that can be used.
        CannotContinue: the hub did not give the set.
    """
    columns = columns or {}
    for field in columns:
        if field not in FIELDS:
            raise BadInput(f"columns: unknown field {field!r}; the fields are {', '.join(FIELDS)}")
    if limit is not None and limit < 1:
        raise BadInput(f"limit: {limit} must be at least 1")
    rows, provenance = _open(source, split, revision)
    name, kept, skipped = provenance["source"], [], []
    for number, row in standard(rows, columns, name):
        try:
            kept.append(preference(number, row))
        except Unusable as reason:
            skipped.append((number, str(reason)))
        if len(kept) == limit:
            break
    if not kept:
        raise BadInput(_nothing_usable(name, skipped))
    if provenance["version"] is None:
        digest = hashlib.sha256(json.dumps([asdict(pair) for pair in kept], sort_keys=True).encode())
        provenance["version"] = f"rows-sha256:{digest.hexdigest()}"
    return Preferences(kept, skipped, provenance)


def _nothing_usable(name: str, skipped: Skipped) -> str:
    if not skipped:
        return f"preferences: {name} holds no rows"
    reasons = "; ".join(f"{line.reason}: row {line.rows}" for line in by_reason(skipped).itertuples())
    return (
        f"preferences: no row of {name} can be used ({reasons}). A row needs chosen and rejected, and mostly a prompt; "
        "where they have other names, say so with columns={'chosen': 'its name'}"
    )


def _open(source, split: str | None, revision: str | None) -> tuple[Iterator[tuple[int, object]], dict]:
    """Numbered rows of a source as they come, and its provenance."""
    if not isinstance(source, str | os.PathLike):
        return _from_dataset(source, split, revision)
    path = Path(source)
    if path.name.endswith(SUFFIXES):
        _no_hub_options(str(source), split, revision)
        if not path.is_file():
            raise BadInput(f"preferences: there is no file {source}")
        provenance = {"source": path.name, "split": None, "version": f"sha256:{file_sha256(path)}", "licence": None}
        return _file_rows(path), provenance
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) and not path.exists():
        return _from_hub(str(source), split or "train", revision)
    raise BadInput(
        f"preferences: unknown source {str(source)!r}; use one of {', '.join(KNOWN)}, another id of the hub, "
        f"a file that ends in {', '.join(SUFFIXES)}, or a datasets.Dataset"
    )


def _no_hub_options(name: str, split: str | None, revision: str | None) -> None:
    for option, value in (("split", split), ("revision", revision)):
        if value is not None:
            raise BadInput(f"{option}: {value!r} is for sets of the hub; leave it out for {name}")


def _from_dataset(source, split: str | None, revision: str | None) -> tuple[Iterator, dict]:
    import datasets

    if isinstance(source, datasets.DatasetDict):
        raise BadInput(f"preferences: this is a DatasetDict; pass one of its splits: {', '.join(source)}")
    if not isinstance(source, datasets.Dataset):
        raise BadInput(f"preferences: a {type(source).__name__} is no name, file or datasets.Dataset")
    _no_hub_options("a datasets.Dataset", split, revision)
    licence = source.info.license or None
    return enumerate(source, 1), {
        "source": "datasets.Dataset",
        "split": str(source.split) if source.split else None,
        "version": None,  # known once the pairs are read
        "licence": licence,
    }


def _from_hub(name: str, split: str, revision: str | None) -> tuple[Iterator, dict]:
    known = KNOWN.get(name)
    revision = revision or (known.revision if known else "")
    if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch or tag may move
        raise BadInput(
            f"preferences: {name} needs a pinned revision, the 40 hex digits of a commit, and has {revision!r}; "
            "the page of the data set lists its commits under 'Files and versions'"
        )
    if known:
        about = f"{known.megabytes} MB unless cached, {known.licence}; {known.mapping}"
    else:
        about = "see its page for size and licence; fields as TRL names them"
    print(f"Loading {name} at {revision[:8]} from the hub: {about}", file=sys.stderr)
    import datasets

    try:
        data = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotContinue(
            f"preferences: the hub did not give the split {split!r} of {name} at {revision[:8]} "
            f"({type(error).__name__}: {first}). Check name, split and network, or fetch a file elsewhere and load that"
        ) from error
    licence = known.licence if known else data.info.license or None
    provenance = {"source": name, "split": split, "version": f"revision:{revision}", "licence": licence}
    return enumerate(data, 1), provenance


def _file_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig") as file:
            if ".jsonl" in path.suffixes:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _parse(line, path, number)
            else:
                rows = _parse(file.read(), path)
                if not isinstance(rows, list):
                    raise BadInput(f"preferences: {path.name} holds no list of rows; one object a line goes in .jsonl")
                yield from enumerate(rows, 1)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise BadInput(f"preferences: {path.name} cannot be read as {path.suffix} in UTF-8 ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, object]]:
    try:
        # pyarrow's own types, since numpy's would turn lists into arrays and a missing text into a number.
        frame = pd.read_parquet(path, dtype_backend="pyarrow")
    except ValueError as error:
        raise BadInput(f"preferences: {path.name} cannot be read as Parquet ({error})") from error
    yield from enumerate(frame.to_dict("records"), 1)


def _parse(text: str, path: Path, line: int | None = None) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {line or error.lineno}, column {error.colno}"
        raise BadInput(f"preferences: {path.name} is wrong JSON at {where}: {error.msg}") from error


# From pairs to examples -------------------------------------------------------------------------------


def to_examples(preferences: Preferences, tokenizer, *, max_prompt_tokens: int, max_response_tokens: int) -> Encoded:
    """Each pair as an `Example` with the responses [chosen, rejected] in these roles, each with its end token.

    Too long a prompt is skipped. Too long a response (its end token counts) is cut, and a cut one has no end token.

    Raises:
        BadInput: a limit below 1, a tokenizer without a chat template or an end token, or a template that is refused
            (`lm.templates.frame_of`).
    """
    for name, limit in (("max_prompt_tokens", max_prompt_tokens), ("max_response_tokens", max_response_tokens)):
        if limit < 1:
            raise BadInput(f"{name}: {limit} must be at least 1")
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise BadInput("tokenizer: it needs a chat template and an end token; use that of a model made for chat")
    encoded, frame = Encoded([], [], []), frame_of(tokenizer)
    for pair in preferences.rows:
        try:
            prompt = _prompt_tokens(pair, tokenizer, max_prompt_tokens)
            responses = [_response_tokens(pair, role, tokenizer, frame) for role in ("chosen", "rejected")]
            kept = [tokens[:max_response_tokens] for tokens in responses]
            if kept[0] == kept[1]:
                raise Unusable("chosen equals rejected as far as they are read")
        except Unusable as reason:
            encoded.skipped.append((pair.row, str(reason)))
            continue
        roles = ["chosen", "rejected"]
        encoded.examples.append(Example(prompt, kept, roles))
        for role, tokens in zip(roles, responses, strict=True):
            if len(tokens) > max_response_tokens:
                encoded.cut.append((pair.row, f"{role} cut to {max_response_tokens} tokens"))
    return encoded


def _prompt_tokens(pair: Preference, tokenizer, most: int) -> list[int]:
    import jinja2

    try:
        tokens = tokenizer.apply_chat_template(pair.prompt, add_generation_prompt=True, return_dict=False)
    except jinja2.TemplateError as error:  # some templates know no system message, or want turns to alternate
        raise Unusable("the chat template refuses the prompt") from error
    if len(tokens) > most:
        raise Unusable(f"prompt longer than {most} tokens")
    return tokens


def _response_tokens(pair: Preference, role: str, tokenizer, frame: Frame) -> list[int]:
    tokens = tokenizer(frame.opening + getattr(pair, role), add_special_tokens=False).input_ids
    if not tokens:
        raise Unusable(f"{role} has no tokens")
    if frame.end in tokens:
        raise Unusable(f"{role} holds the end token itself")
    return [*tokens, frame.end]
