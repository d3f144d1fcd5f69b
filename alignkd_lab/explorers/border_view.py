"""How the border map is drawn: who earns more in every cell, the closed form's border, the chosen run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignkd_lab.drawing import INK, mark, seed_points, themed
from alignkd_lab.explorers import plane
from alignkd_lab.explorers.border import Map, cell_edges
from alignkd_lab.explorers.threshold import percent
from alignkd_lab.metrics import A_K, K_A
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.style import pipeline_style

TITLE = "Where the order matters, and where it stops"
SOURCE = (
    "Recorded run. Gaussian world: 20 seeds a cell; white where the paired 95 % interval of the difference holds zero. "
    "▲ A-K, ● K-A find the target: a mean reward of at least half the height. " + plane.MARKS + "."
)
# Blue for K-A and vermilion for A-K as everywhere; pale enough for the marks that lie on them.
_COLOURS = LinearSegmentedColormap.from_list("orders", ["#3D93C4", "#B9D9EA", "#FFFFFF", "#F6CBAE", "#DF7A35"])
_HIGHEST = 4.0  # of the colours, in reward
_SHARPENED = (0, (3, 2))


@themed
def draw(data: Map, note: str = SOURCE) -> Figure:
    """The map, and beside it what the chosen cell's two orders go through."""
    figure = plane.canvas((10.0, 6.1), TITLE, note)
    axis = plane.axes(figure, 0.75, 1.55, 4.75, 3.75)
    _map(axis, data)
    axis.set_ylabel("KL weight, β")
    _choose(axis, data)
    _key(figure, 0.75, 0.72, [data])
    _run(figure, data)
    return figure


@themed
def stills(maps: Sequence[Map], note: str = SOURCE) -> Figure:
    """The maps of several settings side by side, for a page without a kernel."""
    figure = plane.canvas((10.0, 5.2), TITLE, note)
    for place, data in enumerate(maps):
        axis = plane.axes(figure, 0.68 + 3.12 * place, 1.85, 2.9, 2.6)
        _map(axis, data, 6.0)
        axis.set_ylabel("KL weight, β" if place == 0 else "")
        if place:
            axis.set_yticklabels([])
    _key(figure, 0.68, 1.02, maps)
    return figure


def _map(axis: Axes, data: Map, size: float = 7.5) -> None:
    columns, rows = cell_edges(data.weights), cell_edges(data.betas)
    lead = _spread(np.where(data.decided, data.difference, 0.0))
    axis.pcolormesh(columns, rows, lead, cmap=_COLOURS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlim=columns[[0, -1]], ylim=rows[[0, -1]])
    _found(axis, data, size)
    axis.plot(data.border, data.border_betas, color=INK, linewidth=1.8)
    if data.sharpening != 1:
        axis.plot(data.border_sharpened, data.border_betas, color=INK, linewidth=1.8, linestyle=_SHARPENED)
    weights = [weight for weight in (0.005, 0.01, 0.02, 0.04, 0.09, 0.2) if weight in data.weights]
    betas = [beta for beta in (0.12, 0.25, 0.5, 1.0, 2.0, 4.0) if beta in data.betas]
    axis.set_xticks(weights, [percent(weight) for weight in weights])
    axis.set_yticks(betas, [f"{beta:g}" for beta in betas])
    axis.minorticks_off()
    axis.grid(visible=False)
    axis.set_xlabel("target's share of the truth, m₀")
    axis.set_title(f"{data.algorithm.upper()}, sharpening s = {data.sharpening:g}", pad=6)


def _found(axis: Axes, data: Map, size: float) -> None:
    """The marker of each order in every cell where it finds the target: one plot an order, not one a cell."""
    step = (np.log(data.weights[-1]) - np.log(data.weights[0])) / (len(data.weights) - 1)
    for order, shift in zip(ORDERS, (-0.18, 0.18), strict=True):
        style = pipeline_style(order)
        rows, columns = np.nonzero(data.found[order])
        x, y = data.weights[columns] * np.exp(shift * step), data.betas[rows]
        axis.plot(x, y, style.marker, color=INK, markersize=0.6 * size, markeredgewidth=0, alpha=0.75, linestyle="none")


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


def _spread(lead: np.ndarray) -> np.ndarray:
    """The place of a lead on the colours, -1 to 1; the square root makes room for small ones."""
    return np.sign(lead) * np.sqrt(np.abs(lead) / _HIGHEST)


def _key(figure: Figure, left: float, bottom: float, maps: Sequence[Map]) -> None:
    """What the colours and lines of the maps mean."""
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
