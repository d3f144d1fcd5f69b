"""The plane of the Gaussian world: its window, and a density on it as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Circle

from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import INK
from alignkd_lab.plots.style import pipeline_style

MARKS = "Darker is denser (square-root scale); dashed: the target"
SIGNS = {"s": "■", "D": "◆", "v": "▼", "o": "●", "^": "▲", "P": "✚", "X": "✖", "h": "⬢"}
_CELLS = 115  # along either axis


def window(settings: MogSettings) -> tuple[float, float, float, float]:
    """The part of the plane that is drawn: left, right, bottom, top."""
    means, margin = np.array(settings.truth_means), 4.5 * settings.truth_sd
    (left, bottom), (right, top) = means.min(0) - margin, means.max(0) + margin
    return float(left), float(right), float(bottom), float(top)


def paint(on: Axes, mixture: GaussianMixture, extent: tuple[float, float, float, float]) -> None:
    """The density of one mixture, a batch of one, on a part of the plane: left, right, bottom, top."""
    left, right, bottom, top = extent
    y, x = (torch.linspace(*ends, _CELLS, dtype=torch.float64) for ends in ((bottom, top), (left, right)))
    points = torch.stack([x.expand(_CELLS, -1), y[:, None].expand(-1, _CELLS)], -1).reshape(1, -1, 2)
    field = mixture.log_prob(points).exp().reshape(_CELLS, _CELLS).numpy()
    # Steps read as contours, and make a picture of few colours; the square root keeps a rare mode visible.
    colours = sns.blend_palette(["#FFFFFF", *sns.color_palette("mako_r", 6)], as_cmap=True).resampled(36)
    on.imshow(field, extent=extent, origin="lower", cmap=colours, norm=PowerNorm(0.5, 0), interpolation="bilinear")
    on.set(xticks=[], yticks=[])
    on.grid(visible=False)
    on.spines[:].set_visible(True)


def circle(on: Axes, centre: Sequence[float], radius: float) -> None:
    """The dashed line around a target."""
    on.add_patch(Circle(centre, radius, fill=False, color=INK, linewidth=1.2, linestyle=(0, (4, 3))))


def signed(name: str) -> str:
    """A pipeline's label with its marker before it."""
    style = pipeline_style(name)
    return f"{SIGNS.get(style.marker, '★')} {style.label}"
