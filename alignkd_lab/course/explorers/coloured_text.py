"""How a text is drawn with a colour a token, in a font whose letters are equally wide, with a key to the colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from alignkd_lab.course.widgets.view import PIXELS_PER_INCH
from alignkd_lab.plots.drawing import BAND, INK, QUIET
from alignkd_lab.plots.style import number

MONO, _SIZE = "DejaVu Sans Mono", 8.6
LETTER = 11 / PIXELS_PER_INCH  # inches: that font's letters take whole pixels
_LINE, _GAP = 0.275, 0.035
_SIGNED = LinearSegmentedColormap.from_list("signed", ["#B98CC4", "#E3D3E8", "#FFFFFF", "#CDE7C8", "#7DBF87"])
_POSITIVE = LinearSegmentedColormap.from_list("positive", ["#FFFFFF", "#FBE3A6", "#F0A860"])


class Colours(NamedTuple):
    """What the colours mean: in `words`, up to `limit` nats, `signed` or from 0 on; `scale`: whether a key shows it."""

    words: str
    limit: float
    signed: bool
    scale: bool = True

    @property
    def norm(self) -> Normalize:
        """Of `spread` values."""
        limit = spread(self.limit)
        return Normalize(-limit if self.signed else 0, limit)

    @property
    def map(self) -> LinearSegmentedColormap:
        """From the least to the largest."""
        return _SIGNED if self.signed else _POSITIVE


def draw_text(
    wall: Axes, prompt: str, words: Sequence[str], values: Sequence[float], colours: Colours, framed: Mapping[int, str]
) -> None:
    """The prompt in grey, the response in colour and wrapped; `framed` tokens have a frame, and a sign below."""
    left, right, top = 0.35, wall.get_xlim()[1] - 0.25, wall.get_ylim()[1]
    _key(wall, colours, right, top - 0.62)
    wall.add_patch(Rectangle((left, top - 1.05), len(prompt) * LETTER + 0.04, 0.2, facecolor=BAND, linewidth=0))
    mono(wall, (left + 0.02, top - 0.95), prompt, QUIET)
    x, y, norm = left, top - 0.95 - _LINE, colours.norm
    for place, (said, value) in enumerate(zip(words, values, strict=True)):
        wide = len(said) * LETTER + 0.04
        if x + wide > right:
            x, y = left, y - _LINE
        wall.add_patch(Rectangle((x, y - 0.1), wide, 0.2, facecolor=colours.map(norm(spread(value))), linewidth=0))
        mono(wall, (x + 0.02, y), said, INK)
        if place in framed:
            frame(wall, (x, y - 0.11), wide, 0.22)
            wall.text(x + wide / 2, y - 0.22, framed[place], ha="center", va="center", fontsize=9.5)
        x += wide + _GAP


def spread(value: float) -> float:
    """The square root makes small values visible beside one large one."""
    return float(np.sign(value) * np.sqrt(abs(value)))


def mono(wall: Axes, place: tuple[float, float], words: str, colour: str) -> None:
    """Words in letters of one width."""
    wall.text(*place, words, fontsize=_SIZE, fontfamily=MONO, color=colour, va="center", parse_math=False)


def frame(wall: Axes, corner: tuple[float, float], wide: float, high: float) -> None:
    """A line around what stands there."""
    wall.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=INK, linewidth=1.6, zorder=4))


def _key(wall: Axes, colours: Colours, right: float, y: float) -> None:
    """What the colours mean, at the right end of the heading's line."""
    if not colours.scale:
        wall.text(right, y, colours.words, fontsize=8.5, ha="right", va="center")
        return
    norm = colours.norm
    extent = (right - 1.4, right - 0.4, y - 0.06, y + 0.06)
    wall.imshow(np.linspace(norm.vmin, norm.vmax, 40)[None], extent=extent, aspect="auto", cmap=colours.map, norm=norm)
    shown = (-colours.limit if colours.signed else 0, colours.limit)
    for value, x, side in zip(shown, (right - 1.45, right - 0.35), ("right", "left"), strict=True):
        wall.text(x, y, number(value, 2), fontsize=8, ha=side, va="center")
    wall.text(right - 1.95, y, f"{colours.words} (nats; square-root colours)", fontsize=8.5, ha="right", va="center")
