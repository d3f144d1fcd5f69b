"""The study's part of the page: registered signs and verdicts, maps, arms, answers, failures, what was not run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.report.alignments import HEADS, alignments_table
from alignkd_lab.report.answers import answers
from alignkd_lab.report.evidence import Evidence, Place, across, complete, difference, mean
from alignkd_lab.report.expectations import expectations
from alignkd_lab.report.failures import against, fails
from alignkd_lab.report.signs import signs
from alignkd_lab.report.tables import CLAIM_NAMES, SYMBOLS, mean_and_span, metrics_table
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.study import gaussian_map as study_map
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan
from alignkd_lab.study.gaussian_map import predicted_rightly

# What a policy did besides earning: the reward did not ask for any of it, or only for a part.
BESIDE = ("target_rate", "reward_bare", "second_rule_rate", "fluency", "length", "distinct_responses", "distinct_2",
          "entropy", "kl_to_truth")  # fmt: skip
_BOUNDARY_HEADS = (
    "map",
    "predicted as measured",
    "leads predicted",
    "A-K leads, not predicted",
    "K-A leads, no lead predicted",
    "predicted lead, none found",
    "predicted lead, K-A leads",
    "target found by A-K as predicted",
    "target found by K-A as predicted",
)


def study_part(evidence: Evidence, keep: Callable) -> dict:
    """Everything that the template shows of the study; `keep(name, figure, text)` embeds a figure."""
    return {
        "signs": signs(evidence),
        "expectations": expectations(evidence),
        "answers": answers(evidence),
        "maps": list(_maps(evidence, keep)),
        "boundary": boundary_table(evidence),
        "arms": list(_arms(evidence, keep)),
        "language": [_language(place, keep) for place in evidence.places],
        "against": [line for place in evidence.places for line in against(place)],
        "fails": list(fails(evidence)),
        "not_run": not_run(evidence),
        "alignment_heads": HEADS,
        "short_signs": CLAIM_NAMES,
        "seeds": len(evidence.gaussians.seeds) if evidence.gaussians else 0,
    }


def _maps(evidence: Evidence, keep: Callable) -> Iterator[dict]:
    if evidence.map is None:
        return
    from alignkd_lab.report.study_figures import map_figure

    for algorithm in ALGORITHMS:
        text = (
            f"Where A-K leads under {algorithm.upper()}: reward of A-K minus that of K-A by the target's share and the "
            "KL weight, with the boundary that the closed form draws."
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
            yield {**head, **_orders_row(held.run, held.summary, verdicts=arm in mog_study.REGISTERED)}


def _orders_row(run: Mapping, summary: Mapping, verdicts: bool) -> dict:
    """Both orders' reward, its spread, the paired difference and, if asked for, the verdict on every sign."""
    claims = summary["claims"]
    rewards = [mean(run, order) for order in ORDERS]
    return {
        "numbers": [mean_and_span(found) for found in (*rewards, difference(run, A_K, K_A))],
        "spread": tuple(number(_sd(run, order)) for order in ORDERS),
        "verdicts": [
            {"verdict": claim["verdict"], "symbol": SYMBOLS[claim["verdict"]]} if verdicts else None for claim in claims
        ],
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
                partner = plan.partner(cell)
                row["against"] = f"{plan.ARMS[cell.beside].label} {partner.value}" if cell.beside else ""
                beside = place.run(partner) or run
                others += [{**row, **_other_row(run, pipeline, beside)} for pipeline in cell.pipelines]
    return {
        "words": place.words,
        "orders": orders,
        "leads_figure": _figure(place, keep, "leads"),
        "sweeps": list(_sweeps(place, keep)),
        "others": others,
        "alignments": alignments_table(place),
        "alignment_figure": _figure(place, keep, "alignments"),
        "beside": metrics_table(_only_beside(main)) if main else None,
        "complete": complete(main, main_cell),
    }


def _figure(place: Place, keep: Callable, kind: str) -> dict | None:
    from alignkd_lab.report import study_figures

    draw, text = {
        "leads": (study_figures.leads_figure, "A-K minus K-A by setting: reward, target rate, overall precision."),
        "alignments": (
            study_figures.alignment_figure,
            "Mean reward on validation prompts against KL from the policy's own reference, along the alignments on "
            "pairs "
            "that start at it.",
        ),
    }[kind]
    figure = draw(place)
    return figure and keep(f"study-{kind}-{_file_name(place)}", figure, text)


def _sweeps(place: Place, keep: Callable) -> Iterator[dict]:
    from alignkd_lab.report.study_figures import sweep_figure

    for name, arm in plan.ARMS.items():
        # Targets have no order that a line could follow.
        figure = sweep_figure(place, name) if arm.at_main and name != "targets" else None
        if figure:
            text = f"Reward, target rate, overall precision and overall recall of both orders by {arm.label}."
            yield keep(f"study-arm-{name}-{_file_name(place)}", figure, text)


def _file_name(place: Place) -> str:
    return f"{place.preset}-{place.device.replace(', ', '-')}"


def _sd(run: Mapping, order: str) -> float:
    """Standard deviation of the reward over seeds; NaN for one."""
    values = list(by_seed(run, order).values())
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _language_row(run: Mapping, cell: plan.Cell) -> dict:
    return _orders_row(run, summarise_run(run), verdicts=complete(run, cell) and cell.arm not in plan.EXPLORATORY)


def _other_row(run: Mapping, pipeline: str, beside: Mapping) -> dict:
    """A pipeline's reward, and its differences from both orders in the run that stands beside it."""
    style = pipeline_style(pipeline)
    found = [mean(run, pipeline), *(across(run, beside, (pipeline, order)) for order in ORDERS)]
    texts = [mean_and_span(entry) if entry else ("–", "") for entry in found]
    return {"label": style.label, "colour": style.colour, "order": False, "numbers": texts}


def _only_beside(run: Mapping) -> dict:
    """The run's summary with the metrics of `BESIDE` alone, of every pipeline that all its seeds hold."""
    summary = summarise_run(run)
    kept = {
        name: {metric: entry for metric, entry in metrics.items() if metric in BESIDE}
        for name, metrics in summary["pipelines"].items()
        if len(metrics["reward"]["seeds"]) == len(run["records"])
    }
    return {**summary, "pipelines": kept}


def boundary_table(evidence: Evidence) -> dict | None:
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
        for row in predicted_rightly(evidence.map)
    ]
    return {"heads": _BOUNDARY_HEADS, "rows": rows, "note": " ".join(study_map.__doc__.split("\n\n")[1].split())}


def not_run(evidence: Evidence) -> list[dict]:
    """Cells of the language part that lack seeds of the plan's, by place; all where nothing was run anywhere."""
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
