"""Somebody's own prompts: read from a file, a data set or a set of the hub; for a run, split by a hash of their texts.

A row is a text, or an object whose `prompt` is a text or a list of messages; `instruction` (AlpacaEval), `turns`
(MT-Bench) and preference pairs will do. In a `.txt` each line is a prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.preference_rows import UNREAD, Message, Unusable, messages, preference, standard
from alignkd_lab.lm.preference_sources import open_source
from alignkd_lab.lm.prompts import checksum, prompts
from alignkd_lab.lm.settings import SHIPPED
from alignkd_lab.store import file_sha256

SPLIT_SIZES = {"training": 96, "validation": 32, "test": 92}  # of the prompts that ship, and the shares of own ones
_PINNED = re.compile(r"(.+)@([0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        row: its row in the source, counted from 1 (the line, in JSON Lines).
        messages: with `role` and `content`, the last by the user.
        later: what the user says after the first answer, the second and so on.
        fields: the row as it stands in the source.
    """

    row: int
    messages: list[Message]
    later: list[str]
    fields: Any

    @property
    def said(self) -> str | list[Message]:
        """As a reward reads it: the text of a single turn of the user, else the messages."""
        alone = len(self.messages) == 1 and self.messages[0]["role"] == "user"
        return self.messages[0]["content"] if alone else self.messages


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
    found, skipped, seen, raw = [], [], set(), {}
    try:
        rows, provenance = _lines(Path(source)) if str(source).endswith(".txt") else open_source(source, None, None)
        for number, row in standard(_as_prompts(rows, raw), {}, provenance["source"]):
            fields, later = raw.pop(number)
            try:
                prompt = Prompt(number, _messages_of(number, row), later, fields)
                if later and not strict:
                    raise Unusable("has several turns")
                if (asked := json.dumps(prompt.messages)) in seen and not strict:
                    raise Unusable("repeats an earlier prompt")
            except Unusable as reason:
                if strict:
                    where = f"row {number} of {provenance['source']}"
                    raise BadInput(f"{field}: {where}: {reason}; mend the row, or leave it out") from reason
                skipped.append((number, str(reason)))
                continue
            seen.add(asked)
            found.append(prompt)
    except BadInput as error:
        raise BadInput(str(error).replace("preferences:", f"{field}:", 1)) from error
    if not found:
        first = "; ".join(f"row {row}: {reason}" for row, reason in skipped[:3])
        raise BadInput(
            f"{field}: {provenance['source']} holds no prompt ({first or 'it is empty'}); a row needs a prompt"
        )
    said = json.dumps([prompt.messages for prompt in found])
    version = provenance["version"] or f"rows-sha256:{hashlib.sha256(said.encode()).hexdigest()}"
    return Prompts(found, skipped, {**provenance, "version": version})


def _lines(path: Path) -> tuple[Iterator[tuple[int, str]], dict]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"preferences: {path} cannot be read as UTF-8 text ({error})") from error
    about = {"source": path.name, "split": None, "version": f"sha256:{file_sha256(path)}", "licence": None}
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip()), about


def _as_prompts(rows: Iterator, raw: dict[int, tuple[Any, list[str]]]) -> Iterator[tuple[int, object]]:
    """Rows of any kind as objects with a `prompt`; how each stands, and its later turns, by number in `raw`."""
    for number, row in rows:
        later: list[str] = []
        made = {"prompt": row} if isinstance(row, str) else row
        try:
            if isinstance(made, Mapping) and made.get("prompt") is None:
                if made.get("instruction") is not None:
                    if made.get("input"):
                        raise Unusable("has an input, which no prompt would show; write it into its instruction")
                    made = {**made, "prompt": made["instruction"]}
                elif (turns := made.get("turns")) is not None:
                    if not (isinstance(turns, list) and turns and all(isinstance(x, str) and x.strip() for x in turns)):
                        raise Unusable("turns must be a list of what the user says, none of it empty")
                    made, later = {**made, "prompt": turns[0]}, turns[1:]
        except Unusable as reason:
            made = reason
        raw[number] = row, later
        yield number, made


def _messages_of(number: int, row: object) -> list[Message]:
    if not isinstance(row, Mapping) or (row["chosen"] is not None and row["rejected"] is not None):
        return preference(number, row).prompt
    if row["prompt"] is None:
        raise Unusable("missing prompt (or instruction, or turns)")
    if unread := [name for name in UNREAD if row.get(name)]:
        raise Unusable(f"has {unread[0]}, which no prompt would show")
    return messages(row["prompt"])


# For a run --------------------------------------------------------------------------------------------


def pin(source: str) -> str:
    """The file's name with a hash of what it holds. Raises BadInput where there is none, or where the hash differs."""
    if source == SHIPPED:
        return source
    path, digest = _PINNED.fullmatch(source).groups() if _PINNED.fullmatch(source) else (source, None)
    if not Path(path).is_file():
        raise BadInput(f"prompts: there is no file {path}")
    found = file_sha256(Path(path))[:12]
    if digest not in (None, found):
        raise BadInput(
            f"prompts: {path} has changed: @{digest} was asked for, and this is @{found}; leave the hash out"
        )
    return f"{path}@{found}"


def texts(source: str, split: str, count: int | None = None) -> list[str]:
    """The first `count` prompts of a split: of those that ship, or of a file's.

    Raises:
        BadInput: more than there are.
    """
    if source == SHIPPED:
        return prompts(split, count)
    made = _splits(pin(source))[0][split]
    if count is not None and not 0 < count <= len(made):
        raise BadInput(f"prompts: the split {split!r} of {source} has {len(made)} prompts, {count} were asked for")
    return made[:count]


def describe(source: str) -> dict:
    """Where they come from, what was left out, and how many each split has."""
    return _splits(pin(source))[1]


def digest(source: str) -> str:
    """What a result that was made from these prompts depends on."""
    if source == SHIPPED:
        return checksum()
    return f"sha256:{hashlib.sha256(json.dumps(_splits(pin(source))[0], sort_keys=True).encode()).hexdigest()}"


@cache
def _splits(pinned: str) -> tuple[dict[str, list[str]], dict]:
    """Of a pinned file: texts in the order of their hashes, shared out as the prompts that ship are.

    So a prompt's split depends on the file alone. Validation, of which every stage reads all, has at most as many.
    """
    found = read_prompts(pinned.rpartition("@")[0])
    skipped = [reason for _, reason in found.skipped]
    plain = [prompt.said for prompt in found.rows if isinstance(prompt.said, str)]
    skipped += ["more than one turn"] * (len(found.rows) - len(plain))
    ranked = sorted(plain, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    whole = sum(SPLIT_SIZES.values())
    test = len(ranked) * SPLIT_SIZES["test"] // whole
    validation = min(len(ranked) * SPLIT_SIZES["validation"] // whole, SPLIT_SIZES["validation"])
    parts = {
        "test": ranked[:test],
        "validation": ranked[test : test + validation],
        "training": ranked[test + validation :],
    }
    if not all(parts.values()):
        raise BadInput(f"prompts: {len(ranked)} prompts of {pinned} are too few for three splits; give at least 7")
    reasons = {reason: skipped.count(reason) for reason in skipped}
    sizes = {name: len(part) for name, part in parts.items()}
    return parts, {**found.provenance, "skipped": reasons, "splits": sizes}
