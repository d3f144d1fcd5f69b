"""The study's part of the page: registered signs and verdicts, maps, arms, answers, failures, what was not run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.costs import typical_cost
from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, CLAIMS, K_A, Interval
from alignkd_lab.mog import study as mog_study
from alignkd_lab.mog import study_map
from alignkd_lab.mog.study_map import foretold_rightly
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import CONTROLS, ORDERS
from alignkd_lab.report.alignments import HEADS, alignments_table
from alignkd_lab.report.answers import answers
from alignkd_lab.report.evidence import (
    NOT_RUN,
    Evidence,
    Place,
    across,
    complete,
    difference,
    mean,
    sampled_rates,
    why_not,
)
from alignkd_lab.report.expectations import AS_EXPECTED, expectations
from alignkd_lab.report.tables import CLAIM_NAMES, CLAIM_WORDS, SYMBOLS, claims_table, mean_and_span, metrics_table
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.style import interval, number, pipeline_style

# What a policy did besides earning: the reward did not ask for any of it, or only for a part.
BESIDE = ("target_rate", "reward_bare", "second_rule_rate", "fluency", "length", "distinct_responses", "distinct_2",
          "entropy", "kl_to_truth")  # fmt: skip
_BORDER_HEADS = (
    "map",
    "foretold as measured",
    "leads foretold",
    "A-K leads, not foretold",
    "K-A leads, no lead foretold",
    "foretold lead, none found",
    "foretold lead, K-A leads",
    "target found by A-K as foretold",
    "target found by K-A as foretold",
)
_SHOWN = "not decided by so few seeds"
COUNTED = {"holds": "holds in", "fails": "fails in", "undecided": "undecided in", "invalid": "invalid in"}
LOST = 0.5  # of the base's target rate: more counts as pruned (PLAN)


def study_part(evidence: Evidence, keep: Callable) -> dict:
    """Everything that the template shows of the study; `keep(name, figure, text)` embeds a figure."""
    return {
        "signs": signs(evidence),
        "expectations": expectations(evidence),
        "answers": answers(evidence),
        "maps": list(_maps(evidence, keep)),
        "border": border_table(evidence),
        "arms": list(_arms(evidence, keep)),
        "language": [_language(place, keep) for place in evidence.places],
        "against": [line for place in evidence.places for line in against(place)],
        "fails": list(fails(evidence)),
        "not_run": not_run(evidence),
        "alignment_heads": HEADS,
        "short_signs": CLAIM_NAMES,
        "seeds": len(evidence.gaussians.seeds) if evidence.gaussians else 0,
    }


def signs(evidence: Evidence) -> dict:
    """One row a registered sign; a column for the language main experiment of each place and two for the Gaussians.

    A Gaussian column holds the main setting's verdict, and how many of all settings hold, are undecided, fail.
    """
    columns, cells = [], []
    for place in evidence.places:
        cell, run = plan.ARMS["main"].cells[0], place.main()
        columns.append(place.words)
        cells.append(_language_signs(run, cell))
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        columns.append(f"Gaussians, {algorithm.upper()}")
        cells.append(_gaussian_signs(evidence, algorithm))
    rows = []
    for place, claim in enumerate(CLAIMS):
        words = CLAIM_WORDS[claim.metric, claim.statistic]
        rows.append({"words": words, "cells": [column[place] for column in cells]})
    return {"columns": columns, "rows": rows}


def _language_signs(run: Mapping | None, cell: plan.Cell) -> list[dict]:
    if run is None:
        return [{"verdict": None, "text": NOT_RUN} for _ in CLAIMS]
    table = claims_table(summarise_run(run))
    if not complete(run, cell):
        so_far = f"{len(run['records'])} of {len(cell.seeds)} seeds: no verdict"
        return [
            {"verdict": None, "text": f"{so_far}. So far {_measured(row)}" if row["decided"] else _SHOWN}
            for row in table
        ]
    return [{**row, "text": _measured(row)} if row["decided"] else {"verdict": None, "text": _SHOWN} for row in table]


def _gaussian_signs(evidence: Evidence, algorithm: str) -> list[dict]:
    table = claims_table(evidence.gaussian(algorithm).summary)
    verdicts = [[claim["verdict"] for claim in held.summary["claims"]] for held in evidence.distinct(algorithm)]
    counts = [Counter(column) for column in zip(*verdicts, strict=True)]
    return [
        {**row, "text": _measured(row), "counts": ", ".join(f"{COUNTED[v]} {count[v]}" for v in COUNTED if count[v])}
        for row, count in zip(table, counts, strict=True)
    ]


def _measured(row: Mapping) -> str:
    told = f"{row['difference']} ({row['interval']})" if row["interval"] else row["difference"]
    return told if row["effect"] == "–" else f"{told}, g\u00a0=\u00a0{row['effect']}"


def _maps(evidence: Evidence, keep: Callable) -> Iterator[dict]:
    if evidence.map is None:
        return
    from alignkd_lab.report.study_figures import map_figure

    for algorithm in ALGORITHMS:
        text = (
            f"Where A-K leads under {algorithm.upper()}: reward of A-K minus that of K-A by the target's share and the "
            "KL weight, with the border that the closed form draws."
        )
        yield keep(f"study-map-{algorithm}", map_figure(evidence.map, algorithm), text)


def _arms(evidence: Evidence, keep: Callable) -> Iterator[dict]:
    if evidence.gaussians is None:
        return
    from alignkd_lab.report.study_figures import arm_figure, arm_metrics

    for name, arm in mog_study.ARMS.items():
        if any(evidence.gaussians.runs(name, algorithm) for algorithm in arm.algorithms):
            text = f"Reward of both orders and of the controls by {arm.label}."
            figure = keep(f"study-arm-{name}", arm_figure(evidence.gaussians, name), text)
            text = f"Reward, target precision, overall precision and overall recall of both orders by {arm.label}."
            metrics = keep(f"study-arm-{name}-metrics", arm_metrics(evidence.gaussians, name), text)
            rows = list(_arm_rows(evidence, name))
            yield {"label": arm.label, "figure": figure, "metrics": metrics, "rows": rows}


def _arm_rows(evidence: Evidence, arm: str) -> Iterator[dict]:
    for held in evidence.settings:
        if held.arm == arm:
            head = {"algorithm": held.algorithm.upper(), "value": f"{held.value:g}"}
            yield {**head, **_orders_row(held.run, held.summary)}


def _orders_row(run: Mapping, summary: Mapping) -> dict:
    """Both orders' reward, its variance, the paired difference and the verdict on every sign."""
    rewards = [mean(run, order) for order in ORDERS]
    return {
        "numbers": [mean_and_span(found) for found in (*rewards, difference(run, A_K, K_A))],
        "spread": tuple(number(_sd(run, order)) for order in ORDERS),
        "verdicts": [{"verdict": c["verdict"], "symbol": SYMBOLS[c["verdict"]]} for c in summary["claims"]],
        "seeds": len(run["records"]),
    }


