"""Pictures of runs. Each function takes `Records`, one run or a panel (or row) for each of several, in reading
order or in that of a sequence, and returns a Figure.

Figures carry a white ground of their own, so that they read the same on a dark page, and a last line that
says how deep the evidence is: a recorded run, a live one or the tiny preset, with how many seeds.
Nothing is drawn through pyplot: no figure stays open behind the caller's back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alignkd_lab.pipelines import A_K, K_A, ORDERS, reading_order
from alignkd_lab.plots.drawing import (
    depth_line,
    estimates,
    legend,
    line,
    log_scale_if_wide,
    panels,
    row_places,
    rows_of_intervals,
    run_title,
    themed,
    write,
)
from alignkd_lab.plots.style import metric_label, number, pipeline_style
from alignkd_lab.records import Records

FOUR_METRICS = ("reward", "target_precision", "overall_precision", "overall_recall")
Runs = Records | Sequence[Records]
_ROUTES = {K_A: ("base", "kd_only", K_A), A_K: ("base", "base_aligned", A_K)}
_VERBS = {K_A: ("distil", "align"), A_K: ("align", "distil")}


@themed
def title_figure(
    records: Runs,
    depth: str = "record",
    metrics: Sequence[str] = ("reward", "target_precision", "target_rate"),
    title: str = "Align first, or distil first?",
) -> Figure:
    """Reward, target precision and target rate, or other `metrics`, by pipeline, one row of panels per run."""
    return _rows(_runs(records), metrics, (10, 0.28, 1.15), title, depth)


@themed
def four_metrics(
    records: Runs, depth: str = "record", title: str = "What either order earns, and what it pays"
) -> Figure:
    """Reward, target precision, overall precision and overall recall by pipeline, one row of panels per run."""
    runs = _runs(records)
    figure = _rows(runs, FOUR_METRICS, (11, 0.30, 1.3), title, depth)
    for axis, (run, metric) in zip(figure.axes, itertools.product(runs, FOUR_METRICS), strict=True):
        if log_scale_if_wide(axis, [value for _, values in estimates(run, metric).values() for value in values]):
            axis.set_xlabel(axis.get_xlabel().replace(")", ", log)"))
        else:
            axis.locator_params(axis="x", nbins=4)  # narrow panels, and numbers of up to six signs
    return figure


def _rows(
    runs: Sequence[Records], metrics: Sequence[str], inches: tuple[float, float, float], title: str, depth: str
) -> Figure:
    """A row of panels per run; `inches`: the figure's width, a pipeline's height, and what a row of panels adds."""
    width, each, more = inches
    heights = [each * max(row_places(run.pipelines).values()) + more for run in runs]
    size = (width, sum(heights) + 0.9)
    figure, grid = panels(len(runs), len(metrics), size, title, depth_line(runs, depth), heights)
    for run, axes in zip(runs, grid, strict=True):
        for axis, metric in zip(axes, metrics, strict=True):
            rows_of_intervals(axis, run, metric, labels=axis is axes[0])
        axes[0].set_title(run_title(run), pad=10)
    return figure


@themed
def target_through_stages(records: Runs, depth: str = "record") -> Figure:
    """How often the target is shown before, between and after the two stages of either order."""
    runs, title = _runs(records), "The target's rate through the stages"
    figure, grid = panels(1, len(runs), (10 if len(runs) > 1 else 5.8, 4.9), title, depth_line(runs, depth))
    for run, axis in zip(runs, grid[0], strict=True):
        axis.set_title(run_title(run), pad=10)
        found = estimates(run, "target_rate")
        highest = max((estimate.estimate for estimate, _ in found.values()), default=0.0)
        for shift, order in zip((-0.04, 0.04), ORDERS, strict=True):
            steps = [(step, name) for step, name in enumerate(_ROUTES[order]) if name in found]
            line(axis, order, [(step + shift, found[name]) for step, name in steps], width=0.05)
            means = [found[name][0].estimate for _, name in steps]
            for place, (step, _) in enumerate(steps[1:], 1):
                mean, text = means[place], _VERBS[order][step - 1]
                # A line that climbs on from here would run through words above the point.
                climbs = means[-1] > mean + 0.1 * highest
                colour = pipeline_style(order).colour
                write(axis, f"{text}: {number(mean, 2)} %", (step + shift, mean), (5, -14 if climbs else 7), colour)
        axis.set_xticks(range(3), ["base", "after the\nfirst stage", "after the\nsecond stage"])
        axis.set_ylabel(metric_label("target_rate", run.the_run()["world"]))
        axis.set_xlim(-0.25, 2.7)
        axis.margins(y=0.12)  # room for words below a point
        axis.grid(axis="x", visible=False)
    legend(figure, ORDERS)
    return figure


@themed
def reward_by_sharpening(records: Runs, depth: str = "record") -> Figure:
    """Reward of both orders against the teacher's sharpening, a panel per algorithm and KL weight.

    The records are of Gaussian runs that differ in their settings; seeds are the small points.
    """
    runs = {(run.the_run()["algorithm"], run.settings["beta"], run.settings["sharpening"]): run
            for run in _runs(records)}  # fmt: skip
    algorithms, betas = sorted({key[0] for key in runs}, reverse=True), sorted({key[1] for key in runs})
    size = (max(6.0, 4.6 * len(algorithms)), 2.8 * len(betas) + 1.8)
    title, note = "Reward by sharpening of the teacher", depth_line(runs.values(), depth)
    figure, grid = panels(len(betas), len(algorithms), size, title, note, share=True)
    for axis, (beta, algorithm) in zip(grid.flat, itertools.product(betas, algorithms), strict=True):
        cells = {at[2]: estimates(runs[at], "reward") for at in sorted(runs) if at[:2] == (algorithm, beta)}
        for shift, order in zip((-0.04, 0.04), ORDERS, strict=True):
            line(axis, order, [(s + shift, found[order]) for s, found in cells.items() if order in found], width=0.06)
        axis.set_xticks(list(cells), [f"{s:g}" for s in cells])
        axis.set_title(f"{algorithm.upper()}, KL weight β = {beta:g}", pad=8)
        axis.set_xlabel("sharpening s (power on the teacher's weights)" if axis in grid[-1] else "")
        axis.set_ylabel("reward" if axis in grid[:, 0] else "")
    legend(figure, ORDERS)
    return figure


def _runs(records: Runs) -> list[Records]:
    return list(records.each()) if isinstance(records, Records) else list(records)


def alignment_curves(run: Records) -> dict[str, list[np.ndarray]]:
    """Per pipeline that ends in an alignment the curves [2, points] of KL and reward, one a seed."""
    last = run.stages.sort_values("place").drop_duplicates(["pipeline", "seed"], keep="last")
    ends = last.loc[last["kind"] == "align", ["pipeline", "seed", "stage"]]
    points = run.curves[run.curves["curve"].isin(["kl", "reward"])].merge(ends, on=["pipeline", "seed", "stage"])
    wide = points.pivot(index=["pipeline", "seed", "step"], columns="curve", values="value")
    wide = wide.reindex(columns=["kl", "reward"]).dropna()
    found = {name: [seed.to_numpy().T for _, seed in rows.groupby("seed")] for name, rows in wide.groupby("pipeline")}
    return {name: found[name] for name in reading_order(found)}


def mean_curve(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Mean [2, points] over seeds of curves [2, points], up to where the shortest of them ends."""
    shortest = min(curve.shape[1] for curve in curves)
    return np.mean([curve[:, :shortest] for curve in curves], axis=0)
