"""The picture of precision and recall of text: models as points, live, and what moves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from alignkd_lab.plots.drawing import INK, QUIET, panels, themed, write
from alignkd_lab.plots.style import number

# No pipeline's colours: these are models before any pipeline.
_COLOURS = ("#4D4D4D", "#332288", "#AA4499", "#117733")
_MARKERS = "sovD"


class Place(NamedTuple):
    """Nats per token: precision, of what the model says under the truth; recall, of what the truth says under it."""

    precision: float
    recall: float


def in_words(places: Mapping[str, Place]) -> str:
    """What the picture shows."""
    said = [
        f"{name}: precision {number(place.precision)}, recall {number(place.recall)}" for name, place in places.items()
    ]
    return f"Nats per token. {'; '.join(said)}."


@themed
def draw(places: Mapping[str, Place], moves: Sequence[tuple[str, str, str]], note: str) -> Figure:
    """Each model at its recall and precision.

    Args:
        moves: (from, to, words): an arrow between two of `places`, and what it stands for.
        note: the last line: how deep the evidence is, and how much text it is made of.
    """
    figure, grid = panels(1, 1, (8.6, 4.8), "Precision and recall of text", note)
    axis = grid[0, 0]
    for start, end, words in moves:
        (y0, x0), (y1, x1) = places[start], places[end]
        look = {"arrowstyle": "->", "color": QUIET, "shrinkA": 9, "shrinkB": 9, "linewidth": 1.4}
        axis.annotate("", (x1, y1), (x0, y0), arrowprops=look, zorder=2)
        write(axis, words, ((x0 + x1) / 2, (y0 + y1) / 2), (0, 14), QUIET, ha="center")
    for (name, place), colour, marker in zip(places.items(), _COLOURS, _MARKERS, strict=False):
        axis.plot(place.recall, place.precision, marker, color=colour, markersize=11, markeredgecolor="white", zorder=4)
        best = place.precision == max(other.precision for other in places.values())
        shift, side = ((0, 10), "center") if best else ((9, -15), "left")
        write(axis, name, (place.recall, place.precision), shift, colour, ha=side, fontweight="bold")
    axis.margins(0.2)
    axis.text(0.99, 0.985, "better ↗", transform=axis.transAxes, ha="right", va="top", color=INK, fontsize=9)
    axis.set_xlabel("recall: truth's texts under the model (nats per token)")
    axis.set_ylabel("precision: the model's texts\nunder the truth (nats per token)")
    return figure
