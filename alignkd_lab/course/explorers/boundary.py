"""Explorer: "it always holds". A map of which order earns more, with the boundary that the closed form draws.

Every cell is a recorded run of twenty seeds. Two sliders choose the one whose densities stand beside the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignkd_lab.course.explorers.cells import ALGORITHMS
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.widgets.controls import Choice, Number
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import INK, mark, seed_points, themed
from alignkd_lab.plots.style import interval, number, pipeline_style
from alignkd_lab.stats import Interval, paired_difference, t_interval
from alignkd_lab.study.boundary import Boundary, load
from alignkd_lab.study.lead import Lead, cell_edges, lead

# The cell of the title picture.
START = {"target_weight": 0.04, "beta": 0.5, "algorithm": "rlhf", "sharpening": "2", "seed": 0.0}
SHARPENINGS = {
    "0.5": "s = 0.5: a teacher at high temperature",
    "1": "s = 1: the teacher as it is",
    "2": "s = 2: sharpened",
}
# The policies beside the map: before the second stage, and after it.
SHOWN = ("kd_only", K_A, "base_aligned", A_K)
# Three settings for a page without a kernel: the title's, the boundary's, and one where K-A is ahead.
STILLS = ({"sharpening": "2"}, {"sharpening": "1"}, {"sharpening": "0.5"})
TITLE = "Where the order matters, and where it stops"
SOURCE = (
    "Recorded run. Gaussian world: 20 seeds a cell; grey where the paired 95 % interval of the difference holds zero. "
    "▲ A-K, ● K-A find the target: a mean reward of at least half the height. " + plane.MARKS + "."
)
# Blue for K-A and vermilion for A-K as everywhere; pale enough for the marks that lie on them.
_COLOURS = LinearSegmentedColormap.from_list(
    "orders", ["#3D93C4", "#B9D9EA", "#FFFFFF", "#F6CBAE", "#DF7A35"]
).with_extremes(bad="#D9D9D9")  # undecided: a sure lead may be so small that it is all but white
_HIGHEST = 4.0  # of the colours, in reward
_SHARPENED = (0, (3, 2))


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


def compute(state: Mapping[str, Any], held: Boundary | None = None) -> Map:
    """The map of an algorithm and a sharpening, and the cell nearest to `target_weight` and `beta`.

    Args:
        state: of `controls`.
        held: the sweep's record; the shipped one where None.
    """
    held = held or load()
    grid, sharpening, seed = held.grid, float(state["sharpening"]), round(state["seed"])
    place = (grid.algorithms.index(state["algorithm"]), grid.sharpenings.index(sharpening))
    axes = ((grid.weights, "target_weight"), (grid.betas, "beta"))
    column, row = (_nearest(np.array(axis), state[name]) for axis, name in axes)
    return Map(
        **vars(lead(held, state["algorithm"], sharpening)),
        seed=seed,
        settings=held.settings,
        chosen=_cell(held, place, row, column, seed),
    )


def controls() -> dict[str, Number | Choice]:
    """A control for each part of the state, over the sweep's cells; they begin at the title picture's."""
    grid = load().grid
    weights, betas = grid.weights, grid.betas
    held = {
        "target_weight": Number(0.0, "target's share of the truth, m₀", weights[0], weights[-1], 0.05, True),
        "beta": Number(0.0, "KL weight, β", betas[0], betas[-1], 0.05, True),
        "algorithm": Choice("", "alignment by", ALGORITHMS),
        "sharpening": Choice("", "teacher", SHARPENINGS),
        "seed": Number(0.0, "seed of the densities", 0.0, float(len(grid.shown_seeds) - 1), 1.0),
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


def _cell(held: Boundary, place: tuple[int, int], row: int, column: int, seed: int) -> Chosen:
    here, shown = (*place, row, column), held.grid.shown_seeds.index(seed)
    rewards = {order: held.metrics[order]["reward"][here] for order in ORDERS}
    tables = {name: held.views[name][(*here, shown)] for name in SHOWN}
    return Chosen(
        target_weight=held.grid.weights[column],
        beta=held.grid.betas[row],
        rewards=rewards,
        intervals={order: t_interval(values) for order, values in rewards.items()},
        difference=paired_difference(rewards[A_K], rewards[K_A]),
        recalls={order: float(held.metrics[order]["overall_recall"][here].mean()) for order in ORDERS},
        fields={name: plane.field(_view(table), held.settings) for name, table in tables.items()},
    )


def _view(table: np.ndarray) -> dict[str, np.ndarray]:
    return {"weights": table[:, 0].copy(), "means": table[:, 1:3].copy(), "sds": table[:, 3:].copy()}


def _ahead(difference: Interval) -> str:
    said = interval(*difference)
    if difference.low > 0:
        return f"A-K is ahead by {said}"
    if difference.high < 0:
        return f"K-A is ahead, A-K minus K-A being {said}"
    return f"no order is surely ahead, A-K minus K-A being {said}"


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


def draw_lead(axis: Axes, data: Lead, size: float = 7.5, found: Mapping[str, np.ndarray] | None = None) -> None:
    """Who earns more in every cell, the boundary, and a marker of `size` where an order finds the target.

    `found`: `{order: [beta, weight]}`, another rule for finding it than the map's own.
    """
    columns, rows = cell_edges(data.weights), cell_edges(data.betas)
    lead = _spread(np.where(data.decided, data.difference, np.nan))
    axis.pcolormesh(columns, rows, lead, cmap=_COLOURS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlim=columns[[0, -1]], ylim=rows[[0, -1]])
    _found(axis, data, size, found or data.found)
    axis.plot(data.boundary, data.boundary_betas, color=INK, linewidth=1.8)
    if data.sharpening != 1:
        axis.plot(data.boundary_sharpened, data.boundary_betas, color=INK, linewidth=1.8, linestyle=_SHARPENED)
    weights = [weight for weight in (0.005, 0.01, 0.02, 0.04, 0.09, 0.2) if weight in data.weights]
    betas = [beta for beta in (0.12, 0.25, 0.5, 1.0, 2.0, 4.0) if beta in data.betas]
    axis.set_xticks(weights, [percent(weight) for weight in weights])
    axis.set_yticks(betas, [f"{beta:g}" for beta in betas])
    axis.minorticks_off()
    axis.grid(visible=False)
    axis.set_xlabel("target's share of the truth, m₀")
    axis.set_title(f"{data.algorithm.upper()}, sharpening s = {data.sharpening:g}", pad=6)


def draw_key(figure: Figure, left: float, bottom: float, maps: Sequence[Lead]) -> None:
    """What the colours and lines of the maps mean, at a place given in inches."""
    axis = plane.axes(figure, left, bottom, 1.9, 0.12)
    axis.imshow(np.linspace(-1, 1, 64)[None], aspect="auto", cmap=_COLOURS, extent=(-1, 1, 0, 1))
    ticks = (-4, -1, 0, 1, 4)
    axis.set(yticks=[])
    axis.set_xticks(_spread(np.array(ticks, dtype=float)), [f"{abs(tick)}" for tick in ticks], fontsize=8)
    axis.tick_params(pad=1)
    axis.grid(visible=False)
    for place, side, text in ((0, "left", "K-A earns more"), (1, "right", "A-K earns more")):
        axis.annotate(text, (place, 1), (0, 3), "axes fraction", "offset points", ha=side, fontsize=8)
    words = plane.wall(figure, left + 2.2, bottom - 0.22, 4.0, 0.5)
    lines = [("-", "recall threshold: below it, the best policy\nanchored to the truth has found the target")]
    if any(data.sharpening != 1 for data in maps):
        lines = [
            ("-", "recall threshold, anchored to the truth"),
            (_SHARPENED, "the same, anchored to its sharpened copy"),
        ]
    for place, (dashes, text) in enumerate(lines):
        words.plot([0, 0.35], [0.36 - 0.22 * place] * 2, color=INK, linewidth=1.8, linestyle=dashes)
        words.text(0.43, 0.36 - 0.22 * place, text, va="center", fontsize=8, color=INK)


def _found(axis: Axes, data: Lead, size: float, found: Mapping[str, np.ndarray]) -> None:
    """The marker of each order in every cell where it finds the target: one plot an order, not one a cell."""
    step = (np.log(data.weights[-1]) - np.log(data.weights[0])) / (len(data.weights) - 1)
    for order, shift in zip(ORDERS, (-0.18, 0.18), strict=True):
        style = pipeline_style(order)
        rows, columns = np.nonzero(found[order])
        x, y = data.weights[columns] * np.exp(shift * step), data.betas[rows]
        axis.plot(x, y, style.marker, color=INK, markersize=0.6 * size, markeredgewidth=0, alpha=0.75, linestyle="none")


def _spread(lead: np.ndarray) -> np.ndarray:
    """The place of a lead on the colours, -1 to 1; the square root makes room for small ones."""
    return np.sign(lead) * np.sqrt(np.abs(lead) / _HIGHEST)


def show(*shown: str, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`."""

    def still(state: Mapping[str, Any]) -> tuple[Figure, str]:
        maps = [compute({**state, **changes}) for changes in STILLS]
        text = " ".join(f"Sharpening {data.sharpening:g}: {_counted(data)}" for data in maps)
        return stills(maps, f"{text} {SOURCE}"), text

    return Explorer(controls(), shown, state, compute, draw, caption, SOURCE, "boundary.show", still=still)
