"""What the plan expects beside its registered signs: one row an expectation, one entry a place that can answer it.

Each is a difference paired by seed (or a rank correlation) with its 95 % interval, not corrected for their number, and
no verdict: it is told whether the whole interval lies on the expected side of 0, on the other one, or holds 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from alignkd_lab.claims import verdict
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.style import interval, pipeline_style
from alignkd_lab.report.evidence import (
    NOT_RUN,
    Evidence,
    Place,
    across,
    difference,
    leads,
    paired,
    pairs,
    sampled_rates,
    why_not,
)
from alignkd_lab.runs import by_seed
from alignkd_lab.stats import Interval, rank_correlation
from alignkd_lab.study import plan

Measure = Callable[..., Interval | None]
AS_EXPECTED = "as expected"
_CAME = {"holds": AS_EXPECTED, "fails": "the other way", "undecided": "not told apart from 0"}


class Expectation(NamedTuple):
    """One line of the plan.

    words: what is expected. sign: `up` or `down`, of what is measured; None where the plan registers none.
    measure: takes a run for each of `cells`, then those of `more` that are complete and sound.
    cells: of the language world. gaussian: whether the Gaussian main setting can answer it, too.
    scale: by which the measure is multiplied for readers. unit: of the scaled measure.
    """

    words: str
    sign: str | None
    measure: Measure
    cells: tuple[plan.Cell, ...]
    gaussian: bool = False
    scale: float = 1.0
    unit: str = ""
    more: tuple[plan.Cell, ...] = ()


def expectations(evidence: Evidence) -> dict:
    """`columns`, and `rows` of `words` and `cells`; a cell's `came` says whether it came, empty where that is open."""
    columns = [place.words for place in evidence.places]
    columns += [f"Gaussians, {algorithm.upper()}" for algorithm in ALGORITHMS if evidence.gaussians]
    rows = [{"words": expected.words, "cells": list(_cells(expected, evidence))} for expected in EXPECTED]
    return {"columns": columns, "rows": rows}


def _cells(expected: Expectation, evidence: Evidence) -> Iterator[dict]:
    for place in evidence.places:
        yield _language(expected, place)
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        main = evidence.gaussian(algorithm)
        found = expected.measure(main.run) if expected.gaussian else None
        doubt = "" if main.valid else "invalid, a check failed"
        yield {"came": "", "text": "–"} if found is None else _told(expected, found, doubt)


def _language(expected: Expectation, place: Place) -> dict:
    runs = [place.run(cell) for cell in expected.cells]
    if None in runs:
        return {"came": "", "text": NOT_RUN}
    more = [run for cell in expected.more if not why_not(run := place.run(cell), cell)]
    doubts = (why_not(run, cell) for run, cell in zip(runs, expected.cells, strict=True))
    return _told(expected, expected.measure(*runs, *more), next(filter(None, doubts), ""))


def _told(expected: Expectation, found: Interval | None, doubt: str) -> dict:
    if found is None:
        return {"came": "", "text": doubt or "not recorded"}
    measured = interval(*(expected.scale * value for value in found)) + expected.unit
    if doubt:
        return {"came": "", "text": f"{doubt}. As figures: {measured}"}
    came = _CAME[verdict(found.low, found.high, expected.sign)] if expected.sign else ""
    return {"came": came, "text": measured}


def _fewer(measured: Callable[[Mapping, str], Mapping[int, float]]) -> Measure:
    """What K-A's alignment had, minus what the base's had, paired by seed."""
    return lambda run: paired(measured(run, K_A), measured(run, "base_aligned"))


def _rising_with_pairs(*runs: Mapping) -> Interval | None:
    """Within each run, over its seeds: K-A's reward by the informative pairs that it had."""
    groups = []
    for run in runs:
        counts, rewards = pairs(run, K_A), by_seed(run, K_A)
        shared = sorted(set(counts) & set(rewards))
        groups.append(([counts[seed] for seed in shared], [rewards[seed] for seed in shared]))
    return rank_correlation(groups) if any(counts for counts, _ in groups) else None