def _language(place: Place, keep: Callable) -> dict:
    """The arms of the language part at one place: orders under moved settings, other pipelines, what stands beside."""
    main_cell = plan.ARMS["main"].cells[0]
    main = place.main()
    orders, others = [], []
    for arm in plan.ARMS.values():
        for cell in arm.cells:
            run = place.run(cell)
            if run is None:
                continue
            row = {"arm": arm.label, "value": cell.value, "seeds": len(run["records"]), "registered": len(cell.seeds)}
            row["complete"] = complete(run, cell)
            if set(ORDERS) <= set(cell.pipelines):
                orders.append({**row, **_language_row(run, cell)})
            else:
                others += [{**row, **_other_row(run, pipeline, main or run)} for pipeline in cell.pipelines]
    return {
        "words": place.words,
        "orders": orders,
        "others": others,
        "alignments": alignments_table(place),
        "alignment_figure": _alignment_figure(place, keep),
        "beside": metrics_table(_only_beside(main)) if main else None,
        "complete": complete(main, main_cell),
    }


def _alignment_figure(place: Place, keep: Callable) -> dict | None:
    from alignkd_lab.report.study_figures import alignment_figure

    figure = alignment_figure(place)
    text = "Mean reward on validation prompts against KL from the policy's own anchor, along every alignment on pairs."
    return figure and keep(f"study-alignments-{place.preset}-{place.device}", figure, text)


