"""How the boundary map is drawn: who earns more in every cell, the closed form's boundary, the chosen run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.boundary import Map
from alignkd_lab.plots.maps import draw_key, draw_lead
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots.drawing import mark, seed_points, themed
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.study.lead import cell_edges

TITLE = "Where the order matters, and where it stops"
SOURCE = (
    "Recorded run. Gaussian world: 20 seeds a cell; grey where the paired 95 % interval of the difference holds zero. "
    "▲ A-K, ● K-A find the target: a mean reward of at least half the height. " + plane.MARKS + "."
)


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
