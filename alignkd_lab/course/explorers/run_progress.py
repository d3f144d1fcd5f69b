"""Where a run stands, from what it told: pure functions of its events (`alignkd_lab.progress`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from alignkd_lab.doctor import duration
from alignkd_lab.plots.style import pipeline_style

_INSTANT = 0.5  # seconds: a unit that took less was kept from an earlier start


@dataclass(frozen=True)
class Standing:
    """`share` of the units done (0 to 1), seconds `left` (None while nothing has been timed), and both in words."""

    share: float
    left: float | None
    text: str


@dataclass(frozen=True)
class Curve:
    """One alignment of one seed, measured on validation prompts as it goes: points with `step`, `reward`, `kl`."""

    seed: int
    pipeline: str
    stage: str
    points: tuple[dict, ...]


@dataclass(frozen=True)
class Unit:
    """A stage or an evaluation of a pipeline, and the seconds that it took, or has taken so far."""

    pipeline: str
    stage: str
    seconds: float


def standing(events: Sequence[dict], now: float) -> Standing:
    """Where a run stands after the events of its current start; `now` in seconds since 1970."""
    units = [event for event in events if event["what"] in ("unit", "cell")]
    if not units:
        return Standing(0.0, None, "loading libraries and weights")
    done, total = _counted(events, units)
    left = _left(units, total - done, now)
    words = _words(events, units[-1])
    if left is not None:
        words += f"; about {duration(left)} left"
    return Standing(min(1.0, (done + _part(events)) / total), left, words)


def timed(events: Sequence[dict], now: float) -> list[Unit]:
    """The units of the current seed, oldest first; the last one is under way."""
    units: list[dict] = []
    for event in events:
        if event["what"] == "seed":
            units = []
        elif event["what"] == "unit":
            units.append(event)
    ends = [unit["at"] for unit in units[1:]] + [now]
    return [Unit(unit["pipeline"], unit["stage"], end - unit["at"]) for unit, end in zip(units, ends, strict=True)]


def curves(events: Sequence[dict]) -> list[Curve]:
    """All alignments so far, in the order in which they began; the trials that choose a learning rate are left out."""
    found: dict[tuple, list[dict]] = {}
    seed, pipeline = 0, ""
    for event in events:
        seed, pipeline = event.get("seed", seed), event.get("pipeline", pipeline)
        if event["what"] != "curve" or event["stage"].startswith("trial"):
            continue
        key = (seed, pipeline, event["stage"])
        if event["step"] == 0:  # a stage that was cut off began again
            found.pop(key, None)
        found.setdefault(key, []).append(event)
    return [Curve(*key, tuple(points)) for key, points in found.items()]


def _counted(events: Sequence[dict], units: Sequence[dict]) -> tuple[int, int]:
    """Units done, and units in all."""
    if units[-1]["what"] == "cell":
        return units[-1]["number"] - 1, units[-1]["cells"]
    seed = next(event for event in reversed(events) if event["what"] == "seed")
    here = sum(unit["at"] >= seed["at"] for unit in units)
    return (seed["number"] - 1) * seed["units"] + here - 1, seed["seeds"] * seed["units"]


def _left(units: Sequence[dict], waiting: int, now: float) -> float | None:
    """As long as the units that were done took on average, for each that waits, the current one included."""
    begun = [unit["at"] for unit in units]
    took = [after - before for before, after in pairwise(begun) if after - before > _INSTANT]
    if not took:
        return None
    mean = sum(took) / len(took)
    return mean * (waiting - 1) + max(0.0, mean - (now - begun[-1]))


def _part(events: Sequence[dict]) -> float:
    """The share of the current unit's training that is done."""
    last = events[-1]
    trained = last["what"] == "step" and not last["stage"].startswith("trial")
    return last["step"] / last["steps"] if trained else 0.0


def _words(events: Sequence[dict], unit: dict) -> str:
    if unit["what"] == "cell":
        return unit["text"].replace("mog", "cell", 1)
    seed = next(event for event in reversed(events) if event["what"] == "seed")
    said = f"seed {seed['seed']}"
    if seed["seeds"] > 1:
        said += f" ({seed['number']} of {seed['seeds']})"
    said += f", {pipeline_style(unit['pipeline']).label}: {unit['stage'].replace('_', ' ')}"
    last = events[-1]
    if last["what"] == "step":
        trial = f"{last['stage']}, " if last["stage"].startswith("trial") else ""
        said += f", {trial}step {last['step']} of {last['steps']}"
    return said
