"""How the token lens is drawn: the text with a colour a token, and of one position what three models say next.

Text takes most of a slider's time, so a row of a list is one string of a font whose letters are equally wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.token_lens import (
    MARKS,
    NAMES,
    QUANTITIES,
    SOURCE,
    TEXTS,
    Candidate,
    View,
    visible,
)
from alignkd_lab.course.lens.readings import MODELS
from alignkd_lab.course.widgets.view import PIXELS_PER_INCH
from alignkd_lab.plots.drawing import BAND, INK, QUIET, themed
from alignkd_lab.plots.style import number

TITLE = "What alignment changed, token by token"
_LIKELY, _ADVANTAGED = "#117733", "#882255"  # Tol's muted palette; no pipeline's colours
_MONO, _SIZE = "DejaVu Sans Mono", 8.6
_LETTER = 11 / PIXELS_PER_INCH  # inches: that font's letters take whole pixels
_ROW, _LINE, _GAP = 0.235, 0.275, 0.035
_SIGNED = LinearSegmentedColormap.from_list("signed", ["#B98CC4", "#E3D3E8", "#FFFFFF", "#CDE7C8", "#7DBF87"])
_POSITIVE = LinearSegmentedColormap.from_list("positive", ["#FFFFFF", "#FBE3A6", "#F0A860"])
_CLOUD = LinearSegmentedColormap.from_list("cloud", ["#E3E7EC", "#7C8894"])
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CIRCLED = "①②③"
_DEEP, _PAGE = (10.0, 6.45), (10.0, 5.9)


@themed
def draw(view: View, note: str = SOURCE) -> Figure:
    """The text above; below, each model's likeliest tokens, those of largest advantage, and the whole vocabulary."""
    figure = plane.canvas(_DEEP, TITLE, f"{MARKS} {note}")
    wall = plane.wall(figure, 0, 0, *_DEEP)
    _text(wall, view, {view.position: ""})
    for place, name in enumerate(MODELS):
        _likely(wall, view, name, (0.35 + 1.78 * place, 4.38))
    _advantaged(wall, view, (0.35, 2.62))
    axis = plane.axes(figure, 6.3, 1.2, 3.45, 3.05)
    _cloud(axis, view, 3)
    axis.set_title(f"All {view.size:,} tokens", pad=6)
    return figure


@themed
def stills(views: Sequence[View], note: str = SOURCE) -> Figure:
    """The text, and the whole vocabulary before three of its tokens, for a page without a kernel."""
    figure = plane.canvas(_PAGE, TITLE, f"{MARKS} {note}")
    wall = plane.wall(figure, 0, 0, *_PAGE)
    _text(wall, views[0], {view.position: _CIRCLED[place] for place, view in enumerate(views)})
    for place, view in enumerate(views):
        left = 0.75 + 3.16 * place
        axis = plane.axes(figure, left, 2.15, 2.5, 1.8)
        _cloud(axis, view, 6)
        axis.set_title(f"{_CIRCLED[place]} before “{visible(view.here)}”", pad=5)
        if place:
            axis.set_ylabel("")
        _short(wall, view, (left - 0.3, 1.5))
    return figure


# The text ---------------------------------------------------------------------------------------------


def _text(wall: Axes, view: View, framed: Mapping[int, str]) -> None:
    """The prompt in grey, the response in colour and wrapped; `framed` tokens have a frame, and a sign below."""
    left, right, top = 0.35, wall.get_xlim()[1] - 0.25, wall.get_ylim()[1]
    heading = TEXTS[view.text]
    wall.text(left, top - 0.62, f"{heading[0].upper()}{heading[1:]}", fontsize=9.5, fontweight="bold", va="center")
    _key(wall, view, right, top - 0.62)
    prompt = "".join(view.prompt)
    wall.add_patch(Rectangle((left, top - 1.05), len(prompt) * _LETTER + 0.04, 0.2, facecolor=BAND, linewidth=0))
    _mono(wall, (left + 0.02, top - 0.95), prompt, QUIET)
    colours, norm = _scale(view)
    x, y = left, top - 0.95 - _LINE
    for place, (words, value) in enumerate(zip(view.words, view.values, strict=True)):
        wide = len(words) * _LETTER + 0.04
        if x + wide > right:
            x, y = left, y - _LINE
        wall.add_patch(Rectangle((x, y - 0.1), wide, 0.2, facecolor=colours(norm(_spread(value))), linewidth=0))
        _mono(wall, (x + 0.02, y), words, INK)
        if place in framed:
            _frame(wall, (x, y - 0.11), wide, 0.22)
            wall.text(x + wide / 2, y - 0.22, framed[place], ha="center", va="center", fontsize=9.5)
        x += wide + _GAP


