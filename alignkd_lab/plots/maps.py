"""How a map of leads is drawn: colours, markers, boundaries and their key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from alignkd_lab.mog.sweep import Lead, cell_edges
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import INK
from alignkd_lab.plots.style import percent, pipeline_style

# Blue for K-A and vermilion for A-K as everywhere; pale enough for the marks that lie on them.
_COLOURS = LinearSegmentedColormap.from_list(
    "orders", ["#3D93C4", "#B9D9EA", "#FFFFFF", "#F6CBAE", "#DF7A35"]
).with_extremes(bad="#D9D9D9")  # undecided: a sure lead may be so small that it is all but white
_HIGHEST = 4.0  # of the colours, in reward
_SHARPENED = (0, (3, 2))


def draw_lead(axis: Axes, data: Lead, size: float, found: Mapping[str, np.ndarray]) -> None:
    """Who earns more in every cell, the boundary, and a marker of `size` where an order has `found` the target."""
    columns, rows = cell_edges(data.weights), cell_edges(data.betas)
    lead = _spread(np.where(data.decided, data.difference, np.nan))
    axis.pcolormesh(columns, rows, lead, cmap=_COLOURS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlim=columns[[0, -1]], ylim=rows[[0, -1]])
    _found(axis, data, size, found)
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
    lines = [("-", "recall threshold: below it, the best policy with\nthe truth as reference has found the target")]
    if any(data.sharpening != 1 for data in maps):
        lines = [
            ("-", "recall threshold, the truth as reference"),
            (_SHARPENED, "the same, its sharpened copy as reference"),
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
