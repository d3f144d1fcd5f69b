"""Explorer: "it always holds". A map of which order earns more, with the boundary that the closed form draws.

Every cell is a recorded run of twenty seeds. Two sliders choose the one whose densities stand beside the map.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignkd_lab.course.explorers.cells import ALGORITHMS
from alignkd_lab.course.recorded import recorded
from alignkd_lab.course.widgets.controls import Choice, Number
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.sweep import Grid, Lead, cell_edges, lead
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import mark, seed_points, themed
from alignkd_lab.plots.maps import draw_key, draw_lead
from alignkd_lab.plots.style import interval, number, percent, pipeline_style
from alignkd_lab.stats import Interval, paired_difference, t_interval

# The cell of the title picture.
START = {"target_weight": 0.04, "beta": 0.5, "algorithm": "rlhf", "sharpening": "2", "seed": 0.0}
SHARPENINGS = {
    "0.5": "s = 0.5: a teacher at high temperature",
    "1": "s = 1: the teacher as it is",
    "2": "s = 2: sharpened",
}
_STUDY = "gaussians-boundary"
# The policies beside the map: before the second stage, and after it.
SHOWN = ("kd_only", K_A, "base_aligned", A_K)
# Three settings for a page without a kernel: the title's, the boundary's, and one where K-A is ahead.
STILLS = ({"sharpening": "2"}, {"sharpening": "1"}, {"sharpening": "0.5"})
TITLE = "Where the order matters, and where it stops"
SOURCE = (
    "Recorded run. Gaussian world: 20 seeds a cell; grey where the paired 95 % interval of the difference holds zero. "
    "▲ A-K, ● K-A find the target: a mean reward of at least half the height. " + plane.MARKS + "."
)


@dataclass(frozen=True)
class Chosen:
    """The cell that the sliders choose.

    rewards: `{order: [seed]}`; intervals: of their means; difference: A-K minus K-A, paired over seeds.
    recalls: `{order: mean overall recall}`, nats.
    fields: `{policy: [y, x]}`, the densities of the shown seed on `plane.window`.
    """

    target_weight: float
    beta: float
    rewards: dict[str, np.ndarray]
    intervals: dict[str, Interval]
    difference: Interval
    recalls: dict[str, float]
    fields: dict[str, np.ndarray]


@dataclass(frozen=True)
class Map(Lead):
    """What the picture shows: the map, and `chosen`, the cell that the sliders choose.

    seed: whose densities are shown; settings: all else.
    """

    seed: int
    settings: MogSettings
    chosen: Chosen


def compute(state: Mapping[str, Any]) -> Map:
    """The map of an algorithm and a sharpening, and the cell nearest to `target_weight` and `beta`.

    `state` is of `controls`.
    """
    grid, whole = shipped(state["algorithm"], float(state["sharpening"]))
    column, row = _nearest(grid.weights, state["target_weight"]), _nearest(grid.betas, state["beta"])
    seed = round(state["seed"])
    return Map(**vars(whole), seed=seed, settings=grid.settings, chosen=_cell(grid, row, column, seed))


@functools.cache
def shipped(algorithm: str, sharpening: float) -> tuple[Grid, Lead]:
    """The sweep's cells of one map, and who leads in them."""
    grid = Grid.of(recorded(_STUDY), algorithm, sharpening)
    return grid, lead(grid)


def controls() -> dict[str, Number | Choice]:
    """A control for each part of the state, over the sweep's cells; they begin at the title picture's."""
    grid, _ = shipped(START["algorithm"], float(START["sharpening"]))
    (weights, betas), last_seed = (grid.weights.tolist(), grid.betas.tolist()), recorded(_STUDY).mixtures["seed"].max()
    held = {
        "target_weight": Number(0.0, "target's share of the truth, m₀", weights[0], weights[-1], 0.05, True),
        "beta": Number(0.0, "KL weight, β", betas[0], betas[-1], 0.05, True),
        "algorithm": Choice("", "alignment by", ALGORITHMS),
        "sharpening": Choice("", "teacher", SHARPENINGS),
        "seed": Number(0.0, "seed of the densities", 0.0, float(last_seed), 1.0),
    }
    return {name: entry._replace(start=START[name]) for name, entry in held.items()}


def caption(data: Map) -> str:
    """What the picture shows at this state, in words."""
    cell = data.chosen
    here = f"{data.algorithm.upper()}, s = {data.sharpening:g}, β = {cell.beta:g}, m₀ = {percent(cell.target_weight)}"
    earned = ", ".join(f"{label} {interval(*cell.intervals[order])}" for order, label in ((A_K, "A-K"), (K_A, "K-A")))
    ahead = _ahead(cell.difference)
    paid = f"overall recall {number(cell.recalls[A_K])} nats for A-K, {number(cell.recalls[K_A])} for K-A"
    return (
        f"Chosen: {here}. Mean reward over {data.seeds} seeds: {earned}; {ahead}; {paid}. On the map, {_counted(data)}"
    )


def _nearest(axis: np.ndarray, value: float) -> int:
    return int(np.abs(np.log(axis) - np.log(value)).argmin())


