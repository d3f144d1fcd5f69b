"""The density of a Gaussian mixture as a chart draws it, from its components alone: a closed form, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import torch

from alignkd_lab.course.widgets.pieces import ONE, bare, numbered, sized
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import INK

# White to dark, as the figures have it (seaborn's mako).
_WHITE = 2e-4  # density, of the half to some tens at a heart
COLOURS = ("#FFFFFF", "#AFE3C8", "#4FC5AD", "#3497A8", "#36669C", "#3B3A66", "#251729")

COLUMNS = ["weight", "x", "y", "sd_x", "sd_y"]  # of a component, in records, too


def components(mixtures: GaussianMixture) -> list:
    """As `heat` takes them, `[mixture][component]` of `COLUMNS`."""
    parts = torch.cat([mixtures.weights[..., None], mixtures.means, mixtures.log_sds.exp()], -1)
    return parts.numpy().round(4).tolist()


def heat(
    components: str, count: int, window: tuple[float, float, float, float], side: int, cells: int,
    colours: Sequence[str] = COLOURS,
) -> alt.LayerChart:  # fmt: skip
    """A mixture's density on the plane; darker is denser, on a square-root scale.

    Args:
        components: an expression for a list of `COLUMNS`; count: how many, at most.
        window: left, right, bottom, top, of equal width and height.
        side: pixels; cells: along either axis, of whole pixels each; colours: from none to the densest.
    """
    left, right, bottom, top = window
    step = (right - left) / cells
    terms = [f"(length({components}) > {k} ? {_normal(f'{components}[{k}]')} : 0)" for k in range(count)]
    # A little over one edge, so that no seam shows between cells.
    edges = {f"{axis}{end}": f"datum.{axis} + {(end - 0.5 + 0.06 * end) * step}" for axis in "xy" for end in (0, 1)}
    grid = numbered(
        cells**2, "cell", x=f"{left} + (datum.cell % {cells} + 0.5) * {step}",
        y=f"{bottom} + (floor(datum.cell / {cells}) + 0.5) * {step}",
    )  # fmt: skip
    # What would be white is not drawn: that takes most of the time that a slider has.
    grid = grid.transform_calculate(density=" + ".join(terms)).transform_filter(f"datum.density > {_WHITE}")
    dark = alt.Scale(type="sqrt", range=list(colours), domainMin=0, interpolate="rgb")
    squares = grid.transform_calculate(**edges).mark_rect(stroke=None).encode(
        x=alt.X("x0:Q", **bare(left, right)), x2="x1:Q", y=alt.Y("y0:Q", **bare(bottom, top)), y2="y1:Q",
        color=alt.Color("density:Q", scale=dark, legend=None),
    )  # fmt: skip
    frame = ONE.mark_rect(fillOpacity=0, stroke="#B8BEC5")
    frame = frame.encode(x=alt.value(0), x2=alt.value(side), y=alt.value(0), y2=alt.value(side))
    return alt.layer(squares, frame)


def ring(centre: tuple[float, float], radius: float, window: tuple[float, float, float, float], side: int) -> alt.Chart:
    """The dashed line around a target."""
    size = (2 * radius * side / (window[1] - window[0])) ** 2
    look = {"filled": False, "stroke": INK, "strokeDash": [4, 3], "strokeWidth": 1.2, "opacity": 1, "size": size}
    return ONE.mark_point(**look).encode(x=alt.datum(centre[0]), y=alt.datum(centre[1]))


def window(settings: MogSettings) -> tuple[float, float, float, float]:
    """The part of the plane that is drawn: left, right, bottom, top."""
    means, margin = np.array(settings.truth_means), 4.5 * settings.truth_sd
    (left, bottom), (right, top) = means.min(0) - margin, means.max(0) + margin
    return float(left), float(right), float(bottom), float(top)


def policy(settings: MogSettings, components: str, count: int, side: int, title: Any, colour: Any) -> alt.LayerChart:
    """A policy of the Gaussian world, and the target's circle."""
    place, centre = window(settings), settings.truth_means[settings.targets[0]]
    drawn = heat(components, count, place, side, 44), ring(centre, 3 * settings.truth_sd, place, side)
    return alt.layer(*drawn).properties(**sized(side, side, title, color=colour, fontSize=12))


def _normal(component: str) -> str:
    """The density of one of them at the datum."""
    across, up = (
        f"pow((datum.{axis} - {component}[{1 + k}]) / {component}[{3 + k}], 2)" for k, axis in enumerate("xy")
    )
    scale = f"{component}[0] / ({2 * math.pi} * {component}[3] * {component}[4])"
    return f"{scale} * exp(-({across} + {up}) / 2)"
