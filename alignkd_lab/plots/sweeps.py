"""Pictures of many runs: by the value of a setting, and as leads; `maps.map_figure` by the value of two.

They are given labels and `Records`; which runs belong together is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS
from alignkd_lab.plots.drawing import (
    INK,
    QUIET,
    Estimate,
    depth_line,
    estimates,
    legend,
    line,
    mark,
    panels,
    seed_points,
    themed,
    write,
)
from alignkd_lab.plots.figures import alignment_curves, mean_curve
from alignkd_lab.plots.style import metric_label, number, pipeline_style, shown
from alignkd_lab.plots.tables import differences
from alignkd_lab.recording import plain_settings
from alignkd_lab.records import Records
from alignkd_lab.stats import NAN, Interval, t_interval

SWEPT = ("reward", "target_rate", "overall_precision", "overall_recall")  # in the language world
FEW_SEEDS = 4  # with fewer the seeds are shown in place of their interval
_AT_ITS_REFERENCE = 0.1  # nats a response: the estimate at step 0 is rounding, unless the reference is another policy
_DASHES = ("-", "--", ":", "-.")
_IN_WORDS = ("", "dashed", "dotted", "dash-dotted")

Arm = Mapping[str, Mapping[float, Records]]  # by algorithm and value of a setting, a run


def by_value(records: Records, settings: Mapping[float, Any]) -> dict[str, dict[float, Records]]:
    """The runs that have these settings, by algorithm and value: `settings` is `{value: MogSettings}`."""
    wanted = {value: plain_settings(held) for value, held in settings.items()}
    found: dict[str, dict[float, Records]] = {}
    for run in records.runs.sort_values("algorithm", ascending=False).to_dict("records"):
        held = records.settings_of(run["run"])
        for value in [value for value, settings in wanted.items() if settings == held]:
            found.setdefault(run["algorithm"], {})[value] = records.select(run=run["run"])
    return {algorithm: dict(sorted(held.items())) for algorithm, held in found.items()}


@themed
def arm_figure(arm: Arm, label: str, *, logarithmic: bool = False) -> Figure:
    """Reward of both orders and, lighter, of the controls by the value of a setting, a panel an algorithm."""
    title, names = f"Reward by {label}", (*CONTROLS, *ORDERS)
    marks = "Small points: seeds of both orders; bars: 95 % t-intervals over seeds"
    note = depth_line([run for held in arm.values() for run in held.values()], "record", marks)
    figure, grid = panels(1, len(arm), (max(6.6, 4.9 * len(arm)), 4.6), title, note, share=True)
    for axis, (algorithm, held) in zip(grid[0], arm.items(), strict=True):
        _by_value(axis, held, "reward", names, logarithmic)
        axis.set(xlabel=label, ylabel=metric_label("reward", "mog") if axis is grid[0, 0] else "")
        axis.set_title(algorithm.upper(), pad=8)
    legend(figure, {name for held in arm.values() for name in _held(held.values(), names)})
    return figure


@themed
def leads_figure(
    rows: Sequence[tuple[str, Records, Records]],
    depth: str = "record",
    metrics: Sequence[str] = ("reward", "target_rate", "overall_precision"),
    marked: Sequence[int] = (),
) -> Figure:
    """A-K minus K-A, a row a setting, with its paired 95 % interval: the reward, and what it is made of.

    The interval has K-A's colour, A-K's, or grey where it contains 0.

    Args:
        rows: (label, the run of A-K, the run of K-A, which may be the same one).
        marked: rows to set apart, by a band behind them.
    """
    note = depth_line([k_a for *_, k_a in rows], depth, "Small points: seeds; bars: paired 95 % t-intervals")
    size = (3.7 + 2.65 * len(metrics), 0.21 * sum(2 + label.count("\n") for label, *_ in rows) + 1.7)
    title = "A-K minus K-A, by setting" + (": the reward, and what it is made of" if len(metrics) > 1 else "")
    figure, ((*axes,),) = panels(1, len(metrics), size, title, note)
    for axis, metric in zip(axes, metrics, strict=True):
        for place, (_, a_k, k_a) in enumerate(rows):
            _lead(axis, place, shown(metric, differences(a_k, k_a, metric)))
        for place in marked:
            axis.axhspan(place - 0.5, place + 0.5, color="#FFF3C4", zorder=0)
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_ylim(len(rows) - 0.4, -0.7)
        axis.set_yticks(range(len(rows)), [label for label, *_ in rows] if axis is axes[0] else [])
        axis.grid(axis="y", visible=False)
        world = rows[0][1].the_run()["world"]
        axis.set_title(metric_label(metric, world).replace("(%)", "(points)").replace(" (", "\n("), pad=8)
        axis.set_xlabel("← K-A more      A-K more →")
    return figure


def learning_rate(run: Records, pipeline: str) -> str:
    """At which the pipeline's alignment was trained, e.g. `0.0003`, or `0.0003 or 0.0006` where seeds differ."""
    rows = run.stages[(run.stages["pipeline"] == pipeline) & (run.stages["kind"] == "align")]
    return " or ".join(sorted({f"{rate:g}" for rate in rows["learning_rate"].dropna()}))


