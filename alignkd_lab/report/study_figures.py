"""Pictures of the study: Gaussian arms and map with the closed form's boundary; on SmolLM2 leads and alignments."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.costs import stages_of
from alignkd_lab.course.explorers.boundary_map import draw_key, draw_lead
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import (
    DEPTH,
    INK,
    QUIET,
    Estimate,
    depth_line,
    estimates,
    legend,
    line,
    mark,
    panels,
    pipelines_of,
    seed_points,
    themed,
    write,
)
from alignkd_lab.plots.figures import alignment_curves, mean_curve
from alignkd_lab.plots.style import metric_label, number, pipeline_style, shown
from alignkd_lab.report.alignments import each_alignment
from alignkd_lab.report.evidence import Place, leads, sampled_rates
from alignkd_lab.report.tables import FEW_SEEDS
from alignkd_lab.stats import NAN, Interval, t_interval
from alignkd_lab.study import plan
from alignkd_lab.study.boundary import Boundary
from alignkd_lab.study.gaussian_map import predicted_rightly, shows_target
from alignkd_lab.study.gaussians import ARMS, Study
from alignkd_lab.study.lead import lead

METRICS = ("reward", "target_precision", "overall_precision", "overall_recall")
SWEPT = ("reward", "target_rate", "overall_precision", "overall_recall")  # in the language world
_INTERVALS = "Bars: 95 % t-intervals over seeds"
_MAP_NOTE = (
    "Colour: mean reward of A-K minus that of K-A; grey where the paired 95 % interval over seeds holds zero. "
    "▲ A-K, ● K-A shows the target in more than half of its draws, on average over seeds. "
    "The lines predict A-K at or right of the solid and left of the dashed one, else no leader: titles say in how "
    "many cells it came so."
)
_AT_ITS_REFERENCE = 0.1  # nats a response: the estimate at step 0 is rounding, unless the reference is another policy
_OTHER_RATE = ("--", "dashed: twice the learning rate")
_LINES = {"equal_compute": (":", "dotted: K-A with A-K's compute")}
# Arms whose values are ratios; the others' are counts, shares from 0 on, or cuts.
_LOGARITHMIC = ("target_weight", "beta", "sharpening")


@themed
def arm_figure(study: Study, arm: str, depth: str = "record") -> Figure:
    """Reward of both orders and, lighter, of the controls by the value of an arm's setting, a panel an algorithm."""
    runs = {algorithm: study.runs(arm, algorithm) for algorithm in ARMS[arm].algorithms}
    title, note = f"Reward by {ARMS[arm].label}", _note(runs, depth)
    figure, grid = panels(1, len(runs), (max(6.6, 4.9 * len(runs)), 4.6), title, note, share=True)
    for axis, (algorithm, held) in zip(grid[0], runs.items(), strict=True):
        _arm(axis, held, "reward", (*CONTROLS, *ORDERS), arm)
        axis.set_title(algorithm.upper(), pad=8)
        axis.set_ylabel(metric_label("reward", "mog") if axis is grid[0, 0] else "")
    legend(figure, {name for held in runs.values() for name in _shown(held, (*CONTROLS, *ORDERS))})
    return figure


@themed
def arm_metrics(study: Study, arm: str, depth: str = "record") -> Figure:
    """Reward, target precision, overall precision and overall recall of both orders by an arm's setting."""
    runs = {algorithm: study.runs(arm, algorithm) for algorithm in ARMS[arm].algorithms}
    title, note = f"What either order earns, and what it pays, by {ARMS[arm].label}", _note(runs, depth)
    figure, grid = panels(len(runs), len(METRICS), (12, 2.9 * len(runs) + 1.5), title, note)
    for row, (algorithm, held) in zip(grid, runs.items(), strict=True):
        for axis, metric in zip(row, METRICS, strict=True):
            _arm(axis, held, metric, ORDERS, arm)
            axis.set_title(f"{algorithm.upper()}: {metric_label(metric, 'mog')}", pad=8)
            axis.set_xlabel(axis.get_xlabel() if axis in grid[-1] else "")
    legend(figure, ORDERS)
    return figure


