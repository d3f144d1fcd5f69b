"""Explorer: "there is a best method". Every way to the same small model, on two axes of your own choice.

All points are read from a recorded run of the language world; an axis is a cost or a metric. A way is beaten if another
one is at least as good on both axes and better on one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.costs import compared, with_costs
from alignkd_lab.course.recorded import recorded_smollm2
from alignkd_lab.course.widgets.controls import Choice
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.pipelines import METHODS, ORDERS
from alignkd_lab.plots.drawing import (
    INK,
    QUIET,
    Estimate,
    cross,
    depth_line,
    estimates,
    legend,
    mark,
    panels,
    row_places,
    rows_of_intervals,
    themed,
)
from alignkd_lab.plots.style import METRIC_STYLE, MINUS, interval, metric_label, number, pipeline_style
from alignkd_lab.records import Records
from alignkd_lab.stats import NAN, Interval, paired_difference

WAYS = (*ORDERS, *METHODS)
BASELINE = "kd_only"
START = {"across": "tokens_trained", "up": "reward"}
TITLE = "Every way to the same small model; ringed: beaten by no other on both axes"
# Three choices for a page without a kernel: a cost of training, the clock, and what is forgotten.
STILLS = (START, {"across": "minutes", "up": "target_rate"}, {"across": "overall_recall", "up": "reward"})


_LABELS = {
    "tokens_trained": "tokens trained on",
    "tokens_sampled": "tokens sampled",
    "minutes": "minutes (median)",
    "memory_gib": "peak memory (GiB)",
    "gain_per_10000_tokens": "reward above KD only, for 10,000 trained tokens",
    "gain_per_hour": "reward above KD only, for an hour",
}
LESS_IS_BETTER = ("tokens_trained", "tokens_sampled", "minutes", "memory_gib", "kl_to_base")
UP = (
    "reward",
    "target_rate",
    "target_precision",
    "overall_precision",
    "overall_recall",
    "reward_accuracy",
    "distinct_2",
)
ACROSS = (*LESS_IS_BETTER, "overall_recall", "overall_precision", "distinct_2")


@dataclass(frozen=True)
class Methods:
    """What the picture shows.

    across, up: the axes, of `ACROSS` and `UP`; seeds: behind every point.
    points: by way, and by the baseline, both estimates; unbeaten: the ways that no other beats on both axes.
    """

    across: str
    up: str
    seeds: int
    points: Mapping[str, tuple[Estimate, Estimate]]
    unbeaten: tuple[str, ...]


@functools.cache
def recorded() -> Records:
    """The registered experiment on SmolLM2 with costs and gains among its metrics."""
    return with_costs(compared(recorded_smollm2(), (BASELINE, *WAYS)), BASELINE)


def compute(state: Mapping[str, str], run: Records | None = None) -> Methods:
    """Every way's place on two axes.

    Args:
        state: `across` (of `ACROSS`) and `up` (of `UP`).
        run: with costs among its metrics (`costs.with_costs`); `recorded()` where None.
    """
    run = run or recorded()
    across, up = state["across"], state["up"]
    x, y = (_typical(estimates(run, axis), axis) for axis in (across, up))
    points = {name: (x[name], y[name]) for name in run.pipelines if name in x and name in y}
    signs = [-1 if axis in LESS_IS_BETTER else 1 for axis in (across, up)]
    goods = {
        name: tuple(sign * estimate.estimate for sign, (estimate, _) in zip(signs, points[name], strict=True))
        for name in points
        if name in WAYS
    }
    unbeaten = tuple(name for name in goods if not any(_beats(other, goods[name]) for other in goods.values()))
    return Methods(across, up, len(run.seeds), points, unbeaten)


def source(run: Records) -> str:
    """What the last line of a picture of this run says of its evidence."""
    about = run.the_run()
    marks = ". Bars: 95 % t-intervals over seeds" if len(run.seeds) > 1 else ""
    return depth_line(
        [run], "record", f"Target: {about['target'].replace('_', ' ')}, {about['algorithm'].upper()}{marks}"
    )


def _typical(found: dict[str, Estimate], axis: str) -> dict[str, Estimate]:
    """For the clock a median without an interval: other work on the machine makes single seeds slower."""
    if axis != "minutes":
        return found
    return {name: (Interval(float(np.median(values)), NAN, NAN), values) for name, (_, values) in found.items()}


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def controls(run: Records | None = None) -> dict[str, Choice]:
    """A list for each axis of what `run` measured (`recorded()` where None)."""
    run = run or recorded()
    return {
        name: Choice(START[name], name, {axis: label(axis) for axis in axes if not _by_seed(run, axis).empty})
        for name, axes in (("across", ACROSS), ("up", UP))
    }


def caption(data: Methods) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    words = f"Across {_words(data.across)}, up {_words(data.up)}"
    held = [name for name in data.points if name in WAYS]
    if not held:
        return f"{words}: the record does not hold both."
    if len(data.unbeaten) == 1:
        belief = f"of {len(held)} ways {_place(data, data.unbeaten[0])} is best on both; other axes may tell otherwise"
    else:
        belief = f"there is no best way, {len(data.unbeaten)} of {len(held)} are beaten by no other on both: "
        belief += "; ".join(_place(data, name) for name in data.unbeaten)
    return f"{words}: {belief}. " + (
        f"Means over {data.seeds} seeds." if data.seeds > 1 else "One seed decides nothing."
    )


def _words(axis: str) -> str:
    return METRIC_STYLE[axis].label if axis in METRIC_STYLE else label(axis)


def _place(data: Methods, name: str) -> str:
    x, y = (found.estimate for found, _ in data.points[name])
    return f"{short(name)} ({_digits(x)}, {_digits(y)})"


def short(name: str) -> str:
    """A way's label without what follows its colon: A-K, not `A-K: align, then distil`."""
    return pipeline_style(name).label.partition(":")[0]


