"""Explorer: "temperature is sharpening". One exponent on whole sequences and on every token, on a tree of two tokens.

The teacher says A and then one of several equally likely leaves, or B and then always the same leaf. Exact: every
sequence is listed. Sequences are sharpened as a mixture's weights are (KD-MWE); tokens are what a temperature reaches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.course.widgets.charts import POINT
from alignkd_lab.course.widgets.controls import Number, start
from alignkd_lab.course.widgets.view import show_of
from alignkd_lab.plots.drawing import INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number, percent

_LEAST, _MOST = 0.25, 16.0
CONTROLS = {
    "exponent": Number(1.0, "exponent, s = 1/τ", _LEAST, _MOST, 0.05, True),
    "first": Number(0.7, "A's share as the first token", 0.05, 0.95, 0.05),
    "leaves": Number(6.0, "leaves of A (B has one)", 1.0, 12.0, 1.0),
}
START = start(CONTROLS)
SOURCE = "Live: exact, every sequence of a made-up teacher is listed. White lines part A's leaves."
TITLE = "One exponent, on whole sequences and on every token"
ROWS = {
    "teacher": "the teacher",
    "sequences": "whole sequences\nsharpened",
    "tokens": "every token\nat its temperature",
}
# Not a pipeline's colours: these are two first tokens.
A_COLOUR, B_COLOUR = "#44AA99", "#882255"


@dataclass(frozen=True)
class Tree:
    """What the picture shows: the state, the shares at it, and A's share over all exponents.

    shares: by row of `ROWS` the share of every sequence, [leaves + 1], A's leaves first and B's one leaf last.
    exponents, curves: of the right panel, [point]; A's share by "sequences" and by "tokens".
    crossing: the exponent from which on B's sequence outweighs all of A's; None where none does.
    """

    exponent: float
    first: float
    leaves: int
    shares: Mapping[str, np.ndarray]
    exponents: np.ndarray
    curves: Mapping[str, np.ndarray]
    crossing: float | None

    @property
    def share_of_a(self) -> dict[str, float]:
        """By row, how often the first token is A."""
        return {row: float(shares[:-1].sum()) for row, shares in self.shares.items()}


def compute(state: Mapping[str, float]) -> Tree:
    """Both ways to use one exponent s: p(sequence)^s, and p(token)^s at every step, which is the temperature 1/s."""
    exponent, first, leaves = state["exponent"], state["first"], round(state["leaves"])
    teacher = np.array([first / leaves] * leaves + [1 - first])
    exponents = np.geomspace(_LEAST, _MOST, 121)
    curves = {way: np.array([share(first, leaves, s)[:-1].sum() for s in exponents]) for way, share in _WAYS.items()}
    shares = {"teacher": teacher} | {way: share(first, leaves, exponent) for way, share in _WAYS.items()}
    return Tree(exponent, first, leaves, shares, exponents, curves, _crossing(first, leaves))


def by_sequences(first: float, leaves: int, exponent: float) -> np.ndarray:
    """Every sequence to the power s, normalised; [leaves + 1]."""
    return sharpened(np.array([first / leaves] * leaves + [1 - first]), exponent)


def by_tokens(first: float, leaves: int, exponent: float) -> np.ndarray:
    """Both steps' tokens to the power s, normalised at each step; [leaves + 1]."""
    a, b = sharpened(np.array([first, 1 - first]), exponent)
    return np.append(a * sharpened(np.full(leaves, 1 / leaves), exponent), b)


def sharpened(shares: np.ndarray, exponent: float) -> np.ndarray:
    """shares^s / Σ shares^s: what a mixture's sharpening does to weights, and temperature 1/s to tokens."""
    powers = shares**exponent
    return powers / powers.sum()


_WAYS = {"sequences": by_sequences, "tokens": by_tokens}


def _crossing(first: float, leaves: int) -> float | None:
    """Where (1 - p)^s = n (p / n)^s for the share p of A and its n leaves; past it B's sequence has more than half."""
    lead = math.log((1 - first) * leaves / first)  # of B's one sequence over each of A's
    if lead <= 0 or leaves == 1:
        return None
    return math.log(leaves) / lead


