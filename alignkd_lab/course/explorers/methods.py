"""Explorer: "there is a best method". Every way to the same small model, on two axes of your own choice.

All points are read from a recorded run of the language world; an axis is a cost or a metric. A way is beaten if another
one is at least as good on both axes and better on one.
"""

from __future__ import annotations

import functools

import altair as alt
import numpy as np

from alignkd_lab.costs import with_costs
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.course.widgets.charts import SHAPES, Chart, Menu, parameters
from alignkd_lab.course.widgets.pieces import ONE, numbered, sized
from alignkd_lab.pipelines import METHODS, ORDERS
from alignkd_lab.plots.drawing import INK, QUIET, depth_line, estimates
from alignkd_lab.plots.style import METRIC_STYLE, metric_label, pipeline_style
from alignkd_lab.records import Records
from alignkd_lab.stats import NAN

WAYS = (*ORDERS, *METHODS)
BASELINE = "kd_only"
START = {"across": "tokens_trained", "up": "reward"}
_LABELS = {
    "tokens_trained": "tokens trained on",
    "tokens_sampled": "tokens sampled",
    "minutes": "minutes (median)",
    "memory_gib": "peak memory (GiB)",
    "gain_per_10000_tokens": "reward above KD only, for 10,000 trained tokens",
    "gain_per_hour": "reward above KD only, for an hour",
}
LESS_IS_BETTER = ("tokens_trained", "tokens_sampled", "minutes", "memory_gib", "kl_to_base")
UP = (
    "reward",
    "target_rate",
    "target_precision",
    "overall_precision",
    "overall_recall",
    "reward_accuracy",
    "distinct_2",
)
ACROSS = (*LESS_IS_BETTER, "overall_recall", "overall_precision", "distinct_2")


@functools.cache
def recorded() -> Records:
    """The registered experiment on SmolLM2 with costs and gains among its metrics."""
    return with_costs(recorded_smollm2().select(pipeline=(BASELINE, *WAYS)), BASELINE)


def points(run: Records) -> list[dict]:
    """The ways and then the baseline, each with its estimate, low and high on every axis that `run` measured."""
    names = [name for name in (*WAYS, BASELINE) if name in run.pipelines]
    found = [{"name": name, "label": short(name)} for name in names]
    for axis in dict.fromkeys((*ACROSS, *UP)):
        held = estimates(run, axis)
        for point in found:
            if point["name"] in held:
                at, values = held[point["name"]]
                if axis == "minutes":  # a median: other work on the machine makes single seeds slower
                    at = np.median(values), NAN, NAN
                point[axis] = [float(value) if np.isfinite(value) else None for value in at]
    return found


def source(run: Records) -> str:
    """What the last line of a picture of this run says of its evidence."""
    about = run.the_run()
    marks = ". Bars: 95 % t-intervals over seeds" if len(run.seeds) > 1 else ""
    return depth_line(
        [run], "record", f"Target: {about['target'].replace('_', ' ')}, {about['algorithm'].upper()}{marks}"
    )


def controls(run: Records | None = None) -> dict[str, Menu]:
    """A list for each axis of what `run` measured (`recorded()` where None)."""
    run = run or recorded()
    return {
        name: Menu(START[name], name, {axis: label(axis) for axis in axes if {*WAYS} & {*run.table(axis)}})
        for name, axes in (("across", ACROSS), ("up", UP))
    }


def short(name: str) -> str:
    """A way's label without what follows its colon: A-K, not `A-K: align, then distil`."""
    return pipeline_style(name).label.partition(":")[0]


