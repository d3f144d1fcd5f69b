"""How the loss bench is drawn: four outcomes, the push on each, the walk, and what the loss still has to say."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.loss_bench import LAST, LOSER, SATISFIED, SOURCE, WINNER, Bench
from alignkd_lab.course.explorers.threshold import POINT, percent
from alignkd_lab.plots.drawing import BAND, INK, QUIET, themed, write
from alignkd_lab.plots.style import number

TITLE = "Four outcomes under a loss: what it pushes, and when it stops pushing"
# Tol's muted palette, which colour-blind readers can tell apart; no pipeline's colour.
LOSER_COLOUR, WINNER_COLOUR = "#882255", "#117733"
_COLOURS = (LOSER_COLOUR, WINNER_COLOUR, "#332288", "#999933")
_DASHES = ("-", "-", (0, (5, 2)), (0, (1, 1.5)))
_LEAST = -12.0  # power of ten of the least share shown
_STEPS = range(0, LAST + 1, 10)
_BARS = {"width": 0.5, "zorder": 2, "linewidth": 0}


@themed
def draw(data: Bench, note: str = SOURCE) -> Figure:
    """Left: shares and pushes by token. Right: shares along the walk; DPO's weight, or the loss, with the state."""
    figure = plane.canvas((10.0, 6.2), TITLE, note)
    _shares(plane.axes(figure, 0.75, 3.55, 4.1, 1.95), data)
    _pushes(plane.axes(figure, 0.75, 0.95, 4.1, 1.7), data)
    _walk(plane.axes(figure, 5.75, 3.55, 3.7, 1.95), data)
    below = plane.axes(figure, 5.75, 0.95, 3.7, 1.7)
    if data.weights is None:
        _loss(below, data)
    else:
        _weight(below, data)
    return figure


def _names(data: Bench) -> list[str]:
    roles = {LOSER: "\nloser", WINNER: "\nwinner"} if data.paired else {}
    return [f"token {place + 1}{roles.get(place, '')}" for place in range(len(data.probs))]


def _shares(axis: Axes, data: Bench) -> None:
    probs, reference = data.probs, np.exp(data.log_reference)
    places = np.arange(len(probs))
    axis.bar(places, probs, color=_COLOURS, **_BARS)
    axis.hlines(reference, places - 0.36, places + 0.36, color=INK, linewidth=1.6, zorder=3)
    tops = np.maximum(probs, reference)
    key = "bars: policy;  — reference"
    if data.log_teacher is not None:
        teacher = np.exp(data.log_teacher)
        axis.plot(places, teacher, "D", color="white", markeredgecolor=INK, markersize=6, markeredgewidth=1.4, zorder=4)
        tops, key = np.maximum(tops, teacher), f"{key};  ◇ DPO teacher"
    for place, (top, prob) in enumerate(zip(tops, probs, strict=True)):
        write(axis, percent(prob), (place, top), (0, 6), INK, ha="center")
    axis.set(xlim=(-0.6, len(probs) - 0.4), ylim=(0, 1.12))
    axis.set_xticks(places, _names(data))
    axis.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    _title(axis, "Shares", key)


def _pushes(axis: Axes, data: Bench) -> None:
    """Arrows of one scale for the whole walk, so that a fading push is seen to fade."""
    push, reach = data.pushes[data.step], np.abs(data.pushes).max()
    reach = max(reach, 1e-9)
    places = np.arange(len(push))
    axis.axhline(0, color=QUIET, linewidth=1, zorder=1)
    axis.bar(places, push, color=_COLOURS, **{**_BARS, "width": 0.1})
    for place, value in enumerate(push):
        if abs(value) > 0.02 * reach:
            look = {"color": _COLOURS[place], "markersize": 11, "markeredgewidth": 0, "zorder": 3}
            axis.plot(place, value, "^" if value > 0 else "v", **look)
        write(axis, number(value, 2), (place, value), (0, 9 if value >= 0 else -17), INK, ha="center")
    axis.set(xlim=(-0.6, len(push) - 0.4), ylim=(-1.45 * reach, 1.45 * reach))
    axis.set_xticks(places, _names(data))
    axis.set_yticks([0], ["0"])
    _title(axis, "Push on each logit", "minus the gradient; one scale for all steps")