def _digits(value: float) -> str:
    return f"{round(value):,}" if abs(value) >= 1000 else number(value)


@themed
def draw(data: Methods, note: str) -> Figure:
    """One panel: every way with its marker, and a line along those that no other beats."""
    figure, grid = panels(1, 1, (10, 5.6), TITLE, note)
    _panel(grid[0, 0], data)
    legend(figure, data.points)
    return figure


@themed
def stills(views: Sequence[Methods], note: str) -> Figure:
    """Several choices of axes side by side, for a page without a kernel."""
    figure, grid = panels(1, len(views), (11, 5.0), TITLE, note)
    for axis, data in zip(grid[0], views, strict=True):
        _panel(axis, data)
    legend(figure, {name for data in views for name in data.points})
    return figure


def show(*shown: str, run: Records | None = None, **state: str) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the axes begun at `state`."""
    run = run or recorded()
    look = functools.partial(compute, run=run)

    def still(state: Mapping[str, str]) -> tuple[Figure, str]:
        views = [look(choice) for choice in STILLS]
        return stills(views, source(run)), " ".join(map(caption, views))

    return Explorer(controls(run), shown, state, look, draw, caption, source(run), "methods.show", still=still)


@themed
def gains(run: Records, gain: str) -> Figure:
    """A row for every way: its reward, and beside it what it gained per unit of a cost (`costs.GAINS`)."""
    note = f"{in_words(run, gain)} {source(run)}"
    figure, grid = panels(1, 2, (10, 4.0), "What every way earns, and what it gains for its cost", note)
    places = row_places(run.pipelines)
    for axis, metric in zip(grid[0], ("reward", gain), strict=True):
        rows_of_intervals(axis, run, metric, labels=metric == "reward")
        for name, (found, _) in estimates(run, metric).items():
            mark(axis, found.estimate, places[name], name, 9)
    grid[0, 1].set_xlabel(label(gain))
    return figure


def in_words(run: Records, gain: str) -> str:
    """Who gained most per unit of cost, who came second, and in how many seeds the first one led."""
    found = ranked(run, gain)
    (first, most), (second, next_most) = list(found.items())[:2]
    told = f"{label(gain)[0].upper()}{label(gain)[1:]}: most for {short(first)} ({number(most)}), then "
    told += f"{short(second)} ({number(next_most)}). "
    by_seed = _by_seed(run, gain)
    if len(by_seed) == 1:
        return f"{told}One seed decides nothing."
    led = (by_seed.idxmax(axis=1) == first).sum()
    ahead = paired_difference(by_seed[first], by_seed[second])
    sure = "" if ahead.low > 0 else ", so the lead is not sure"
    return (
        f"{told}The first one leads in {led} of {len(by_seed)} seeds, ahead of the second by {interval(*ahead)}{sure}."
    )


def ranked(run: Records, metric: str) -> dict[str, float]:
    """The ways by their mean of a metric, the highest first."""
    return _by_seed(run, metric).mean(skipna=False).sort_values(ascending=False, kind="stable").to_dict()


def label(metric: str) -> str:
    """A metric, a cost or a gain in words."""
    return _LABELS.get(metric) or metric_label(metric, "lm")


def _by_seed(run: Records, metric: str) -> pd.DataFrame:
    """The ways alone, seeds down."""
    table = run.table(metric)
    return table[[name for name in table if name in WAYS]]


def _panel(axis: Axes, data: Methods) -> None:
    front = sorted((data.points[name][0][0].estimate, data.points[name][1][0].estimate) for name in data.unbeaten)
    if len(front) > 1:
        axis.plot(*zip(*front, strict=True), color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    for name, (across, up) in data.points.items():
        cross(axis, name, across, up)
        mark(axis, across[0].estimate, up[0].estimate, name, 10)
        if name in data.unbeaten:
            ring = {"markersize": 17, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.1}
            axis.plot(across[0].estimate, up[0].estimate, "o", zorder=3, **ring)
    axis.margins(0.14)
    right = data.across not in LESS_IS_BETTER
    place, words = (0.99, "better ↗") if right else (0.01, "↖ better")
    look = {"ha": "right" if right else "left", "va": "top", "fontsize": 9, "color": QUIET}
    axis.text(place, 0.985, words, transform=axis.transAxes, **look)
    axis.set_xlabel(label(data.across))
    axis.set_ylabel(label(data.up))
    axis.xaxis.set_major_formatter(lambda value, _: f"{round(value, 6):,g}".replace("-", MINUS))