def _cell(grid: Grid, row: int, column: int, seed: int) -> Chosen:
    run, mixtures = grid.runs[row][column], recorded(_STUDY).mixtures
    held = grid.records.select(run=run)
    rewards = {order: held.table("reward")[order].to_numpy() for order in ORDERS}
    views = plane.views(mixtures[(mixtures["run"] == run) & (mixtures["seed"] == seed)])
    return Chosen(
        target_weight=grid.weights[column],
        beta=grid.betas[row],
        rewards=rewards,
        intervals={order: t_interval(values) for order, values in rewards.items()},
        difference=paired_difference(rewards[A_K], rewards[K_A]),
        recalls=held.table("overall_recall").mean().to_dict(),
        fields={name: plane.field(views[name], grid.settings) for name in SHOWN},
    )


def _ahead(difference: Interval) -> str:
    said = interval(*difference)
    if difference.low > 0:
        return f"A-K is ahead by {said}"
    if difference.high < 0:
        return f"K-A is ahead, A-K minus K-A being {said}"
    return f"the interval holds 0: neither order is ahead, A-K minus K-A being {said}"


def _counted(data: Map) -> str:
    """In how many cells of the map which order finds the target."""
    a_k, k_a = data.found[A_K], data.found[K_A]
    counts = {"A-K alone": a_k & ~k_a, "K-A alone": k_a & ~a_k, "both": a_k & k_a, "neither": ~a_k & ~k_a}
    said = ", ".join(f"{name} in {int(cells.sum())}" for name, cells in counts.items())
    return f"of {a_k.size} cells the target is found by {said}."


# The picture


@themed
def draw(data: Map, note: str = SOURCE) -> Figure:
    """The map, and beside it what the chosen cell's two orders go through."""
    figure = plane.canvas((10.0, 6.1), TITLE, note)
    axis = plane.axes(figure, 0.75, 1.55, 4.75, 3.75)
    draw_lead(axis, data)
    axis.set_ylabel("KL weight, β")
    _choose(axis, data)
    draw_key(figure, 0.75, 0.72, [data])
    _run(figure, data)
    return figure


@themed
def stills(maps: Sequence[Map], note: str = SOURCE) -> Figure:
    """The maps of several settings side by side, for a page without a kernel."""
    figure = plane.canvas((10.0, 5.2), TITLE, note)
    for place, data in enumerate(maps):
        axis = plane.axes(figure, 0.68 + 3.12 * place, 1.85, 2.9, 2.6)
        draw_lead(axis, data, 6.0)
        axis.set_ylabel("KL weight, β" if place == 0 else "")
        if place:
            axis.set_yticklabels([])
    draw_key(figure, 0.68, 1.02, maps)
    return figure


def _choose(axis: Axes, data: Map) -> None:
    """A frame around the chosen cell."""
    columns, rows = cell_edges(data.weights), cell_edges(data.betas)
    column, row = (
        np.flatnonzero(a == v)[0]
        for a, v in ((data.weights, data.chosen.target_weight), (data.betas, data.chosen.beta))
    )
    low, size = (columns[column], rows[row]), (columns[column + 1] - columns[column], rows[row + 1] - rows[row])
    for colour, width in (("white", 4.6), ("#7B4FA3", 2.4)):
        axis.add_patch(Rectangle(low, *size, fill=False, edgecolor=colour, linewidth=width, zorder=6, clip_on=False))


def _run(figure: Figure, data: Map) -> None:
    """The chosen cell: densities of one seed, rewards of all."""
    side, left, gap = 1.62, 6.05, 0.5
    cell, norm = data.chosen, plane.one_scale(data.chosen.fields.values())
    wall = plane.wall(figure, left, 1.62, 2 * side + 0.15, 2 * side + gap)
    steps = (("kd_only", K_A, K_A, side + gap), ("base_aligned", A_K, A_K, 0.0))
    for first, last, order, bottom in steps:
        label, colour = plane.signed(order)
        plane.say(wall, label, (0, bottom + side), 17, color=colour, fontsize=9.5, fontweight="bold")
        said = ("distilled", "then aligned") if order == K_A else ("the base, aligned", "then distilled")
        for column, (name, words) in enumerate(zip((first, last), said, strict=True)):
            corner = (column * (side + 0.15), bottom)
            plane.square(wall, cell.fields[name], data.settings, corner, side, norm)
            plane.say(wall, words, (corner[0], bottom + side), 4, fontsize=8.2)
    axis = plane.axes(figure, left, 0.72, 2 * side + 0.15, 0.45)
    for row, order in enumerate(ORDERS):
        values, colour = cell.rewards[order], pipeline_style(order).colour
        seed_points(axis, values, np.full(values.size, 1.0 - row), colour)
        axis.plot(cell.intervals[order][1:], [1.0 - row] * 2, color=colour, linewidth=2.4)
        mark(axis, cell.intervals[order].estimate, 1.0 - row, order, 7)
    axis.set(xlim=(-0.1, data.settings.reward_height), ylim=(-0.6, 1.6), yticks=[])
    axis.annotate(
        f"reward: {data.seeds} seeds, mean, interval", (0, 1), (0, 4), "axes fraction", "offset points", fontsize=8.2
    )


def show(*shown: str, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`."""

    def still(state: Mapping[str, Any]) -> tuple[Figure, str]:
        maps = [compute({**state, **changes}) for changes in STILLS]
        text = " ".join(f"Sharpening {data.sharpening:g}: {_counted(data)}" for data in maps)
        return stills(maps, f"{text} {SOURCE}"), text

    return Explorer(controls(), shown, state, compute, draw, caption, SOURCE, "boundary.show", still=still)
