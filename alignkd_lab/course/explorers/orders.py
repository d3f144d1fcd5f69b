"""Explorer: "alignment can add it later". Both orders side by side, one stage after the other.

A recorded cell shows its record. At any other setting the picture shows, at once, what closed forms
predict for models without limits, and a button runs the real thing: three seeds, some seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkd_lab.course.explorers.cells import (
    ALGORITHMS,
    find_run,
    run_here,
    settings_of,
    standing,
    steps_of,
    student_at_high_temperature,
)
from alignkd_lab.course.widgets.controls import Choice, Number, start
from alignkd_lab.course.widgets.live import LiveExplorer
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.pipelines import CONTROLS as EXTRA
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import DEPTH, INK, mark, seed_points, themed
from alignkd_lab.plots.style import metric_label, number, percent, pipeline_style
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import Records

METRICS = ("reward", "target_precision", "overall_precision", "overall_recall")
NO_CONTROL = "none"
_BESIDE = {NO_CONTROL: "none (the truth is shown instead)", **{name: pipeline_style(name).label for name in EXTRA}}
# The cell of the title picture, at its end.
CONTROLS = {
    "stage": Number(2.0, "stages done", 0.0, 2.0, 1.0),
    "algorithm": Choice("rlhf", "alignment by", ALGORITHMS),
    "control": Choice(
        NO_CONTROL, "control beside the orders", {NO_CONTROL: "none (the truth is shown instead)"} | _BESIDE
    ),
    "target_weight": Number(0.04, "target's share of the truth, m₀", 0.005, 0.25, 0.05, True),
    "beta": Number(0.5, "KL weight, β", 0.1, 4.0, 0.05, True),
    "sharpening": Number(2.0, "sharpening of the teacher, s", 0.5, 4.0, 0.25),
    "seed": Number(0.0, "seed", 0.0, 19.0, 1.0),
}
START = start(CONTROLS)
_UNKEPT = "student at high temperature"  # of which no record holds anything
_MIDDLE = {K_A: "kd_only", A_K: "base_aligned", **dict.fromkeys(EXTRA[:2], "kd_only")}
TITLE = "The same parts, put together in two orders"
_SOURCES = {**DEPTH, "predicted": "Predicted by closed forms, exact; nothing is trained here"}
_STEPS = {K_A: ("the base", "distilled", "then aligned"), A_K: ("the base", "aligned", "then distilled")}


@dataclass(frozen=True)
class Orders:
    """What the picture shows: of each route the base, the policy after one stage, and the one after both.

    stage: 0, 1 or 2, the last one that has been reached.
    settings, algorithm, seed, control: of the run; control is None where none is shown,
        left_out names one that means nothing under this algorithm.
    depth: "record", "live", or "predicted" (closed forms, nothing trained); seeds: how many stand behind it.
    fields: by pipeline three densities `[y, x]` on `plane.window`; "truth" has one.
    metrics: by pipeline three dicts of the shown seed.
    others: `{pipeline: {metric: [stage, seed]}}` of every seed; NaN where a stage's metrics were not kept.
    """

    stage: int
    settings: MogSettings
    algorithm: str
    seed: int
    control: str | None
    left_out: str | None
    depth: str
    seeds: int
    fields: dict[str, list[np.ndarray]]
    metrics: dict[str, list[dict[str, float]]]
    others: dict[str, dict[str, np.ndarray]]

    @property
    def routes(self) -> tuple[str, ...]:
        return (*ORDERS, self.control) if self.control else ORDERS


def compute(state: Mapping[str, Any], live: Sequence[Records] = ()) -> Orders:
    """Densities and metrics of every stage: of the recorded run, of one of the `live` runs, or predicted.

    Args:
        state: of `CONTROLS`.
        live: runs as `experiment.run_cell` gives them.

    Raises:
        BadInput: a setting that the Gaussian world cannot use.
    """
    algorithm, control, seed = state["algorithm"], state["control"], round(state["seed"])
    possible = control in default_pipelines("mog", algorithm)
    left_out = control if not possible and control != NO_CONTROL else None
    routes = (*ORDERS, control) if possible else ORDERS
    shared = {"stage": round(state["stage"]), "algorithm": algorithm, "seed": seed}
    shared |= {"control": control if possible else None, "left_out": left_out}
    run, depth = find_run(state, live)
    if run is None:
        return _predicted(settings_of(state), routes, shared)
    return _ran(run, depth, routes, shared)


def caption(data: Orders) -> str:
    """What the picture shows at this state, in words."""
    return " ".join(filter(None, [_happened(data), _control(data), _evidence(data)]))


# From a run


def _ran(run: Records, depth: str, routes: Sequence[str], shared: dict) -> Orders:
    settings, seed = MogSettings(**run.settings), shared["seed"]
    values = run.metrics.pivot(index="seed", columns=["pipeline", "metric"], values="value")
    views = plane.views(run.mixtures[run.mixtures["seed"] == seed])
    fields, metrics, others = {"truth": [plane.field(plane.truth(settings), settings)]}, {}, {}
    for route in routes:
        names = ["base", _MIDDLE.get(route, _UNKEPT), route]
        held = {name: (values.loc[seed, name].to_dict(), views[name]) for name in names if name != _UNKEPT}
        if _UNKEPT in names:
            held[_UNKEPT] = student_at_high_temperature(settings, seed)
        metrics[route] = [held[name][0] for name in names]
        fields[route] = [plane.field(held[name][1], settings) for name in names]
        others[route] = {metric: values.reindex(columns=[(name, metric) for name in names]).to_numpy().T
                         for metric in METRICS}  # fmt: skip
    shown = {"fields": fields, "metrics": metrics, "others": others}
    return Orders(**shared, settings=settings, depth=depth, seeds=len(run.seeds), **shown)


# From closed forms


def _predicted(settings: MogSettings, routes: Sequence[str], shared: dict) -> Orders:
    closed_form = ClosedForm(settings)
    left, right, bottom, top = plane.window(settings)
    low, high = torch.tensor([[left, bottom], [right, top]])
    inside = ((closed_form.points > low) & (closed_form.points < high)).all(-1)
    side = round(inside.sum().item() ** 0.5)

    def field(policy) -> np.ndarray:
        # The grid runs along x2 first, a picture along x1.
        return policy.log_probs[inside].exp().reshape(side, side).T.numpy() / closed_form.cell**2

    policies = {route: closed_form.route(route) for route in routes}
    fields = {route: [field(policy) for policy in held] for route, held in policies.items()}
    shown = {
        "fields": {"truth": [field(closed_form.truth)], **fields},
        "metrics": {route: [closed_form.metrics(policy) for policy in held] for route, held in policies.items()},
        "others": {route: {name: np.empty((3, 0)) for name in METRICS} for route in routes},
    }
    return Orders(**shared, settings=settings, depth="predicted", seeds=0, **shown)


# In words


def _shares(data: Orders, route: str) -> list[str]:
    return [percent(step["target_rate"]) for step in data.metrics[route]]


def _happened(data: Orders) -> str:
    (base, distilled, later), (_, aligned, last) = (_shares(data, order) for order in ORDERS)
    if data.stage == 0:
        return f"Both orders begin at the same base, which shows the target in {base} of its draws."
    if data.stage == 1:
        first = f"K-A has distilled: the target's share went from {base} to {distilled}."
        return f"{first} A-K has aligned: it went from {base} to {aligned}."
    rewards = {order: number(data.metrics[order][2]["reward"], 3) for order in ORDERS}
    first = f"K-A showed the target in {distilled} of its draws after distilling and in {later} after aligning"
    second = f"A-K in {aligned} after aligning and in {last} after distilling"
    return f"{first}: reward {rewards[K_A]}. {second}: reward {rewards[A_K]}. {_verdict(data)}"


def _verdict(data: Orders) -> str:
    before, after = (data.metrics[K_A][stage]["target_rate"] for stage in (1, 2))
    if after > 0.5:
        return "Here alignment did add it later."
    if after > before + 0.05:
        return "Here alignment added a part of it later."
    return "Alignment did not add it later."


def _control(data: Orders) -> str:
    if data.left_out:
        return (
            f"{pipeline_style(data.left_out).label}: not under RLHF, which learns from its own draws and has no pairs."
        )
    if data.control is None:
        return ""
    _, first, last = _shares(data, data.control)
    if data.stage == 0:
        return ""
    label, reward = pipeline_style(data.control).label, number(data.metrics[data.control][2]["reward"], 3)
    return f"{label}: {first} after distilling" + (f", {last} at the end, reward {reward}." if data.stage > 1 else ".")


def _evidence(data: Orders) -> str:
    settings = data.settings
    weight = percent(settings.target_weight)
    cell = f"{data.algorithm.upper()}, β = {settings.beta:.3g}, s = {settings.sharpening:.3g}, m₀ = {weight}"
    if data.depth == "predicted":
        without = "for models of any size that learn perfectly"
        return f"Predicted by closed forms {without} ({cell}); no run of this setting is at hand, so press Run."
    kind = {"record": "Recorded", "live": "Run live"}[data.depth]
    return f"{kind}: seed {data.seed} of {data.seeds} seeds ({cell})."


# The picture


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
        return f"target: {percent(data.settings.target_weight)}"
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
    heights = [(axis.transScale + axis.transLimits).transform((0, value))[1] for value in ends.values()]
    gap = 13 / 72 / (axis.get_position().height * axis.figure.get_figheight())
    font = {"fontsize": 8.5, "fontweight": "bold", "va": "center"}
    for (name, value), place in zip(ends.items(), plane.apart(heights, gap, 0.0), strict=True):
        style = pipeline_style(name)
        said = f"{plane.SIGNS[style.marker]} {number(value, 2)}"
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


# On the page


def show(*shown: str, **state: Any) -> LiveExplorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    A button runs a setting that no record holds, three seeds from the chosen one on.
    """

    def strip_of_stages(state: Mapping[str, Any]) -> tuple[Figure, str]:
        data = compute({**state, "stage": 2.0}, made.runs)
        text = caption(data)
        return strip(data, f"{text} {marks(data)}"), text

    live = (run_here, steps_of, standing)
    made = LiveExplorer(CONTROLS, shown, state, compute, draw, caption, "orders.show", strip_of_stages, *live)
    return made