def _scale(view: View) -> tuple[Colormap, Normalize]:
    """Colours of `_spread` values."""
    limit = _spread(view.limit)
    if view.quantity in ("mask", "kl"):
        return _POSITIVE, Normalize(0, limit)
    return _SIGNED, Normalize(-limit, limit)


def _spread(value: float) -> float:
    """The square root makes small values visible beside one large one."""
    return float(np.sign(value) * np.sqrt(abs(value)))


def _key(wall: Axes, view: View, right: float, y: float) -> None:
    """What the colours mean, at the right end of the heading's line."""
    words = QUANTITIES[view.quantity]
    if view.quantity == "mask":
        wall.text(right, y, f"{words}, none of the prompt's", fontsize=8.5, ha="right", va="center")
        return
    colours, norm = _scale(view)
    ends = (norm.vmin, norm.vmax)
    extent = (right - 1.4, right - 0.4, y - 0.06, y + 0.06)
    wall.imshow(np.linspace(*ends, 40)[None], extent=extent, aspect="auto", cmap=colours, norm=norm)
    shown = (0 if norm.vmin == 0 else -view.limit, view.limit)
    for value, x, side in zip(shown, (right - 1.45, right - 0.35), ("right", "left"), strict=True):
        wall.text(x, y, number(value, 2), fontsize=8, ha=side, va="center")
    wall.text(right - 1.95, y, f"{words} (nats; square-root colours)", fontsize=8.5, ha="right", va="center")


# One position -----------------------------------------------------------------------------------------


def _likely(wall: Axes, view: View, name: str, corner: tuple[float, float]) -> None:
    """A model's likeliest next tokens under the corner, a bar for the probability behind each."""
    (left, top), wide = corner, 22 * _LETTER + 0.06
    wall.text(left, top, NAMES[name], fontsize=9.5, fontweight="bold", va="center")
    for row, candidate in enumerate(view.likely[name]):
        y, prob = top - 0.06 - _ROW * (row + 1), candidate.probs[name]
        wall.add_patch(Rectangle((left, y - 0.1), wide * prob, 0.2, facecolor="#C9DECF", linewidth=0))
        _mono(wall, (left + 0.03, y), f"{_cut(candidate, 15):<15}{_percent(prob):>7}", INK)
        if candidate == view.here:
            _frame(wall, (left, y - 0.11), wide, 0.22)


def _advantaged(wall: Axes, view: View, corner: tuple[float, float]) -> None:
    """The tokens of the largest advantage under the corner, and where each stands in the models' orders."""
    (left, top), wide = corner, 70 * _LETTER + 0.06
    ends = [left + 0.03 + letters * _LETTER for letters in (31, 44, 57, 70)]
    wall.text(left, top - 0.21, "largest advantage", fontsize=9.5, fontweight="bold", va="center")
    wall.text(ends[-1], top, "place in the order of likelihood, for the", fontsize=8.2, ha="right", va="center")
    for x, head in zip(ends, ("A (nats)", "reference", "DPO teacher", "student"), strict=True):
        wall.text(x, top - 0.21, head, fontsize=8.2, ha="right", va="center")
    for row, candidate in enumerate(view.advantaged):
        y = top - 0.27 - _ROW * (row + 1)
        places = "".join(f"{candidate.ranks[name]:>13,}" for name in MODELS)
        words = f"{_cut(candidate, 22):<22}{number(candidate.advantage):>9}{places}"
        _mono(wall, (left + 0.03, y), words, _ADVANTAGED)
        if candidate == view.here:
            _frame(wall, (left, y - 0.11), wide, 0.22)