def _sd(run: Mapping, order: str) -> float:
    """Standard deviation of the reward over seeds; NaN for one."""
    values = list(by_seed(run, order).values())
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _language_row(run: Mapping, cell: plan.Cell) -> dict:
    row = _orders_row(run, summarise_run(run))
    return row if complete(run, cell) else {**row, "verdicts": [None] * len(CLAIMS)}


def _other_row(run: Mapping, pipeline: str, main: Mapping) -> dict:
    """A pipeline's reward, and its differences from both orders at the main settings."""
    style = pipeline_style(pipeline)
    found = [mean(run, pipeline), *(across(run, main, (pipeline, order)) for order in ORDERS)]
    texts = [mean_and_span(entry) if entry else ("–", "") for entry in found]
    return {"label": style.label, "colour": style.colour, "order": False, "numbers": texts}


def _only_beside(run: Mapping) -> dict:
    """The run's summary with the metrics of `BESIDE` alone."""
    summary = summarise_run(run)
    kept = {
        name: {metric: entry for metric, entry in metrics.items() if metric in BESIDE}
        for name, metrics in summary["pipelines"].items()
        if name in ("base", "base_aligned", "kd_only", *ORDERS)
    }
    return {**summary, "pipelines": kept}


def border_table(evidence: Evidence) -> dict | None:
    """How often the closed form names the winner, by algorithm and sharpening; None where there is no map."""
    if evidence.map is None:
        return None
    rows = [
        (
            f"{row.algorithm.upper()}, s = {row.sharpening:g}",
            f"{row.right} of {row.cells} ({100 * row.share:.0f} %)",
            *map(str, (row.named, row.missed, row.reversed, row.false_lead, row.wrong_lead)),
            *(f"{found} of {row.cells}" for found in (row.a_k_target, row.k_a_target)),
        )
        for row in foretold_rightly(evidence.map)
    ]
    return {"heads": _BORDER_HEADS, "rows": rows, "note": " ".join(study_map.__doc__.split("\n\n")[1].split())}


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
    answered.append((words, "; ".join(equals) or NOT_RUN))
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
        if not why_not(run, cell):
            gap = across(main, run, (A_K, pipeline))
            spent = _times_as_long(run, pipeline, main)
            yield f"{words}: {_equal(gap)}, A-K's lead {interval(*gap)}, {spent} times A-K's time"


def _times_as_long(run: Mapping, pipeline: str, main: Mapping) -> str:
    """A pipeline's typical seconds over those of A-K in the main run."""
    return f"{typical_cost(run, pipeline).seconds / typical_cost(main, A_K).seconds:.2f}"


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
        yield from _better_pipelines(place)
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
                    yield f"{where}: “{row['words']}” fails, {_measured(row)}."


def _better_pipelines(place: Place) -> Iterator[str]:
    """Other pipelines that earn more than A-K at the main settings: it is not the order, then."""
    main = place.main()
    if why_not(main, plan.ARMS["main"].cells[0]):
        return
    for arm in plan.ARMS.values():
        for cell in arm.cells:
            run = place.run(cell)
            for pipeline in cell.pipelines if not why_not(run, cell) else ():
                gap = across(run, main, (pipeline, A_K)) if not {pipeline, A_K} <= set(cell.pipelines) else None
                if gap and gap.low > 0:
                    label = pipeline_style(pipeline).label
                    yield f"{place.words}: “{label}” ({arm.label}) earns more than A-K, by {interval(*gap)}."


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


def not_run(evidence: Evidence) -> list[dict]:
    """Registered cells of the language part that lack seeds, by place; all of them where nothing was run anywhere."""
    rows = []
    for place in evidence.places or (None,):
        for cell in plan.cells():
            run = place.run(cell) if place else None
            if not complete(run, cell):
                rows.append(
                    {
                        "place": place.words if place else "SmolLM2",
                        "arm": plan.ARMS[cell.arm].label,
                        "value": cell.value,
                        "held": len(run["records"]) if run else 0,
                        "registered": len(cell.seeds),
                    }
                )
    return rows