@themed
def map_figure(held: Boundary, algorithm: str, depth: str = "record") -> Figure:
    """Who leads by the target's share and the KL weight, a panel a sharpening, with the boundary drawn through."""
    grid = held.grid
    note = f"{DEPTH[depth]}. Gaussian world: laptop preset, {len(grid.seeds)} seeds a cell. {_MAP_NOTE}"
    figure = plane.canvas((10.0, 5.2), f"Where the order matters: {algorithm.upper()}", note)
    place, rows = grid.algorithms.index(algorithm), {row[:2]: row for row in predicted_rightly(held)}
    maps = [lead(held, algorithm, sharpening) for sharpening in grid.sharpenings]
    for column, data in enumerate(maps):
        axis = plane.axes(figure, 0.68 + 3.12 * column, 1.75, 2.9, 2.6)
        draw_lead(axis, data, 6.0, shows_target(held, (place, column)))
        row = rows[algorithm, data.sharpening]
        said = f"predicted as measured: {row.right} of {row.cells} ({100 * row.share:.0f} %)"
        axis.set_title(f"sharpening s = {data.sharpening:g}\n{said}", pad=6, fontsize=9.5)
        axis.set_ylabel("KL weight, β" if column == 0 else "")
        if column:
            axis.set_yticklabels([])
    draw_key(figure, 0.68, 0.95, maps)
    return figure


@themed
def leads_figure(place: Place, depth: str = "record") -> Figure | None:
    """A-K minus K-A in every setting that either order was moved to, by target, with its paired 95 % interval.

    The reward, and what it is made of: the target rate, and how likely the truth finds the text. The interval has
    K-A's colour, A-K's, or grey where it holds 0. Cells that lack seeds or whose checks failed are left out; None where
    none is left. Where one order alone was moved, the other is its partner's.
    """
    held = [(cell, *found) for cell in plan.cells() if (found := place.orders(cell))]
    held.sort(key=lambda entry: plan.TARGETS.index(plan.settings_of(entry[0]).target))
    if not held:
        return None
    note = depth_line([k_a for *_, k_a in held], depth, "Small points: seeds; bars: paired 95 % t-intervals")
    size = (11.6, 0.62 * len(held) + 1.7)
    figure, ((*axes,),) = panels(1, 3, size, "A-K minus K-A, by setting: the reward, and what it is made of", note)
    for axis, metric in zip(axes, ("reward", "target_rate", "overall_precision"), strict=True):
        for row, (_, a_k, k_a) in enumerate(held):
            _lead(axis, row, np.array([shown(metric, value) for value in leads(a_k, k_a, metric).values()]))
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_ylim(len(held) - 0.4, -0.7)
        axis.set_yticks(range(len(held)), [_in_words(*entry) for entry in held] if axis is axes[0] else [])
        axis.grid(axis="y", visible=False)
        axis.set_title(metric_label(metric, "lm").replace("(%)", "(points)").replace(" (", "\n("), pad=8)
        axis.set_xlabel("← K-A more      A-K more →")
    return figure


def _lead(axis: Axes, row: int, values: np.ndarray) -> None:
    """Differences by seed with their interval, as one row of the picture of leads."""
    found = t_interval([*values])
    order = A_K if found.low > 0 else K_A if found.high < 0 else None
    colour = pipeline_style(order).colour if order else QUIET
    seed_points(axis, values, row + np.linspace(-0.2, 0.2, len(values)), colour)
    axis.plot([found.low, found.high], [row, row], color=colour, linewidth=3, zorder=3)
    axis.plot(found.estimate, row, "D", color=colour, markersize=7, markeredgecolor="white", zorder=4)
    write(axis, number(found.estimate, 2), (found.estimate, row), (0, 8), colour, ha="center", fontweight="bold")


