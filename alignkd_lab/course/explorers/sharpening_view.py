"""How the ring is drawn: four densities, and the precision-recall plane in which both students move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.sharpening import (
    JUDGES,
    RECALL_DRAWS,
    SIDE,
    SOURCE,
    STUDENTS,
    Score,
    Sharpening,
)
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.plots.drawing import BAND, INK, QUIET, themed, write
from alignkd_lab.plots.style import number

TITLE = "Sharpen the teacher: is the student better?"
_SQUARE = 2.1  # inches
# One scale for all states, so that a slider's changes can be compared; what is denser is as dark.
_NORM = PowerNorm(0.5, vmin=0, vmax=2.0, clip=True)
_LOWEST = Score(precision=-60.0, recall=-200.0)
_HIGHEST = Score(precision=0.9, recall=-0.5)
_TICKS, _FEW_TICKS = (0.0, -1.0, -2.0, -5.0, -10.0, -20.0, -50.0, -100.0), (0.0, -2.0, -10.0, -50.0)
_NAMES = {
    "truth": ("Truth p*, draws", INK),
    "sharpened": ("Teacher, sharpened", INK),
    "direct": ("■ Direct student", STUDENTS["direct"][0]),
    "distilled": ("● Distilled student", STUDENTS["distilled"][0]),
}
_MARKS = "★ p* itself; □ the direct student at s = 1; shaded: better in both."
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


@themed
def draw(data: Sharpening, note: str = SOURCE) -> Figure:
    """Left: truth, sharpened teacher and both students. Right: both students' scores."""
    figure = plane.canvas((10.0, 5.75), TITLE, note)
    right, up = _SQUARE + 0.25, _SQUARE + 0.36
    wall = plane.wall(figure, 0.12, 0.5, right + _SQUARE, up + _SQUARE + 0.3)
    places = {"truth": (0, up), "sharpened": (right, up), "direct": (0, 0), "distilled": (right, 0)}
    for name, corner in places.items():
        _density(wall, data, name, corner, _SQUARE)
    axis = plane.axes(figure, 5.65, 1.0, 4.15, 4.15)
    _scores(axis, data)
    _key(axis)
    axis.set_xlabel(f"recall on {RECALL_DRAWS[data.state['draws']]} (nats)")
    axis.set_ylabel(f"precision under {JUDGES[data.state['judge']]} (nats)")
    return figure


@themed
def strip(settings: Sequence[Sharpening], note: str = SOURCE) -> Figure:
    """Several settings side by side, for a page without a kernel; truth and direct student are the first one's."""
    figure = plane.canvas((10.0, 5.05), TITLE, f"{note} {_MARKS}")
    side, small, step = 1.72, 1.06, 2.62
    wall = plane.wall(figure, 0.12, 0.5, 9.8, 4.5)
    _density(wall, settings[0], "truth", (0, side + 0.38), side)
    _density(wall, settings[0], "direct", (0, 0), side)
    for place, data in enumerate(settings):
        left = 2.35 + step * place
        said = f"s = {data.state['sharpening']:.3g}\n{JUDGES[data.state['judge']].replace('the ', 'judge: ', 1)}"
        plane.say(wall, said, (left - 0.12, 4.05), 0, color=INK, fontsize=9.5, fontweight="bold", va="center")
        _density(wall, data, "sharpened", (left - 0.12, 2.62), small)
        _density(wall, data, "distilled", (left + 1.06, 2.62), small)
        axis = plane.axes(figure, left + 0.32, 0.98, 2.02, 1.9)
        _scores(axis, data, 0.75)
        axis.set_xlabel("recall, " + ("fresh draws" if data.state["draws"] == "fresh" else "training draws"))
        if place == 0:
            axis.set_ylabel("precision")
    return figure


def _density(wall: Axes, data: Sharpening, name: str, corner: tuple[float, float], side: float) -> None:
    words, colour = _NAMES[name]
    large = side > 1.5
    plane.hang(wall, data.fields[name], corner, side, _NORM)
    font = {"color": colour, "fontsize": 10 if large else 8.5, "fontweight": "bold"}
    said = words if large else words.split(",")[0].removesuffix(" student")
    plane.say(wall, said, (corner[0], corner[1] + side), 4, **font)
    if name == "truth":
        x, y = _on_wall(data.training_draws, corner, side).T
        wall.plot(x, y, ".", color=INK, alpha=0.55, markersize=2.6, markeredgewidth=0)
    if name == "sharpened" and large:
        for share, (x, y) in zip(data.shares, _on_wall(data.means, corner, side), strict=True):
            if share >= 0.005:
                said = percent(share).replace("more than ", "> ")
                wall.text(x, y, said, ha="center", va="center", fontsize=8, bbox=_LABEL)


def _on_wall(points: np.ndarray, corner: tuple[float, float], side: float) -> np.ndarray:
    return (points + SIDE) / (2 * SIDE) * side + corner


def _scores(axis: Axes, data: Sharpening, size: float = 1.0) -> None:
    """Both students and the truth itself; `size` of the marks, as a share of the large picture's."""
    direct, distilled, perfect = (data.scores[name] for name in ("direct", "distilled", "perfect"))
    _frame(axis, size)
    better = (_HIGHEST.recall - direct.recall, _HIGHEST.precision - direct.precision)
    axis.add_patch(Rectangle((direct.recall, direct.precision), *better, facecolor=BAND, edgecolor="#B8BEC5", lw=0.8))
    if size == 1:
        write(axis, "better\nin both", (_HIGHEST.recall, _HIGHEST.precision), (-4, -4), QUIET, ha="right", va="top")
    old, colour = data.unsharpened, STUDENTS["direct"][0]
    if old.precision != direct.precision:
        axis.plot([old.recall, direct.recall], [old.precision, direct.precision], ":", color=colour)
        axis.plot(*old[::-1], "s", color="white", markeredgecolor=colour, markersize=9 * size)
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkA": 6, "shrinkB": 6}
    axis.annotate("", distilled[::-1], direct[::-1], arrowprops=arrow)
    axis.plot(*perfect[::-1], "*", color=INK, markersize=14 * size, markeredgecolor="white", zorder=4)
    # Where both stand in one place, the direct student is still seen.
    for (name, (colour, marker)), width in zip(STUDENTS.items(), (13, 8.5), strict=True):
        look = {"markersize": width * size, "markeredgecolor": "white", "zorder": 5}
        axis.plot(*data.scores[name][::-1], marker, color=colour, **look)


def _frame(axis: Axes, size: float) -> None:
    axis.set_autoscale_on(False)
    axis.set_xscale("symlog", linthresh=2.0)
    axis.set_yscale("symlog", linthresh=2.0)
    axis.set(xlim=(_LOWEST.recall, _HIGHEST.recall), ylim=(_LOWEST.precision, _HIGHEST.precision))
    for low, high, place in ((*axis.get_xlim(), axis.set_xticks), (*axis.get_ylim(), axis.set_yticks)):
        shown = _TICKS if size == 1 else _FEW_TICKS
        place(*zip(*((value, number(value, 1)) for value in shown if low < value < high), strict=True))
    axis.minorticks_off()


def _key(axis: Axes) -> None:
    place = 0.0
    colours = {"■ direct": "direct", "□ at s = 1": "direct", "● distilled": "distilled", "★ p* itself": None}
    for words, student in colours.items():
        colour = STUDENTS[student][0] if student else INK
        axis.annotate(words, (place, 1.025), xycoords="axes fraction", color=colour, fontsize=9.5, fontweight="bold")
        place += 0.05 + 0.0205 * len(words)