def _beyond(first: str, second: str, metric: str = "reward") -> Measure:
    return lambda run: difference(run, first, second, metric)


def _between(pipelines: tuple[str, str], metric: str = "reward") -> Measure:
    """`pipelines[0]` of the first run minus `pipelines[1]` of the second."""
    return lambda first, second: across(first, second, pipelines, metric)


def _smaller_lead(main: Mapping, other: Mapping) -> Interval | None:
    """The lead of A-K in the other run minus that in the main one, paired by seed."""
    return paired(leads(other), leads(main))


def _cell(arm: str, value: str = plan.AS_REGISTERED) -> plan.Cell:
    return next(cell for cell in plan.ARMS[arm].cells if cell.value == value)


def _expected() -> Iterator[Expectation]:
    main, methods = _cell("main"), _cell("methods")
    points = {"scale": 100, "unit": " points"}
    rate = _beyond("kd_only", "base", "target_rate")
    yield Expectation("Distilling lowers the target's rate (test responses)", "down", rate, (main,), True, **points)
    words = "The same by the many more samples that pairs are made of"
    yield Expectation(words, "down", _fewer(sampled_rates), (main,), **points)
    words = "K-A is left fewer informative pairs than the base (by the smaller size and by distilling together)"
    yield Expectation(words, "down", _fewer(pairs), (main,), True, unit=" pairs")
    words = "K-A earns more where it had more pairs (rank correlation over seeds, within targets)"
    targets = plan.ARMS["targets"].cells
    yield Expectation(words, "up", _rising_with_pairs, (main,), True, more=targets)
    for name in _cell("controls").pipelines:
        words = f"“{pipeline_style(name).label}” earns more than K-A"
        yield Expectation(words, "up", _beyond(name, K_A), (_cell("controls"),), True)
    for first, second in (("adpa", "dckd"), ("adpa_plus", "adpa")):
        words = f"{pipeline_style(first).label} minus {pipeline_style(second).label} (no sign registered)"
        yield Expectation(words, None, _beyond(first, second), (methods,))
    words = "A-K leads by less for a common target (colour)"
    yield Expectation(words, "down", _smaller_lead, (main, _cell("targets", "colour")))
    words = "A-K earns more for another target as rare (simile), each order at the learning rate that the rule gave it"
    yield Expectation(words, "up", _beyond(A_K, K_A), (_cell("targets", "simile"),))
    hot, cold = _cell("kd_temperature", "1.25"), _cell("kd_temperature", "0.5")
    words = "A-K's overall recall rises with the temperature of distillation (1.25 against 0.5)"
    yield Expectation(words, "up", _between((A_K, A_K), "overall_recall"), (hot, cold), unit=" nats")
    words = "Distilled at temperature 1 (new seeds), A-K earns less than K-A, each at the rate that the rule gave it"
    yield Expectation(words, "down", _beyond(A_K, K_A), (_cell("plain_kd", "1"),))
    words = "Distilled at temperature 1 (new seeds), A-K earns less than at 0.7"
    yield Expectation(words, "down", _between((A_K, A_K)), (_cell("plain_kd", "1"), main))
    doubled, halved = (_cell("preference_responses", value) for value in ("doubled", "halved"))
    words = "K-A gains from more preference samples (doubled against halved)"
    yield Expectation(words, "up", _between((K_A, K_A)), (doubled, halved))
    words = "A-K earns more than K-A with as much compute"
    yield Expectation(words, "up", _between((A_K, K_A)), (main, plan.ARMS["equal_compute"].cells[0]))
    for order, label in ((A_K, "A-K"), (K_A, "K-A")):
        words = f"{label}'s second rule above the base's: up if it grasped the meaning (no sign registered)"
        yield Expectation(words, None, _beyond(order, "base", "second_rule_rate"), (main,), **points)


EXPECTED = tuple(_expected())