def _without_few(found: dict[str, Estimate]) -> dict[str, Estimate]:
    """The estimates without the intervals of seeds that are too few for one: they would be all that is seen."""
    return {
        name: (span if values.size >= FEW_SEEDS else Interval(span.estimate, NAN, NAN), values)
        for name, (span, values) in found.items()
    }


def _in_words(cell: plan.Cell, a_k: Mapping, k_a: Mapping) -> str:
    """A setting as a row's heading: the target, what was moved, and the learning rate of either order."""
    registered = plan.registered(cell)
    if plan.settings_of(cell) == plan.settings_of(registered) and cell.algorithm == registered.algorithm:
        share = 100 * np.mean([*sampled_rates(a_k, "base_aligned").values()])
        what = f"{number(share, 2)} % of the base's samples"
    elif "align_learning_rates" in cell.changes:
        what = "another rate (exploratory)"
        what = f"{_named(plan.partner(cell))}, {what}" if cell.beside else what
    else:
        what = _named(cell)
    rates = [_learning_rate(a_k, A_K, 0), _learning_rate(k_a, K_A, -1)]
    told = f"learning rate {rates[0]} for both" if rates[0] == rates[1] else f"A-K at {rates[0]}, K-A at {rates[1]}"
    return "\n".join([*textwrap.wrap(f"{a_k['target']}, {what}", 44), told])


def _named(cell: plan.Cell) -> str:
    setting, comma, seeds = plan.ARMS[cell.arm].label.partition(", ")
    return f"{setting}: {cell.value}".removesuffix(f": {plan.AS_REGISTERED}") + comma + seeds


def _learning_rate(run: Mapping, pipeline: str, stage: int) -> str:
    held = {f"{stages_of(record, pipeline)[stage]['info']['learning_rate']:g}" for record in run["records"]}
    return " or ".join(sorted(held))


@themed
def sweep_figure(place: Place, arm: str, depth: str = "record") -> Figure | None:
    """What either order earns and pays by the value of a setting, with the main experiment's between the others.

    Seeds that were registered later for a value stand beside it. None where no seed of the arm was run.
    """
    held = []
    for cell, run in place.by_value(arm).items():
        later = [(f"{cell.value}, new seeds", place.run(other)) for other in plan.new_seeds(cell)]
        held += [(value, run) for value, run in [(cell.value, run), *later] if run]
    if not held:
        return None
    words = plan.ARMS[arm].label
    note = depth_line([run for _, run in held], depth)
    if plan.ARMS[arm].at_main in dict(held):
        note += f" The main experiment has {plan.ARMS[arm].at_main}."
    if any(len(run["records"]) < FEW_SEEDS for _, run in held):
        note += f" Fewer than {FEW_SEEDS} seeds have no bar."
    for label, order, stage in (("A-K", A_K, 0), ("K-A", K_A, -1)):
        rates = {value: _learning_rate(run, order, stage) for value, run in held}
        if len(set(rates.values())) > 1:
            told = ", ".join(f"{rate} at {value}" for value, rate in rates.items())
            note += f" {label}'s learning rate, by the rule: {told}."
    figure, (grid,) = panels(1, len(SWEPT), (12, 4.2), f"What either order earns, and what it pays, by {words}", note)
    for axis, metric in zip(grid, SWEPT, strict=True):
        found = [_without_few(estimates(run, metric)) for _, run in held]
        for name, shift in zip(ORDERS, (-0.08, 0.08), strict=True):
            line(axis, name, [(place + shift, found[place][name]) for place in range(len(held))], 0.1)
        axis.set_title(metric_label(metric, "lm"), pad=8)
        axis.set_xticks(range(len(held)), [value.replace(", ", ",\n") for value, _ in held])
        axis.set_xlim(-0.5, len(held) - 0.5)
        axis.set_xlabel(words)
    legend(figure, ORDERS)
    return figure