def show(*shown: str, run: Records | None = None, **state: str) -> Chart:
    """Every way with its marker on two axes, ringed where no other beats it, and a line along those.

    `run` has costs among its metrics (`costs.with_costs`), `recorded()` where None.
    """
    run = run or recorded()
    moved, found = parameters(controls(run), shown, state), points(run)
    words = {axis: METRIC_STYLE[axis].label if axis in METRIC_STYLE else label(axis) for axis in (*ACROSS, *UP)}
    further = {
        "points": found,
        "labels": {axis: label(axis) for axis in words},
        "words": words,
        "signs": {axis: -1 if axis in LESS_IS_BETTER else 1 for axis in words},
        "rings": {across: {up: rings(found, across, up) for up in UP} for across in ACROSS},
        "on": "rings[across][up]",
        "unbeaten": "on.unbeaten",
    }
    seeds = f"Means over {len(run.seeds)} seeds." if len(run.seeds) > 1 else "One seed decides nothing."
    lines = "Across {words[across]}, up {words[up]}.", "{belief}"
    belief = {
        "on.ways == 0": "The record does not hold both.",
        "on.ringed == 1": "Of {on.ways} ways, {on.names} is best on both; other axes may tell otherwise.",
        "": "There is no best way: {on.ringed} of {on.ways} are beaten by none on both: {on.names}.",
    }
    title = "Every way to the same small model; ringed: beaten by no other on both axes"
    seen = "A point for each way on two axes that can be chosen, a cost or a metric each."
    scales = {"width": 840, "color": "independent", "shape": "independent"}
    return Chart(
        moved, title, _ways(found), words=lines, parts={"belief": belief}, seen=seen, source=f"{seeds} {source(run)}",
        further=further, **scales,
    )  # fmt: skip


def rings(found: list[dict], across: str, up: str) -> dict:
    """On two axes: which points are held, which ways no other beats, their names, and how many there are."""
    signs = [-1 if axis in LESS_IS_BETTER else 1 for axis in (across, up)]
    held = [across in point and up in point for point in found]
    at = {
        k: (signs[0] * point[across][0], signs[1] * point[up][0])
        for k, point in enumerate(found)
        if held[k] and point["name"] in WAYS
    }
    best = [k for k, (x, y) in at.items() if all(o == (x, y) or o[0] < x or o[1] < y for o in at.values())]
    unbeaten, names = [k in best for k in range(len(found))], "; ".join(found[k]["label"] for k in best)
    return {"held": held, "unbeaten": unbeaten, "names": names, "ringed": len(best), "ways": len(at)}


def _ways(found: list[dict]) -> alt.LayerChart:
    rows = numbered(len(found)).transform_filter("on.held[datum.k]")
    axes = (("x", "across"), ("y", "up"))
    ends = {f"{axis}{end}": f"points[datum.k][{of}][{end}]" for axis, of in axes for end in (0, 1, 2)}
    rows = rows.transform_calculate(label="points[datum.k].label", ringed="unbeaten[datum.k]", **ends)
    styles = [pipeline_style(point["name"]) for point in found]
    names = [point["label"] for point in found]
    legend = alt.Legend(title=None, symbolSize=110, symbolStrokeWidth=0, symbolOpacity=1)
    colours, shapes = [style.colour for style in styles], [SHAPES[style.marker] for style in styles]
    colour = alt.Color("label:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
    shape = alt.Shape("label:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    room = alt.Scale(zero=False, padding=24)
    x = alt.X("x0:Q", scale=room, axis=alt.Axis(title=None, format="~s", tickCount=7))
    y = alt.Y("y0:Q", scale=room, axis=alt.Axis(title=None, tickCount=7))
    wide, high = 640, 330
    tips = [alt.Tooltip(f"{axis}0:Q", title=of, format=",.4~r") for axis, of in axes]
    said = alt.ExprRef("labels[across] + (signs[across] > 0 ? ' →' : '; less is better ←')")
    across = ONE.mark_text(align="right", text=said)
    ringed = rows.transform_filter("datum.ringed")
    flat, steep = (rows.transform_filter(f"isValid(datum.{axis}1)").mark_rule(strokeWidth=1.4) for axis in "xy")
    points = rows.mark_point(filled=True, size=170, opacity=1, stroke="white", strokeWidth=0.8)
    return alt.layer(
        ringed.mark_line(color=QUIET, strokeDash=[5, 4], strokeWidth=1.1).encode(x, y, order="x0:Q"),
        flat.encode(alt.X("x1:Q"), y, colour, x2="x2:Q"),
        steep.encode(x, alt.Y("y1:Q"), colour, y2="y2:Q"),
        points.encode(x, y, colour, shape, tooltip=["label:N", *tips]),
        ringed.mark_point(color=INK, size=520, opacity=1, strokeWidth=1.2).encode(x, y),
        across.encode(x=alt.value(wide), y=alt.value(high + 34)),
    ).properties(**sized(wide, high, alt.ExprRef("'↑ ' + labels[up]"), fontWeight="normal", fontSize=12))


def label(metric: str) -> str:
    """A metric, a cost or a gain in words."""
    return _LABELS.get(metric) or metric_label(metric, "lm")
