"""What the plan expects beside its registered signs: one row an expectation, one entry a place that can answer it.

Each is a difference paired by seed (or a rank correlation) with its 95 % interval, not corrected for their number; it
came where the whole interval lies on the expected side of 0, and failed where it lies on the other one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A, Interval, paired_difference, rank_correlation, verdict
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.records import seed_values
from alignkd_lab.report.evidence import Evidence, Place, across, complete, difference, pairs, sampled_rates
from alignkd_lab.report.tables import SYMBOLS
from alignkd_lab.style import interval, pipeline_style

Measure = Callable[..., Interval | None]


class Expectation(NamedTuple):
    """One line of the plan.

    words: what is expected. sign: `up` or `down`, of what is measured. measure: takes a run for each of `cells`.
    cells: of the language world; the Gaussian main setting answers the first one's question where `gaussian` is set.
    scale: by which the measure is multiplied for readers. unit: of the scaled measure.
    """

    words: str
    sign: str
    measure: Measure
    cells: tuple[plan.Cell, ...]
    gaussian: bool = False
    scale: float = 1.0
    unit: str = ""


def expectations(evidence: Evidence) -> dict:
    """`columns`, and `rows` of `words` and `cells`; a cell has a verdict, or None where there is none to give."""
    columns = [place.words for place in evidence.places]
    columns += [f"Gaussians, {algorithm.upper()}" for algorithm in ALGORITHMS if evidence.gaussians]
    rows = [{"words": expected.words, "cells": list(_cells(expected, evidence))} for expected in _EXPECTED]
    return {"columns": columns, "rows": rows}


def _cells(expected: Expectation, evidence: Evidence) -> Iterator[dict]:
    for place in evidence.places:
        yield _language(expected, place)
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        run = evidence.gaussian(algorithm).run
        found = expected.measure(run) if expected.gaussian else None
        yield _told(expected, found, "–" if found is None else "")


def _language(expected: Expectation, place: Place) -> dict:
    runs = [place.run(cell) for cell in expected.cells]
    if None in runs:
        return _told(expected, None, "not run")
    found = expected.measure(*runs)
    if not all(map(complete, runs, expected.cells)):
        held = min(len(run["records"]) for run in runs)
        return _told(expected, found, f"{held} of {max(len(cell.seeds) for cell in expected.cells)} seeds: no verdict")
    failed = next((check for run in runs if (check := failed_check(run_checks(run)))), None)
    return _told(expected, found, f"invalid, the check {failed.replace('_', ' ')} failed" if failed else "")


def _told(expected: Expectation, found: Interval | None, instead: str) -> dict:
    """A cell: what was measured, with the verdict or what is said `instead` of one."""
    if found is None:
        return {"verdict": None, "text": instead or "too few seeds"}
    measured = interval(*(expected.scale * value for value in found)) + expected.unit
    if instead:
        return {"verdict": None, "text": f"{instead}. So far {measured}"}
    came = verdict(found.low, found.high, expected.sign)
    return {"verdict": came, "symbol": SYMBOLS[came], "text": measured}


def _lower_rate(run: Mapping) -> Interval | None:
    """In the samples that pairs are made of, many more than those of the test; on Gaussians in the test draws."""
    rates = [sampled_rates(run, name) for name in (K_A, "base_aligned")]
    return paired_difference(*rates) if all(rates) else difference(run, "kd_only", "base", "target_rate")


def _fewer_pairs(run: Mapping) -> Interval | None:
    held = [pairs(run, name) for name in (K_A, "base_aligned")]
    return paired_difference(*held) if all(held) else None


def _rising_with_pairs(*runs: Mapping) -> Interval | None:
    """Over the seeds of all runs: K-A's reward by the informative pairs that it had."""
    counts = [count for run in runs for count in pairs(run, K_A)]
    rewards = [value for run in runs for value in seed_values(run)[K_A]["reward"].values()]
    return rank_correlation(counts, rewards) if len(counts) == len(rewards) else None


def _beyond(first: str, second: str, metric: str = "reward") -> Measure:
    return lambda run: difference(run, first, second, metric)


def _smaller_lead(main: Mapping, other: Mapping) -> Interval | None:
    """The lead of A-K in the other run minus that in the main one, paired by seed."""
    leads = []
    for run in (other, main):
        values = seed_values(run)
        first, second = values[A_K]["reward"], values[K_A]["reward"]
        leads.append({seed: first[seed] - second[seed] for seed in first if seed in second})
    shared = sorted(set(leads[0]) & set(leads[1]))
    return paired_difference(*([lead[seed] for seed in shared] for lead in leads)) if shared else None


def _between(pipelines: tuple[str, str], metric: str = "reward") -> Measure:
    """`pipelines[0]` of the first run minus `pipelines[1]` of the second."""
    return lambda first, second: across(first, second, pipelines, metric)


def _cell(arm: str, value: str = plan.AS_REGISTERED) -> plan.Cell:
    return next(cell for cell in plan.ARMS[arm].cells if cell.value == value)


def _expected() -> Iterator[Expectation]:
    main, methods = _cell("main"), _cell("methods")
    colour, simile = (_cell("targets", name) for name in ("colour", "simile"))
    yield Expectation("Distilling lowers the target's rate", "down", _lower_rate, (main,), True, 100, " points")
    yield Expectation("K-A is left fewer informative pairs", "down", _fewer_pairs, (main,), True, unit=" pairs")
    rising = "K-A earns more where it had more pairs, over seeds"
    yield Expectation(rising, "up", _rising_with_pairs, (main,), True, unit=" rank correlation")
    rising = f"{rising} and targets"
    yield Expectation(rising, "up", _rising_with_pairs, (main, colour, simile), unit=" rank correlation")
    for name in _cell("controls").pipelines:
        words = f"“{pipeline_style(name).label}” earns more than K-A"
        yield Expectation(words, "up", _beyond(name, K_A), (_cell("controls"),), True)
    for first, second in (("adpa", "dckd"), ("adpa_plus", "adpa")):
        words = f"{pipeline_style(first).label} earns more than {pipeline_style(second).label}"
        yield Expectation(words, "up", _beyond(first, second), (methods,))
    yield Expectation("A-K leads by less for a common target (colour)", "down", _smaller_lead, (main, colour))
    hot, cold = _cell("kd_temperature", "1.25"), _cell("kd_temperature", "0.5")
    words = "A-K's overall recall rises with the temperature of distillation (1.25 against 0.5)"
    yield Expectation(words, "up", _between((A_K, A_K), "overall_recall"), (hot, cold), unit=" nats")
    doubled, halved = (_cell("preference_responses", value) for value in ("doubled", "halved"))
    words = "K-A gains from more preference samples (doubled against halved)"
    yield Expectation(words, "up", _between((K_A, K_A)), (doubled, halved))
    words = "A-K earns more than K-A with as much compute"
    yield Expectation(words, "up", _between((A_K, K_A)), (main, plan.ARMS["equal_compute"].cells[0]))
    for order, label in ((A_K, "A-K"), (K_A, "K-A")):
        words = f"{label} grasps the meaning: it raises the second rule above the base"
        yield Expectation(words, "up", _beyond(order, "base", "second_rule_rate"), (main,), False, 100, " points")


_EXPECTED = tuple(_expected())
