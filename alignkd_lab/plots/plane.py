"""The plane of the Gaussian world: densities on a grid, and how they are drawn; as squares that hang side by side."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle, Rectangle

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import reading_order
from alignkd_lab.plots.drawing import INK, NOTE, QUIET
from alignkd_lab.plots.style import pipeline_style

MARKS = "Darker is denser (square-root scale); dashed: the target"
SIGNS = {"s": "■", "D": "◆", "v": "▼", "o": "●", "^": "▲", "P": "✚", "X": "✖", "h": "⬢"}
_CELLS = 115  # along either axis of the window


# What is drawn


def window(settings: MogSettings) -> tuple[float, float, float, float]:
    """The part of the plane that is drawn: left, right, bottom, top."""
    means, margin = np.array(settings.truth_means), 4.5 * settings.truth_sd
    (left, bottom), (right, top) = means.min(0) - margin, means.max(0) + margin
    return float(left), float(right), float(bottom), float(top)


def field(view: Mapping[str, Any], settings: MogSettings, cells: int = _CELLS) -> np.ndarray:
    """The density `[y, x]` of one mixture on the window; `view` holds `weights`, `means` and `sds`."""
    return density(mixture_of(view), window(settings), cells)


def mixture_of(view: Mapping[str, Any]) -> GaussianMixture:
    """The mixture, a batch of one, of `weights`, `means` and `sds`."""
    weights, means, sds = (
        torch.as_tensor(view[name], dtype=torch.float64)[None] for name in ("weights", "means", "sds")
    )
    return GaussianMixture(weights.log(), means, sds.log())


def views(mixtures: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """By pipeline, in reading order, the mixture of the first seed in a table of `records.Records.mixtures`."""
    first = mixtures[mixtures["seed"] == mixtures["seed"].min()].sort_values("component")
    held = {
        name: {
            "weights": rows["weight"].tolist(),
            "means": rows[["x", "y"]].to_numpy().tolist(),
            "sds": rows[["sd_x", "sd_y"]].to_numpy().tolist(),
        }
        for name, rows in first.groupby("pipeline")
    }
    return {name: held[name] for name in reading_order(held)}


def density(mixture: GaussianMixture, extent: tuple[float, float, float, float], cells: int = _CELLS) -> np.ndarray:
    """The density `[y, x]` of one mixture, a batch of one, on a part of the plane: left, right, bottom, top."""
    return mixture.log_prob(_points(extent, cells)).exp().reshape(cells, cells).numpy()


@functools.cache
def _points(extent: tuple[float, float, float, float], cells: int) -> torch.Tensor:
    """The grid's points `[1, y * x, 2]`, row by row, `cells` along either axis."""
    left, right, bottom, top = extent
    y, x = (torch.linspace(*ends, cells, dtype=torch.float64) for ends in ((bottom, top), (left, right)))
    return torch.stack([x.expand(cells, -1), y[:, None].expand(-1, cells)], -1).reshape(1, -1, 2)


def truth(settings: MogSettings) -> dict:
    """The truth as a view."""
    sds = [[settings.truth_sd] * 2] * len(settings.truth_means)
    return {"weights": settings.truth_weights, "means": settings.truth_means, "sds": sds}


# Drawing it


def canvas(size: tuple[float, float], title: str, note: str) -> Figure:
    """An empty figure of `size` inches with its title and its last line."""
    figure = Figure(figsize=size)
    figure.text(0.012, 1 - 0.1 / size[1], title, ha="left", va="top", fontsize=14, fontweight="bold", color=INK)
    note = textwrap.fill(note, int(17 * size[0]))
    place = {"ha": "left", "va": "bottom", "fontsize": 8, "linespacing": 1.25}
    figure.text(0.012, 0.07 / size[1], note, color=QUIET, gid=NOTE, **place)
    return figure


def axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """An axis at a place given in inches."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, bottom / high, width / wide, height / high))


def wall(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """An axis in inches, without frame, for squares to hang on."""
    axis = axes(figure, left, bottom, width, height)
    axis.axis("off")
    axis.set_autoscale_on(False)
    axis.set(xlim=(0, width), ylim=(0, height))
    return axis


def one_scale(fields: Iterable[np.ndarray]) -> PowerNorm:
    """One scale for all squares of a picture; the square root keeps a rare mode visible next to common ones."""
    return PowerNorm(0.5, vmin=0, vmax=max(field.max() for field in fields))


def hang(on: Axes, field: np.ndarray, corner: tuple[float, float], side: float, norm: PowerNorm) -> None:
    """A density in its frame on the wall, `corner` (lower left) and `side` in inches."""
    x, y = corner
    extent = (x, x + side, y, y + side)
    # Steps read as contours, and make a picture of few colours, small and quick to write.
    paint(on, field, extent, norm, steps=36)
    on.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#B8BEC5", linewidth=0.8, clip_on=False))


def paint(
    on: Axes, field: np.ndarray, extent: tuple[float, float, float, float], norm: PowerNorm, steps: int = 256
) -> AxesImage:
    """A density in so many `steps` of colour; `extent` is its left, right, bottom and top on the axis."""
    return on.imshow(field, extent=extent, origin="lower", cmap=_colours(steps), norm=norm, interpolation="bilinear")


def circle(on: Axes, centre: Sequence[float], radius: float) -> None:
    """The dashed line around a target."""
    on.add_patch(Circle(centre, radius, fill=False, color=INK, linewidth=1.2, linestyle=(0, (4, 3))))


def say(on: Axes, text: str, place: Sequence[float], up: float, **font) -> None:
    """Words above a place on the wall, `up` in points of print."""
    on.annotate(text, tuple(place), (0, up), textcoords="offset points", **font)


def signed(name: str) -> tuple[str, str]:
    """A pipeline's label with its marker before it, and its colour."""
    style = pipeline_style(name)
    return f"{SIGNS.get(style.marker, '★')} {style.label}", style.colour


@functools.cache
def _colours(steps: int) -> Colormap:
    return sns.blend_palette(["#FFFFFF", *sns.color_palette("mako_r", 6)], as_cmap=True).resampled(steps)
