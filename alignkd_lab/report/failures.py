"""Where the claim fails: what the plan says would count against it, and whatever the records hold against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.claims import CLAIMS
from alignkd_lab.costs import typical_cost
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS
from alignkd_lab.plots.style import interval, pipeline_style
from alignkd_lab.report.evidence import Evidence, Place, across, complete, difference, sampled_rates, why_not
from alignkd_lab.report.expectations import AS_EXPECTED, expectations
from alignkd_lab.report.signs import measured
from alignkd_lab.report.tables import CLAIM_WORDS, claims_table
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.stats import Interval
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan

LOST = 0.5  # of the base's target rate: more counts as pruned (PLAN)


def against(place: Place) -> list[tuple[str, str, str]]:
    """What the plan says would count against the claim, and whether it came: (place, criterion, answer)."""
    cell, run = plan.ARMS["main"].cells[0], place.main()
    doubt = why_not(run, cell)
    if doubt:
        return [(place.words, "all criteria", f"not decided: {doubt}")]
    verdict = summarise_run(run)["claims"][0]["verdict"]
    lost, seeds = _lost(sampled_rates(run, "base_aligned"), sampled_rates(run, K_A))
    tested, of = _lost(by_seed(run, "base", "target_rate"), by_seed(run, "kd_only", "target_rate"))
    pruned = (
        f"distilling lost more than half of the base's target rate in {lost} of {seeds} seeds, by the samples that "
        f"pairs are made of, which decide it; by the few test responses in {tested} of {of}"
    )
    answered = [
        ("A-K's reward is the lower one", f"{_yes(verdict == 'fails')}: {verdict}"),
        (
            "Reward undecided although recall was lost",
            f"{_yes(verdict == 'undecided' and 2 * lost > seeds)}: {verdict}; {pruned}",
        ),
    ]
    equals = list(_equal_at_no_more_cost(place, run))
    words = "K-A with more samples, or anchored to the base, equals A-K at no more cost"
    answered.append((words, "; ".join(equals)))
    return [(place.words, *entry) for entry in answered]


def _lost(before: Mapping[int, float], after: Mapping[int, float]) -> tuple[int, int]:
    """In how many seeds more than the part `LOST` of a rate was lost, and of how many."""
    shared = set(before) & set(after)
    return sum(after[seed] < (1 - LOST) * before[seed] for seed in shared), len(shared)


def _equal_at_no_more_cost(place: Place, main: Mapping) -> Iterator[str]:
    control, (compute,) = plan.ARMS["controls"].cells[0], plan.ARMS["equal_compute"].cells
    name, more = "kd_then_align_base_reference", plan.ARMS["preference_responses"].cells
    asked = [("anchored to the base", control, name), (f"A-K's compute, {compute.value}", compute, K_A)]
    asked += [(f"samples {cell.value}", cell, K_A) for cell in more if cell.value == "doubled"]
    for words, cell, pipeline in asked:
        run = place.run(cell)
        doubt = why_not(run, cell)
        if doubt:
            yield f"{words}: {doubt}"
            continue
        gap = across(main, run, (A_K, pipeline))
        yield f"{words}: {_equal(gap)}, A-K's lead {interval(*gap)}, {_spent_beside(run, pipeline, main)}"


def _spent_beside(run: Mapping, pipeline: str, main: Mapping) -> str:
    """A pipeline's tokens over those of A-K in the main run: they are exact, and minutes are those of one machine."""
    own, a_k = typical_cost(run, pipeline).tokens, typical_cost(main, A_K).tokens
    times = " and ".join(f"{own[kind] / a_k[kind]:.2f} times the tokens {kind}" for kind in ("sampled", "trained"))
    return f"with {times}, those of its alignment in the smaller model"


def _equal(gap: Interval) -> str:
    """Whether K-A reaches A-K; an interval that holds zero tells the two apart no more than it makes them equal."""
    if gap.low > 0:
        return "no"
    return "yes, it earns more" if gap.high < 0 else "not told apart"


