"""What each alignment on pairs had to learn from, how far it went, and what it earned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alignkd_lab.pipelines import K_A
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.report.evidence import Place, alignments, mean
from alignkd_lab.report.tables import mean_and_span
from alignkd_lab.stats import t_interval
from alignkd_lab.study import plan

HEADS = (
    "seeds",
    "target among samples (%)",
    "informative pairs",
    "KL from its reference before",
    "KL after",
    "target rate after (validation, %)",
    "reward (test)",
)
# The arms whose alignments are shown, with the pipelines that learn from pairs where not all of their cells' do.
_FROM_PAIRS = {
    "main": ("base_aligned", K_A),
    "controls": (),
    "targets": ("base_aligned", K_A),
    "methods": ("align_student_only",),
    "equal_compute": (),
    "learning_rate": (),
    "learning_rate_both": ("base_aligned",),
}


def each_alignment(place: Place) -> Iterator[tuple[plan.Cell, dict, tuple[str, ...]]]:
    """(cell, its run, pipelines) of what was run: K-A at the main settings, its controls and kin under other ones."""
    for cell in (cell for arm in _FROM_PAIRS for cell in plan.ARMS[arm].cells):
        run = place.run(cell)
        if run:
            yield cell, run, _FROM_PAIRS[cell.arm] or cell.pipelines


def alignments_table(place: Place) -> list[dict]:
    """The rows of `alignment_rows` for `each_alignment`."""
    rows = []
    for cell, run, names in each_alignment(place):
        where = "" if cell.value == plan.AS_REGISTERED else f"{plan.ARMS[cell.arm].label}: {cell.value}"
        rows += [{**row, "where": where} for row in alignment_rows(run, names)]
    return rows


def alignment_rows(run: Mapping, names: Sequence[str]) -> list[dict]:
    """One row a pipeline whose last alignment learnt from pairs; A-K's is that of `base_aligned`.

    `numbers`: (mean, 95 % interval) under `HEADS[1:]`, KL in nats a response. A policy that had no pair stayed at its
    reference.
    """
    rows = []
    for name in names:
        infos = [info for _, info in alignments(run, name) if "target_responses" in info]
        if infos:
            found = [*map(t_interval, _columns(infos)), mean(run, name)]
            style = pipeline_style(name)
            head = {"label": style.label, "colour": style.colour, "order": False, "seeds": len(infos)}
            rows.append({**head, "numbers": [mean_and_span(each) for each in found]})
    return rows


def _columns(infos: Sequence[Mapping]) -> Iterator[list[float]]:
    drawn = [100 * info["target_responses"] / info["responses"] for info in infos]
    yield drawn
    yield [info["informative_pairs"] for info in infos]
    for end in (0, -1):
        yield [info["curve"][end]["kl"] if info["curve"] else 0.0 for info in infos]
    # Where nothing was learnt the curve is empty: the samples of the pairs say the rate.
    yield [
        100 * info["curve"][-1]["target_rate"] if info["curve"] else rate
        for info, rate in zip(infos, drawn, strict=True)
    ]