@themed
def sweep_figure(cells: Sequence[tuple[str, Records]], label: str, note: str = "") -> Figure:
    """What either order of the language world earns and pays by the value of a setting.

    Args:
        cells: (value as it is shown, its run), in their order.
        note: more for the last line.
    """
    note = f"{depth_line([run for _, run in cells], 'record')} {note}".rstrip()
    if any(len(run.seeds) < FEW_SEEDS for _, run in cells):
        note += f" Fewer than {FEW_SEEDS} seeds have no bar."
    for name, order in (("A-K", A_K), ("K-A", K_A)):
        rates = {value: learning_rate(run, order) for value, run in cells}
        if len(set(rates.values())) > 1:
            told = ", ".join(f"{rate} at {value}" for value, rate in rates.items())
            note += f" {name}'s learning rate, by the rule: {told}."
    title = f"What either order earns, and what it pays, by {label}"
    figure, (grid,) = panels(1, len(SWEPT), (12, 4.2), title, note)
    for axis, metric in zip(grid, SWEPT, strict=True):
        found = [_without_few(estimates(run, metric)) for _, run in cells]
        for name, shift in zip(ORDERS, (-0.08, 0.08), strict=True):
            line(axis, name, [(place + shift, held[name]) for place, held in enumerate(found) if name in held], 0.1)
        axis.set_title(metric_label(metric, "lm"), pad=8)
        axis.set_xticks(range(len(cells)), [value.replace(", ", ",\n") for value, _ in cells])
        axis.set_xlim(-0.5, len(cells) - 0.5)
        axis.set_xlabel(label)
    legend(figure, ORDERS)
    return figure


@themed
def alignment_figure(held: Sequence[tuple[Records, Sequence[str], str]]) -> Figure:
    """Reward against the KL from the policy's own reference along the alignments on pairs, means over seeds.

    A policy that starts away from its reference is left out, and so is one that had no pair to learn from in some
    seeds, which the note names.

    Args:
        held: (run, its pipelines that are drawn, what sets it apart, "" for nothing): each kind has its dashes.
    """
    drawn, left_out = [], ""
    for run, names, kind in held:
        for name, curves in alignment_curves(run).items():
            if name not in names or max(abs(curve[0, 0]) for curve in curves) >= _AT_ITS_REFERENCE:
                continue
            if len(curves) == len(run.seeds):
                drawn.append((run, name, kind, curves))
            else:
                of = f"{len(curves)} of {len(run.seeds)} seeds"
                left_out += f" Not drawn: “{pipeline_style(name).label}”, which had pairs in {of}."
    kinds = list(dict.fromkeys(["", *(kind for *_, kind, _ in drawn)]))
    words = "".join(f"; {_IN_WORDS[place]}: {kind}" for place, kind in enumerate(kinds) if kind)
    note = depth_line([run for run, *_ in drawn], "record", f"Thick: means over seeds{words}; thin: seeds") + left_out
    figure, ((axis,),) = panels(1, 1, (7.6, 5.2), "Reward along alignment, by how far it went", note)
    for _, name, kind, curves in drawn:
        draw_curves(axis, name, curves, _DASHES[kinds.index(kind)])
    axis.set_xlabel("KL from the policy's own reference (nats a response)")
    axis.set_ylabel("reward on validation prompts")
    legend(figure, {name for _, name, *_ in drawn})
    return figure


def draw_curves(axis: Axes, name: str, curves: Sequence[np.ndarray], dashes: str = "-") -> None:
    """A pipeline's curves [2, points], one a seed, thin, and their mean, whose end is marked."""
    look = {"color": pipeline_style(name).colour, "linestyle": dashes}
    for curve in curves:
        axis.plot(*curve, **look, alpha=0.2, linewidth=0.7)
    mean = mean_curve(curves)
    axis.plot(*mean, **look, linewidth=2.2)
    mark(axis, *mean[:, -1], name)


