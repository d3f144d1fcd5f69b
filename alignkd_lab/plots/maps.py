"""The map of leads: who earns more by the target's share and the KL weight, with the closed form's boundary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from alignkd_lab.mog.sweep import Grid, Lead, cell_edges, lead, score, shows_target
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.plots.drawing import DEPTH, INK, panels, themed
from alignkd_lab.plots.style import percent, pipeline_style

# Blue for K-A and vermilion for A-K as everywhere; pale enough for the marks that lie on them.
_COLOURS = LinearSegmentedColormap.from_list(
    "orders", ["#3D93C4", "#B9D9EA", "#FFFFFF", "#F6CBAE", "#DF7A35"]
).with_extremes(bad="#D9D9D9")  # undecided: a sure lead may be so small that it is all but white
_HIGHEST = 4.0  # of the colours, in reward
_LINES = {"recall threshold, the truth as reference": "-", "the same, its sharpened copy as reference": (0, (3, 2))}
_NOTE = (
    "Colour: mean reward of A-K minus that of K-A; grey where the paired 95 % interval over seeds contains 0. "
    "▲ A-K, ● K-A shows the target in more than half of its draws, on average over seeds. Below its line, at a "
    "smaller β, the best policy has found the target. "
    "The lines predict A-K at or right of the solid and left of the dashed one, else no leader: titles say in how "
    "many cells that is what was measured."
)


@themed
def map_figure(grids: Sequence[Grid]) -> Figure:
    """Who leads by the target's share and the KL weight, with the boundary drawn through: a panel a sharpening.

    The grids are of one algorithm.
    """
    maps: list[Lead] = [lead(grid) for grid in grids]
    note = f"{DEPTH['record']}. Gaussian world: laptop preset, {maps[0].seeds} seeds a cell. {_NOTE}"
    title = f"Where the order matters: {grids[0].algorithm.upper()}"
    figure, (axes,) = panels(1, len(grids), (0.64 + 3.12 * len(grids), 5.4), title, note)
    for axis, data in zip(axes, maps, strict=True):
        mesh, found = _draw(axis, data), score(data)
        said = f"predicted as measured: {found.right} of {found.cells} ({100 * found.share:.0f} %)"
        axis.set_title(f"sharpening s = {data.sharpening:g}\n{said}", pad=6, fontsize=9.5)
        axis.set_ylabel("KL weight, β" if axis is axes[0] else "")
        if axis is not axes[0]:
            axis.set_yticklabels([])
    leads = np.array([-4.0, -1.0, 0.0, 1.0, 4.0])
    bar = figure.colorbar(mesh, ax=axes, location="bottom", aspect=40, shrink=0.6, ticks=_spread(leads))
    bar.ax.set_xticklabels([f"{abs(tick):g}" for tick in leads])
    bar.outline.set_visible(False)
    bar.set_label("← K-A earns more      reward      A-K earns more →")
    handles = {line.get_label(): line for axis in axes for line in axis.lines if line.get_label() in _LINES}
    figure.legend(handles=handles.values(), loc="outside upper right", ncols=2)
    return figure


def _draw(axis: Axes, data: Lead) -> QuadMesh:
    """Who earns more in every cell, the boundaries, and a marker where an order shows the target."""
    columns, rows = cell_edges(data.weights), cell_edges(data.betas)
    cells = _spread(np.where(data.decided, data.difference, np.nan))
    mesh = axis.pcolormesh(columns, rows, cells, cmap=_COLOURS, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axis.set(xscale="log", yscale="log", xlim=columns[[0, -1]], ylim=rows[[0, -1]])
    step = (np.log(data.weights[-1]) - np.log(data.weights[0])) / (len(data.weights) - 1)
    found = shows_target(data)
    for order, shift in zip(ORDERS, (-0.18, 0.18), strict=True):
        up, across = np.nonzero(found[order])
        look = {"markersize": 3.6, "markeredgewidth": 0, "alpha": 0.75, "linestyle": "none"}
        x = data.weights[across] * np.exp(shift * step)
        axis.plot(x, data.betas[up], pipeline_style(order).marker, color=INK, **look)
    boundaries = (data.boundary, data.boundary_sharpened) if data.sharpening != 1 else (data.boundary,)
    for at, (label, dashes) in zip(boundaries, _LINES.items(), strict=False):
        axis.plot(at, data.boundary_betas, color=INK, linewidth=1.8, linestyle=dashes, label=label)
    weights = [weight for weight in (0.005, 0.01, 0.02, 0.04, 0.09, 0.2) if weight in data.weights]
    betas = [beta for beta in (0.12, 0.25, 0.5, 1.0, 2.0, 4.0) if beta in data.betas]
    axis.set_xticks(weights, [percent(weight) for weight in weights])
    axis.set_yticks(betas, [f"{beta:g}" for beta in betas])
    axis.minorticks_off()
    axis.grid(visible=False)
    axis.set_xlabel("target's share of the truth, m₀")
    return mesh


def _spread(lead: np.ndarray) -> np.ndarray:
    """The place of a lead on the colours, -1 to 1; the square root makes room for small ones."""
    return np.sign(lead) * np.sqrt(np.abs(lead) / _HIGHEST)
