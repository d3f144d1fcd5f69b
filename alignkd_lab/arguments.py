"""What people write on a command line or in a field, read: seeds, pipelines and settings."""

from __future__ import annotations

import argparse
import json
from typing import Any

WORLDS = ("mog", "lm")
PRESETS = ("tiny", "laptop", "gpu", "paper")
ALGORITHMS = ("rlhf", "dpo")
MOST_SEEDS = 100_000


def parse_seeds(text: str) -> tuple[int, ...]:
    """`"0-2,5"` -> (0, 1, 2, 5), sorted, each once. Raises ArgumentTypeError for anything else than that."""
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{part!r} is no seed and no range; write 0, 0-4 or 0,2,5-7")
        start, stop = int(first), int(last or first)
        if stop < start:
            raise argparse.ArgumentTypeError(f"the range {part!r} runs backwards; write {stop}-{start}")
        if stop - start >= MOST_SEEDS or stop >= 2**32:
            raise argparse.ArgumentTypeError(f"{part!r} is too much: at most {MOST_SEEDS:,} seeds, each below 2**32")
        seeds.update(range(start, stop + 1))
    return tuple(sorted(seeds))


def parse_count(text: str) -> int:
    """`"3"` -> 3. Raises ArgumentTypeError for anything but a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no count; write a whole number of at least 1")
    return int(text)


def parse_pipelines(text: str) -> tuple[str, ...]:
    """`"a,b"` -> ("a", "b"), each once, in the order given; `orders`, `controls` and `methods` stand for all of theirs.

    Unknown names raise ArgumentTypeError.
    """
    from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, PIPELINES, unknown

    groups = {"orders": ORDERS, "controls": CONTROLS, "methods": METHODS}
    parts = [part.strip() for part in text.split(",")]
    for name in parts:
        if name not in PIPELINES and name not in groups:
            raise argparse.ArgumentTypeError(str(unknown("pipeline", name, (*groups, *PIPELINES))))
    return tuple(dict.fromkeys(name for part in parts for name in groups.get(part, (part,))))


def parse_setting(text: str) -> tuple[str, Any]:
    """`"beta=0.5"` -> ("beta", 0.5): the value is read as JSON where it parses as such, else kept as text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no setting; write name=value")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value