@themed
def split_figure(panels_of: Mapping[str, pd.DataFrame], note: str) -> Figure:
    """What the lead of A-K in logits of the target rate is made of, a panel a heading and a row a cell.

    Args:
        panels_of: by heading a table with `cell`, in reading order, `lead`, `alignment` and `distilling`, a row a seed
            (or a target); the last two sum to the lead.
    """
    parts = {"alignment": (pipeline_style(A_K).colour, "s"), "distilling": (pipeline_style(K_A).colour, "o"),
             "lead": (INK, "D")}  # fmt: skip
    words = {"alignment": "alignment moves the base further", "distilling": "distilling costs the aligned one less",
             "lead": "the lead, their sum"}  # fmt: skip
    most = max(table["cell"].nunique() for table in panels_of.values())
    title = "What the lead of A-K is made of"
    figure, (grid,) = panels(1, len(panels_of), (5.4 * len(panels_of), 0.62 * most + 2.2), title, note, share=True)
    for axis, (heading, table) in zip(grid, panels_of.items(), strict=True):
        cells = list(dict.fromkeys(table["cell"]))
        for (name, (colour, marker)), shift in zip(parts.items(), (-0.22, 0.0, 0.22), strict=True):
            for place, cell in enumerate(cells):
                found = t_interval(table.loc[table["cell"] == cell, name])
                axis.plot([found.low, found.high], [place + shift] * 2, color=colour, linewidth=2.6)
                axis.plot(found.estimate, place + shift, marker, color=colour, markersize=7, markeredgecolor="white")
            axis.plot([], [], marker, color=colour, label=words[name])
        axis.axvline(0, color=INK, linewidth=1)
        axis.set_yticks(range(len(cells)), cells)
        axis.set_ylim(len(cells) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_title(heading, pad=8)
        axis.set_xlabel("A-K minus K-A, target rate (logits)")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _lead(axis: Axes, row: int, values: np.ndarray) -> None:
    """Differences by seed with their interval, as one row of the picture of leads."""
    found = t_interval([*values])
    colour = _leader_colour(found)
    seed_points(axis, values, row + np.linspace(-0.2, 0.2, len(values)), colour)
    axis.plot([found.low, found.high], [row, row], color=colour, linewidth=3, zorder=3)
    axis.plot(found.estimate, row, "D", color=colour, markersize=7, markeredgecolor="white", zorder=4)
    write(axis, number(found.estimate, 2), (found.estimate, row), (0, 8), colour, ha="center", fontweight="bold")


def _leader_colour(lead: Interval) -> str:
    """A-K's colour, K-A's, or grey where the interval contains 0."""
    order = A_K if lead.low > 0 else K_A if lead.high < 0 else None
    return pipeline_style(order).colour if order else QUIET


def _without_few(found: dict[str, Estimate]) -> dict[str, Estimate]:
    """The estimates without the intervals of seeds that are too few for one: they would be all that is seen."""
    return {
        name: (span if values.size >= FEW_SEEDS else Interval(span.estimate, NAN, NAN), values)
        for name, (span, values) in found.items()
    }


def _held(runs: Iterable[Records], names: Sequence[str]) -> list[str]:
    present = {name for run in runs for name in run.pipelines}
    return [name for name in names if name in present]


def _by_value(axis: Axes, held: Mapping[float, Records], metric: str, names: Sequence[str], logarithmic: bool) -> None:
    """Lines of means with intervals over a setting's values, the controls lighter and below."""
    places = {value: np.log(value) if logarithmic else value for value in sorted(held)}
    step = np.diff(list(places.values())).min() if len(places) > 1 else 1.0
    found = {place: estimates(held[value], metric) for value, place in places.items()}
    for name in _held(held.values(), names):
        # The orders stand a little apart, so that intervals that overlap are both seen.
        shift = step * {ORDERS[0]: -0.06, ORDERS[-1]: 0.06}.get(name, 0.0)
        at = [(place + shift, each[name]) for place, each in found.items() if name in each]
        line(axis, name, at, 0.24 * step, faint=name not in ORDERS)
    axis.set_xticks(list(places.values()), [f"{value:g}" for value in places])


@themed
def leads_by_share(panels_of: Mapping[str, Sequence[tuple[str, float, Interval]]], depth_note: str) -> Figure:
    """A-K minus K-A in reward by the share of the target's rate that distilling leaves, a panel a world.

    Args:
        panels_of: by heading, `(group, share kept, lead)` of each setting; a group has its own marker.
    """
    title = "A-K minus K-A in reward, by how much of the target distilling leaves"
    figure, (grid,) = panels(1, len(panels_of), (10.5, 4.8), title, depth_note)
    for axis, (heading, points) in zip(grid, panels_of.items(), strict=True):
        groups = list(dict.fromkeys(group for group, *_ in points))
        for group, marker in zip(groups, "o^sDvPX", strict=False):
            for _, kept, span in (point for point in points if point[0] == group):
                colour = _leader_colour(span)
                axis.plot([kept, kept], [span.low, span.high], color=colour, linewidth=1.4, alpha=0.7)
                axis.plot(kept, span.estimate, marker, color=colour, markersize=6.5, markeredgecolor="white")
            axis.plot([], [], marker, color=QUIET, label=group)
        axis.axhline(0, color=INK, linewidth=1)
        shares = [kept for _, kept, _ in points]
        if min(shares) < 0.05:  # some settings leave next to nothing
            axis.set_xscale("symlog", linthresh=0.01)
            axis.set_xlim(-0.003, 1.5 * max(shares))
        ticks = [0, 0.01, 0.1, 1] if min(shares) < 0.05 else [0, 0.5, 1, 1.5, 2]
        axis.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axis.minorticks_off()
        axis.set_title(heading, pad=8)
        axis.set_xlabel("target's rate after distilling, of the base's")
        axis.legend(loc="lower left" if min(shares) < 0.05 else "upper right")
    grid[0].set_ylabel("reward: A-K minus K-A")
    return figure