@themed
def alignment_figure(place: Place, depth: str = "record") -> Figure | None:
    """Reward against the KL from the policy's own reference along the alignments on pairs, means over seeds.

    For the main target; dashed where the learning rate is not the registered one, dotted with A-K's compute. A policy
    that starts away from its reference is left out, and so is one that had no pair to learn from in some seeds, which
    the note names; None where no alignment is left.
    """
    held, left_out = [], ""
    for cell, run, names in each_alignment(place):
        for name, curves in alignment_curves(run).items() if "target" not in cell.changes else ():
            if name not in names or max(abs(curve[0, 0]) for curve in curves) >= _AT_ITS_REFERENCE:
                continue
            if len(curves) == len(run["records"]):
                held.append((cell, run, name, curves))
            else:
                of = f"{len(curves)} of {len(run['records'])} seeds"
                left_out += f" Not drawn: “{pipeline_style(name).label}”, which had pairs in {of}."
    if not held:
        return None
    lines = {cell.arm: _LINES.get(cell.arm, _OTHER_RATE) if cell.changes else ("-", "") for cell, *_ in held}
    kinds = "".join(f"; {words}" for words in dict.fromkeys(words for _, words in lines.values() if words))
    marks = f"Thick: means over seeds{kinds}; thin: seeds"
    note = depth_line([run for _, run, *_ in held], depth, marks) + left_out
    figure, ((axis,),) = panels(1, 1, (7.6, 5.2), "Reward along alignment, by how far it went", note)
    for cell, _, name, curves in held:
        look = {"color": pipeline_style(name).colour, "linestyle": lines[cell.arm][0]}
        for curve in curves:
            axis.plot(*curve, **look, alpha=0.2, linewidth=0.7)
        kl, reward = mean_curve(curves)
        axis.plot(kl, reward, **look, linewidth=2.2)
        mark(axis, kl[-1], reward[-1], name)
    axis.set_xlabel("KL from the policy's own reference (nats a response)")
    axis.set_ylabel("reward on validation prompts")
    legend(figure, {name for _, _, name, _ in held})
    return figure


def _note(runs: Mapping[str, Mapping[float, dict]], depth: str) -> str:
    return depth_line([run for held in runs.values() for run in held.values()], depth, _INTERVALS)


def _shown(held: Mapping[float, dict], names: Sequence[str]) -> list[str]:
    present = {name for run in held.values() for name in pipelines_of(run)}
    return [name for name in names if name in present]


def _arm(axis: Axes, held: Mapping[float, dict], metric: str, names: Sequence[str], arm: str) -> None:
    """Lines of means with intervals over an arm's values, the controls lighter and below."""
    values = np.array(sorted(held), dtype=float)
    logarithmic = arm in _LOGARITHMIC
    places = np.log(values) if logarithmic else values
    step = np.diff(places).min() if len(places) > 1 else 1.0
    found = [estimates(held[value], metric) for value in values]
    for name in _shown(held, names):
        order = name in ORDERS
        # The orders stand a little apart, so that intervals that overlap are both seen.
        at = places + step * {ORDERS[0]: -0.06, ORDERS[-1]: 0.06}.get(name, 0.0)
        x = np.exp(at) if logarithmic else at
        spans = np.array([estimate[name][0] for estimate in found])
        look = {"color": pipeline_style(name).colour, "alpha": 1.0 if order else 0.55, "zorder": 3 if order else 2}
        axis.plot(x, spans[:, 0], linewidth=1.9 if order else 1.1, **look)
        axis.vlines(x, spans[:, 1], spans[:, 2], linewidth=2.6 if order else 1.6, **look)
        for place, mean in zip(x, spans[:, 0], strict=True):
            mark(axis, place, mean, name, 7 if order else 4.5)
    if logarithmic:
        axis.set_xscale("log")
    axis.set_xticks(values, [f"{100 * value:g} %" if _is_share(arm) else f"{value:g}" for value in values])
    axis.minorticks_off()
    axis.set_xlabel(ARMS[arm].label)


def _is_share(arm: str) -> bool:
    return arm in ("target_weight", "dpo_label_noise")
