"""Prompts of a run: those that ship, everyday topics in a few sentence frames, or those of somebody's file.

Splits: `healing` (making the student), `training` (preferences and distillation), `validation` (learning
rates, the quantiles of the likelihood oracle) and `test` (evaluation only). A prompt is a topic in one frame; the frame
goes round with the topic's place in its split, so that every split sees every frame and no topic serves twice. A file's
prompts are shared out by a hash of their texts; none of them heals.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.preference_data import count_reasons, read_prompts
from alignkd_lab.lm.settings import SHIPPED
from alignkd_lab.paths import data_folder
from alignkd_lab.store import file_sha256

_SHARES = {"training": 96, "validation": 32, "test": 92}  # of the prompts that ship, and the shares of a file's
_PINNED = re.compile(r"(.+)@([0-9a-f]{12})")
SPLITS = ("healing", "training", "validation", "test")


@cache
def _file() -> dict:
    return json.loads((data_folder() / "prompts.json").read_text(encoding="utf-8"))


def digest(source: str = SHIPPED) -> str:
    """What a result that was made from these prompts depends on."""
    held = [_file()["frames"], _file()["topics"]] if source == SHIPPED else _splits(pin_file(source))[0]
    return f"sha256:{hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()}"


def prompts(split: str, count: int | None = None, all_frames: bool = False, source: str = SHIPPED) -> list[str]:
    """The first `count` prompts of a split, shipped or of the file `source`; with `all_frames` each topic in each.

    Raises:
        BadInput: unknown split, or more prompts than the split has.
    """
    if split not in SPLITS:
        raise BadInput(f"prompts: unknown split {split!r}; use one of {', '.join(SPLITS)}")
    if source == SHIPPED:
        frames, topics = _file()["frames"], _file()["topics"][split]
        made = [
            frames[(index + turn) % len(frames)].format(topic=topic)
            for turn in range(len(frames) if all_frames else 1)
            for index, topic in enumerate(topics)
        ]
    else:
        made = _splits(pin_file(source))[0][split]
    if count is not None and not 0 < count <= len(made):
        raise BadInput(f"prompts: the split {split!r} of {source} has {len(made)} prompts, {count} were asked for")
    return made[:count]


# Of a file -------------------------------------------------------------------------------------


def pin_file(source: str) -> str:
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


def describe(source: str) -> dict:
    """Where a file's prompts come from, what was left out, and how many each split has."""
    return _splits(pin_file(source))[1]


@cache
def _splits(pinned: str) -> tuple[dict[str, list[str]], dict]:
    """Of a pinned file: texts in the order of their hashes, shared out as the prompts that ship are.

    So a prompt's split depends on the file alone. Validation, of which every stage reads all, has at most as many.
    """
    found = read_prompts(pinned.rpartition("@")[0])
    plain: dict[str, str] = {}  # without the white space around, which a chat template may take off
    left_out = []
    for prompt in found.rows:
        if not isinstance(prompt.said, str):
            left_out.append((prompt.row, "more than one turn"))
        elif plain.setdefault(prompt.said.strip(), prompt.said) != prompt.said:
            left_out.append((prompt.row, "repeats an earlier prompt"))
    ranked = sorted(plain.values(), key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    whole = sum(_SHARES.values())
    test = len(ranked) * _SHARES["test"] // whole
    rest = test + min(len(ranked) * _SHARES["validation"] // whole, _SHARES["validation"])
    parts = {"test": ranked[:test], "validation": ranked[test:rest], "training": ranked[rest:]}
    if not all(parts.values()):
        raise BadInput(f"prompts: {len(ranked)} prompts of {pinned} are too few for three splits; give at least 7")
    sizes = {name: len(part) for name, part in parts.items()}
    return parts, {**found.provenance, "skipped": count_reasons([*found.skipped, *left_out]), "splits": sizes}
