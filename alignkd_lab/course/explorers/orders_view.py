"""How the two orders are drawn: densities of the stages, and the metrics through them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.orders import METRICS, Orders
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import DEPTH, INK, mark, seed_points, themed
from alignkd_lab.plots.style import metric_label, number, pipeline_style

TITLE = "The same parts, put together in two orders"
_SOURCES = {**DEPTH, "predicted": "Predicted by closed forms, exact; nothing is trained here"}
_STEPS = {K_A: ("the base", "distilled", "then aligned"), A_K: ("the base", "aligned", "then distilled")}


@themed
def draw(data: Orders, note: str = "") -> Figure:
    """The orders, and the control or else the truth, at the stage of the state; metrics up to there."""
    side, gap, high = 2.95, 0.44, 6.3
    figure = plane.canvas((10.0, high), TITLE, note or source(data))
    norm = _norm(data)
    wall = plane.wall(figure, 0.12, high - 1.0 - side, 3 * side + 2 * gap, side)
    for column, name in enumerate((*data.routes, "truth")[:3]):
        corner = (column * (side + gap), 0.0)
        field = data.fields[name][0 if name == "truth" else data.stage]
        plane.square(wall, field, data.settings, corner, side, norm)
        _name(wall, name, (corner[0], side), 21)
        plane.say(wall, _state(data, name, data.stage), (corner[0], side), 6, fontsize=9.5)
    for column, metric in enumerate(METRICS):
        _metric(plane.axes(figure, 0.6 + 2.42 * column, 0.68, 1.3, 1.15), data, metric, data.stage)
    return figure


@themed
def strip(data: Orders, note: str = "") -> Figure:
    """All stages of every route at once, for a page without a kernel."""
    side, gap, row, foot = 1.85, 0.1, 2.4, 0.72
    figure = plane.canvas((10.0, len(data.routes) * row + foot + 0.35), TITLE, note or source(data))
    norm = _norm(data)
    wall = plane.wall(figure, 0.12, foot, 3 * side + 2 * gap, (len(data.routes) - 1) * row + side)
    for place, name in enumerate(data.routes):
        bottom = (len(data.routes) - 1 - place) * row
        for stage in range(3):
            left = stage * (side + gap)
            plane.square(wall, data.fields[name][stage], data.settings, (left, bottom), side, norm)
            plane.say(wall, _state(data, name, stage), (left, bottom + side), 4, fontsize=8.2)
        _name(wall, name, (0.0, bottom + side), 17)
    tall = (figure.get_figheight() - foot - 0.55) / 2
    for place, metric in enumerate(METRICS):
        left, bottom = 6.47 + 1.95 * (place % 2), foot + 0.22 + (1 - place // 2) * tall
        _metric(plane.axes(figure, left, bottom, 0.87, tall - 0.72), data, metric, 2)
    return figure


def source(data: Orders) -> str:
    """The last line: how deep the evidence is, and what the marks are."""
    seeds = f", seed {data.seed} of {data.seeds}" if data.seeds else ""
    return f"{_SOURCES[data.depth]}{seeds}. {marks(data)}"


def marks(data: Orders) -> str:
    """What the marks are."""
    return f"{plane.MARKS}{'; faint points: the other seeds' if data.seeds else ''}."


def _norm(data: Orders):
    return plane.one_scale(field for fields in data.fields.values() for field in fields)


def _state(data: Orders, name: str, stage: int) -> str:
    if name == "truth":
        return f"target: {percent(plane.target_weight(data.settings))}"
    said = _STEPS.get(name, _STEPS[K_A])[stage]
    return f"{said}, target: {percent(data.metrics[name][stage]['target_rate'])}".replace("more than ", "> ")


def _name(wall: Axes, name: str, place: tuple[float, float], up: float) -> None:
    label, colour = ("The truth", INK) if name == "truth" else plane.signed(name)
    plane.say(wall, label, place, up, color=colour, fontsize=10.5, fontweight="bold")


def _metric(axis: Axes, data: Orders, metric: str, stage: int) -> None:
    """Lines through the stages that have been reached; the axis is that of the whole route."""
    ends, everything = {}, []
    for name in data.routes:
        values, others = [step[metric] for step in data.metrics[name]], data.others[name][metric]
        everything += [*values, *others[np.isfinite(others)]]
        for step, held in enumerate(others[: stage + 1]):
            seed_points(axis, step + np.linspace(-0.07, 0.07, held.size), held, pipeline_style(name).colour)
        axis.plot(range(stage + 1), values[: stage + 1], color=pipeline_style(name).colour, linewidth=1.6)
        mark(axis, stage, values[stage], name, 7)
        ends[name] = values[stage]
    scale = _scale(axis, everything)
    label = metric_label(metric, "mog").replace("(nats)", f"(nats{scale})")
    axis.annotate(label, (0, 1), (-18, 8), "axes fraction", "offset points", fontsize=9)
    axis.set_xticks(range(3), ["base", "1st", "2nd"])
    axis.set_xlim(-0.25, 2.25)
    _values(axis, ends)


def _values(axis: Axes, ends: dict[str, float]) -> None:
    """The current values on the right, beside where they lie, moved apart where they would overlap."""
    heights = {name: (axis.transScale + axis.transLimits).transform((0, value))[1] for name, value in ends.items()}
    apart = 13 / 72 / (axis.get_position().height * axis.figure.get_figheight())
    names = sorted(heights, key=heights.get)
    places = np.array([heights[name] for name in names])
    for _ in range(20):
        for low in range(len(places) - 1):
            short = apart - (places[low + 1] - places[low])
            if short > 0:
                places[low] -= short / 2
                places[low + 1] += short / 2
    places += max(0.0, -places[0]) - max(0.0, places[-1] - 1)
    font = {"fontsize": 8.5, "fontweight": "bold", "va": "center"}
    for name, place in zip(names, places, strict=True):
        style = pipeline_style(name)
        said = f"{plane.SIGNS[style.marker]} {number(ends[name], 2)}"
        axis.annotate(said, (1, place), (4, 0), "axes fraction", "offset points", color=style.colour, **font)


def _scale(axis: Axes, values: Sequence[float]) -> str:
    """The axis for all these values, logarithmic where they lie far apart; what its title says of it."""
    low, high = min(values), max(values)
    if high < 0 and low / high > 20:
        axis.set_yscale("symlog", linthresh=abs(high) / 2)
        axis.set_yticks([step for step in (-3.0, -10.0, -30.0, -100.0, -300.0, -1000.0) if low < step < high])
        axis.yaxis.set_major_formatter(lambda value, _: number(value, 1))
        axis.set_ylim(low * 1.4, high / 1.4)
        axis.minorticks_off()
        return ", log"
    room = 0.08 * (high - low) or 0.5
    axis.set_ylim(low - room, high + room)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    return ""