def _yes(found: bool) -> str:
    return "yes" if found else "no"


def fails(evidence: Evidence) -> Iterator[str]:
    """Where the claim fails, or where nothing can be said: computed, whatever the records hold."""
    for place in evidence.places:
        yield from _language_failures(place)
        yield from _level_with_a_k(place)
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        yield from _gaussian_failures(evidence, algorithm)
        yield from _better_controls(evidence, algorithm)
    expected = expectations(evidence)
    for row in expected["rows"]:
        for where, found in zip(expected["columns"], row["cells"], strict=True):
            if found["came"] not in ("", AS_EXPECTED):
                yield f"{where}: not as the plan expected: {row['words']}. Measured: {found['came']}, {found['text']}."


def _language_failures(place: Place) -> Iterator[str]:
    for arm in plan.ARMS.values():
        for cell in arm.cells:
            run = place.run(cell)
            if not complete(run, cell) or not set(ORDERS) <= set(cell.pipelines):
                continue
            failed = failed_check(run_checks(run))
            where = f"{place.words}, {arm.label}, {cell.value}"
            if failed:
                yield f"{where}: no verdict is valid, the check {failed.replace('_', ' ')} failed."
                continue
            for row in claims_table(summarise_run(run)):
                if row["verdict"] == "fails":
                    yield f"{where}: “{row['words']}” fails, {measured(row)}."


def _level_with_a_k(place: Place) -> Iterator[str]:
    """What earns more than A-K at the registered settings, or is K-A with one thing changed and not told apart from it.

    It is not the order, then, or not the order alone.
    """
    for cell in plan.cells():
        run, beside = place.run(cell), place.run(plan.registered(cell))
        if why_not(run, cell) or why_not(beside, plan.registered(cell)):
            continue
        for pipeline in cell.pipelines:
            gap = across(run, beside, (pipeline, A_K)) if not {pipeline, A_K} <= set(cell.pipelines) else None
            label = f"“{pipeline_style(pipeline).label}” ({plan.ARMS[cell.arm].label}{_value(cell)})"
            if gap and gap.low > 0:
                yield f"{place.words}: {label} earns more than A-K, by {interval(*gap)}."
            elif gap and gap.high >= 0 and pipeline in (K_A, *CONTROLS):
                yield f"{place.words}: {label} is not told apart from A-K as registered: {interval(*gap)} of reward."


def _value(cell: plan.Cell) -> str:
    return "" if cell.value == plan.AS_REGISTERED else f", {cell.value}"


def _gaussian_failures(evidence: Evidence, algorithm: str) -> Iterator[str]:
    settings = evidence.distinct(algorithm)
    for place, claim in enumerate(CLAIMS):
        held: dict[str, list[str]] = {}
        for setting in settings:
            if setting.summary["claims"][place]["verdict"] == "fails":
                main = setting is evidence.gaussian(algorithm)
                label = "the main setting" if main else mog_study.ARMS[setting.arm].label
                held.setdefault(label, []).append("" if main else f"{setting.value:g}")
        if held:
            count = sum(map(len, held.values()))
            where = "; ".join(f"{label} {', '.join(values)}".strip() for label, values in held.items())
            words = CLAIM_WORDS[claim.metric, claim.statistic]
            yield f"Gaussians, {algorithm.upper()}: “{words}” fails in {count} of {len(settings)} settings ({where})."


def _better_controls(evidence: Evidence, algorithm: str) -> Iterator[str]:
    """Settings in which K-A with one thing changed earns more than A-K: it is not the order, then."""
    for control in CONTROLS:
        found = []
        for setting in evidence.distinct(algorithm):
            gap = difference(setting.run, control, A_K)
            if gap and gap.low > 0 and setting.valid:
                found.append(f"{mog_study.ARMS[setting.arm].label} {setting.value:g} by {interval(*gap)}")
        if found:
            label = pipeline_style(control).label
            yield f"Gaussians, {algorithm.upper()}: “{label}” earns more than A-K at {'; '.join(found)}."
