"""What each alignment on pairs had to learn from, how far it went, and what it earned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alignkd_lab.lm import plan
from alignkd_lab.metrics import K_A, t_interval
from alignkd_lab.report.evidence import Place, alignments, mean
from alignkd_lab.style import number, pipeline_style

HEADS = (
    "seeds",
    "target among samples (%)",
    "informative pairs",
    "KL from its anchor before",
    "KL after",
    "target rate after (validation, %)",
    "reward (test)",
)
_ARMS = ("main", "controls", "methods", "learning_rate")


def alignments_table(place: Place) -> list[dict]:
    """One row a pipeline whose last alignment learnt from pairs; A-K's is that of the aligned base. Means, spans.

    KL in nats a response. A policy that had no pair stayed where it was, at its anchor.
    """
    return [
        {
            "label": pipeline_style(name).label,
            "colour": pipeline_style(name).colour,
            "order": False,
            "where": "" if cell.value == plan.AS_REGISTERED else f"{plan.ARMS[cell.arm].label}: {cell.value}",
            "seeds": len(infos),
            "numbers": [_shown(values) for values in _columns(infos)] + [_of(mean(run, name))],
        }
        for cell, name, run, infos in _aligned(place)
    ]


def _aligned(place: Place) -> Iterator[tuple[plan.Cell, str, Mapping, list[dict]]]:
    for cell in (cell for arm in _ARMS for cell in plan.ARMS[arm].cells):
        run = place.run(cell)
        for name in ("base_aligned", K_A) if cell.arm == "main" else cell.pipelines:
            infos = [info for _, info in alignments(run, name) if "target_responses" in info] if run else []
            if infos:
                yield cell, name, run, infos


def _columns(infos: Sequence[Mapping]) -> Iterator[list[float]]:
    yield [100 * info["target_responses"] / info["responses"] for info in infos]
    yield [info["informative_pairs"] for info in infos]
    for end in (0, -1):
        yield [info["curve"][end]["kl"] if info["curve"] else 0.0 for info in infos]
    # Where nothing was learnt, the curve is empty: the samples of the pairs say the rate.
    yield [
        100 * (info["curve"][-1]["target_rate"] if info["curve"] else info["target_responses"] / info["responses"])
        for info in infos
    ]


def _shown(values: Sequence[float]) -> tuple[str, str]:
    return _of(t_interval(values))


def _of(found) -> tuple[str, str]:
    return number(found.estimate), f"{number(found.low)} to {number(found.high)}"