def caption(data: Tree) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    share = data.share_of_a
    told = (
        f"The teacher says A first with {percent(share['teacher'])}. With s = {_plain(data.exponent)} on whole "
        f"sequences it is {percent(share['sequences'])}; on every token, τ = {_plain(1 / data.exponent)}, "
        f"{percent(share['tokens'])}."
    )
    gap = share["sequences"] - share["tokens"]
    if abs(gap) < 0.005:
        if data.exponent == 1:
            belief = "At s = 1 neither changes anything."
        elif data.leaves == 1:
            belief = "A has one leaf, as B has, so here temperature is sharpening."
        else:
            belief = "Here the two hardly differ."
    elif (share["sequences"] - 0.5) * (share["tokens"] - 0.5) < 0:
        winners = ("A", "B") if gap > 0 else ("B", "A")
        belief = (
            f"Sequences favour {winners[0]}, tokens {winners[1]}: the temperature never sees that A's share is split "
            f"over {data.leaves} leaves."
        )
    else:
        belief = f"The same exponent, {number(100 * abs(gap), 2)} points apart: a token is drawn before its leaves."
    return f"{told} {belief}"


def _plain(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


@themed
def draw(data: Tree, note: str = SOURCE) -> Figure:
    """Left: the share of every sequence. Right: A's share by exponent, in both ways."""
    figure, grid = panels(1, 2, (10, 3.9), TITLE, note)
    _bars(grid[0, 0], data)
    _curves(grid[0, 1], data)
    return figure


show = show_of(CONTROLS, compute, draw, caption, SOURCE, "two_temperatures.show")


def _bars(axis: Axes, data: Tree) -> None:
    axis.set_title("What is said", y=1.03)
    for place, row in enumerate(ROWS):
        shares = data.shares[row]
        left = np.concatenate([[0.0], shares.cumsum()[:-1]])
        colours = [A_COLOUR] * data.leaves + [B_COLOUR]
        axis.barh(place, shares, left=left, height=0.62, color=colours, edgecolor="white", linewidth=1.2)
        for name, at, share in (("A", 0.0, shares[:-1].sum()), ("B", 1.0, shares[-1])):
            if share > 0.16:
                # Its own ground, so that no line between leaves runs through the words.
                ground = {"facecolor": A_COLOUR if name == "A" else B_COLOUR, "linewidth": 0, "pad": 1.5}
                inside = {"color": "white", "fontsize": 9.5, "fontweight": "bold", "va": "center", "bbox": ground}
                x, side = (at + 0.015, "left") if name == "A" else (at - 0.015, "right")
                axis.text(x, place, f"{name} {percent(share)}", ha=side, **inside)
    axis.set(xlim=(0, 1), ylim=(len(ROWS) - 0.5, -0.5))
    axis.set_yticks(range(len(ROWS)), list(ROWS.values()))
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("share of the sequences")


def _curves(axis: Axes, data: Tree) -> None:
    axis.set(xscale="log", xlim=(_LEAST, _MOST), ylim=(-0.03, 1.05))
    axis.axhline(0.5, color=QUIET, linewidth=1, linestyle=(0, (1, 2)))
    axis.axvline(data.exponent, color=POINT, linewidth=1.4)
    looks = {"sequences": (INK, "-", "o"), "tokens": (INK, (0, (4, 2)), "D")}
    for way, (colour, dashes, marker) in looks.items():
        words = ROWS[way].partition("\n")[0]
        axis.plot(data.exponents, data.curves[way], color=colour, linestyle=dashes, linewidth=1.9, label=words)
        share = data.share_of_a[way]
        axis.plot(data.exponent, share, marker, color=POINT, markersize=9, markeredgecolor="white", zorder=5)
    if data.crossing is not None and _LEAST < data.crossing < _MOST:
        axis.plot(data.crossing, 0.5, "|", color=INK, markersize=11, markeredgewidth=1.8)
        if abs(math.log(data.crossing / data.exponent)) > 0.2:
            write(axis, f"s = {_plain(data.crossing)}", (data.crossing, 0.5), (5, 5), INK)
    axis.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["¼", "½", "1", "2", "4", "8", "16"])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axis.minorticks_off()
    axis.set_xlabel("exponent, s = 1/τ")
    axis.set_ylabel("share of A")
    look = {"ncols": 2, "handlelength": 2.4, "columnspacing": 1.2}
    axis.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), **look).set_in_layout(False)