def _walk(axis: Axes, data: Bench) -> None:
    """Powers of ten on a plain axis: a logarithmic one takes as long to draw as all the rest."""
    powers = data.log_probs / np.log(10)
    steps, low = np.arange(len(powers)), max(_LEAST, np.floor(powers.min() - 0.3))
    for place, (colour, dashes) in enumerate(zip(_COLOURS, _DASHES, strict=True)):
        axis.plot(steps, powers[:, place], color=colour, linewidth=1.9, linestyle=dashes)
        axis.plot(data.step, powers[data.step, place], "o", color=colour, markersize=6.5, markeredgecolor="white")
    axis.axvline(data.step, color=POINT, linewidth=1.2, zorder=1)
    for place, height in _apart(powers[-1], low):
        look = {"fontweight": "bold", "annotation_clip": False}
        write(axis, f"{place + 1}", (LAST, height), (6, -4), _COLOURS[place], **look)
    axis.set(xlim=(0, LAST), ylim=(low, 0.5))
    ticks = range(0, int(low) - 1, -3 if low < -5 else -1)
    axis.set_yticks(list(ticks), [_share(power) for power in ticks])
    axis.set_xticks(_STEPS)
    _title(axis, "Shares along the training", "logarithmic")
    axis.set_xlabel("training steps")


def _share(power: int) -> str:
    return "100 %" if power == 0 else percent(10.0**power) if power > -4 else f"$10^{{{power}}}$"


def _apart(heights: np.ndarray, low: float) -> list[tuple[int, float]]:
    """Places for labels near `heights`, from the top down, none nearer than a line of print to the next."""
    gap, last, places = 0.085 * (0.5 - low), np.inf, []
    for place in np.argsort(-heights):
        last = min(heights[place], last - gap)
        places.append((int(place), max(last, low)))
    return places


def _weight(axis: Axes, data: Bench) -> None:
    margins, reference, beta = data.margins, data.state["reference_margin"], data.state["beta"]
    low, high = min(margins.min(), -2.0) - 2, max(margins.max(), 0.0) + 5
    x = np.linspace(low, high, 200)
    axis.axvspan(0, high, color=BAND, zorder=0)
    write(axis, "winner leads", (high, 0.66), (-4, 0), QUIET, ha="right", va="center")
    axis.plot(x, 1 / (1 + np.exp(beta * (x - reference))), color=INK, linewidth=1.3)
    axis.plot([low, 0, 0, high], [0.5, 0.5, 0, 0], color=QUIET, linewidth=1.3, linestyle=(0, (4, 3)))
    axis.axhline(SATISFIED, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
    walked = slice(0, data.step + 1)
    axis.plot(margins[walked], data.weights[walked], color=POINT, linewidth=3.2, solid_capstyle="round")
    axis.plot(margins[data.step], data.weights[data.step], "o", color=POINT, markersize=10, markeredgecolor="white")
    axis.set(xlim=(low, high), ylim=(-0.04, 0.75))
    axis.set_yticks([0, SATISFIED, 0.25, 0.5], ["0", "0.05", "0.25", "0.5"])
    axis.set_xlabel("Δ_θ = log π(winner) − log π(loser), nats")
    _title(axis, "DPO's weight of the pair", "line: its rule;  - - the belief")


def _loss(axis: Axes, data: Bench) -> None:
    steps = np.arange(len(data.losses))
    axis.plot(steps, data.losses, color=INK, linewidth=1.9)
    axis.plot(data.step, data.losses[data.step], "o", color=POINT, markersize=10, markeredgecolor="white")
    axis.axvline(data.step, color=POINT, linewidth=1.2, zorder=1)
    axis.set_xlim(0, LAST)
    axis.set_xticks(_STEPS)
    axis.margins(y=0.15)
    axis.set_xlabel("training steps")
    _title(axis, "Loss", f"here {number(data.losses[data.step])} nats")


def _title(axis: Axes, title: str, key: str) -> None:
    axis.set_title(title, y=1.0, pad=6)
    axis.annotate(key, (1, 1), (0, 6), "axes fraction", "offset points", ha="right", fontsize=8.2, color=QUIET)
    axis.grid(axis="x", visible=False)