def _short(wall: Axes, view: View, corner: tuple[float, float]) -> None:
    """For a page: the DPO teacher's three likeliest tokens, and the three of largest advantage with their places."""
    left, top = corner
    probs = [(_cut(c, 11), _percent(c.probs["dpo"])) for c in view.likely["dpo"][:3]]
    places = [(_cut(c, 12), f"{c.ranks['dpo']:,}") for c in view.advantaged[:3]]
    groups = ((0.0, "likeliest", probs, _LIKELY), (1.52, "largest A, and place", places, _ADVANTAGED))
    for shift, head, rows, colour in groups:
        wall.text(left + shift, top, head, fontsize=8.2, fontweight="bold", va="center")
        for row, (words, said) in enumerate(rows):
            _mono(wall, (left + shift, top - 0.02 - 0.22 * (row + 1)), f"{words:<12}{said:>7}", colour)


def _cloud(axis: Axes, view: View, powers: int) -> None:
    """Every token of the vocabulary: how likely the DPO teacher finds it, and its advantage."""
    left, right, low, high = view.extent
    counts = np.ma.masked_equal(view.cloud, 0)
    look = {"cmap": _CLOUD, "norm": LogNorm(1, 300), "zorder": 1.5}
    axis.imshow(counts, origin="lower", extent=view.extent, aspect="auto", **look)
    axis.axhline(0, color=QUIET, linewidth=0.8, zorder=1.6)
    groups = ((view.likely["dpo"], "o", _LIKELY), (view.advantaged, "D", _ADVANTAGED), ((view.here,), "s", INK))
    named: set[str] = set()
    for candidates, marker, colour in groups:
        places = [(np.log10(candidate.probs["dpo"]), candidate.advantage) for candidate in candidates]
        points = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.8, "linestyle": "none"}
        axis.plot(*zip(*places, strict=True), marker, color=colour, clip_on=False, zorder=3, **points)
        if candidates[0].words not in named:
            named.add(candidates[0].words)
            # Likely ones stand at the right end, with the others of their kind above or beside them.
            _name(axis, candidates[0], places[0], colour, places[0][0] > left + 0.6 * (right - left), marker == "o")
    axis.set(xlim=(left, right), ylim=(low, high + 0.08 * (high - low)))
    ticks = np.arange(powers * np.ceil(left / powers), 0.5, powers)
    axis.set_xticks(ticks, [f"10{str(int(power)).translate(_SUPERSCRIPT)}" if power else "1" for power in ticks])
    axis.set_xlabel("probability, DPO teacher")
    axis.set_ylabel("advantage A (nats)")


def _name(axis: Axes, candidate: Candidate, place: tuple[float, float], colour: str, left: bool, below: bool) -> None:
    shift, side = (-5 if left else 5, -13 if below else 6), "right" if left else "left"
    look = {"color": colour, "fontsize": 8.2, "fontfamily": _MONO, "parse_math": False}
    look["path_effects"] = [withStroke(linewidth=2, foreground="white")]
    axis.annotate(_cut(candidate, 14), place, shift, textcoords="offset points", ha=side, zorder=4, **look)


def _mono(wall: Axes, place: tuple[float, float], words: str, colour: str) -> None:
    wall.text(*place, words, fontsize=_SIZE, fontfamily=_MONO, color=colour, va="center", parse_math=False)


def _frame(wall: Axes, corner: tuple[float, float], wide: float, high: float) -> None:
    wall.add_patch(Rectangle(corner, wide, high, fill=False, edgecolor=INK, linewidth=1.6, zorder=4))


def _cut(candidate: Candidate, letters: int) -> str:
    words = visible(candidate)
    return words if len(words) <= letters else f"{words[: letters - 1]}…"


def _percent(prob: float) -> str:
    return f"{100 * prob:.2g} %" if prob >= 0.001 else "<0.1 %"
