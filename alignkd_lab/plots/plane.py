"""The plane of the Gaussian world: its window; and a pipeline's sign."""

from __future__ import annotations

import numpy as np

from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.style import pipeline_style

SIGNS = {"s": "■", "D": "◆", "v": "▼", "o": "●", "^": "▲", "P": "✚", "X": "✖", "h": "⬢"}


def window(settings: MogSettings) -> tuple[float, float, float, float]:
    """The part of the plane that is drawn: left, right, bottom, top."""
    means, margin = np.array(settings.truth_means), 4.5 * settings.truth_sd
    (left, bottom), (right, top) = means.min(0) - margin, means.max(0) + margin
    return float(left), float(right), float(bottom), float(top)


def signed(name: str) -> str:
    """A pipeline's label with its marker before it."""
    style = pipeline_style(name)
    return f"{SIGNS.get(style.marker, '★')} {style.label}"
