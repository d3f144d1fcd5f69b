"""Explorer: "alignment can add it later". Both orders side by side, one stage after the other, seed by seed.

All is read from recorded runs of the Gaussian world; the playground runs any other setting.
"""

from __future__ import annotations

import functools

import altair as alt
import numpy as np

from alignkd_lab.course.shipped import recorded_gaussians
from alignkd_lab.course.widgets.charts import SHAPES, Chart, Menu, Slider, parameters
from alignkd_lab.course.widgets.heat import COLUMNS, components, policy
from alignkd_lab.course.widgets.pieces import axis, beside, numbered, share, sized
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import A_K, K_A, PIPELINES
from alignkd_lab.pipelines import CONTROLS as EXTRA
from alignkd_lab.plots.drawing import INK
from alignkd_lab.plots.style import metric_label, pipeline_style, signed

ALGORITHMS = {"rlhf": "RLHF: rewarded for its own draws", "dpo": "DPO: learns from pairs"}
SHARPENINGS = ("1", "1.5", "2", "3", "4")
SEEDS = 20
# The cell of the title picture, at its end.
CONTROLS = {
    "stage": Slider(2, "stages done", 0, 2, 1),
    "seed": Slider(0, "seed", 0, SEEDS - 1, 1),
    "algorithm": Menu("rlhf", "alignment by", ALGORITHMS),
    "control": Menu(
        "none", "beside the orders", {"none": "the truth", **{name: pipeline_style(name).label for name in EXTRA}}
    ),
    "sharpening": Menu("2", "sharpening of the teacher, s", {s: s for s in SHARPENINGS}),
}
# With the axis of each: constant of the symmetric logarithm, or 0 for a plain one; low and high.
METRICS = {
    "reward": (0, 0, 4),
    "target_precision": (3, -100, 1),
    "overall_precision": (1, -20, -1),
    "overall_recall": (1, -400, -1),
}
_UNKEPT = "student at high temperature"  # of which no record holds anything
_ROUTES = {name: ["base", "kd_only", name] for name in (K_A, *EXTRA)}
_ROUTES |= {A_K: ["base", "base_aligned", A_K], "kd_then_align_high_temperature": ["base", _UNKEPT, EXTRA[-1]]}
_KEPT, _SIDE = [*METRICS, "target_rate"], 220
_TICKS = [-300, -100, -30, -10, -5, -3, -2, -1, 0, 1, 2, 3, 4]


@functools.cache
def cell(algorithm: str, sharpening: str) -> dict[str, list[dict]]:
    """By policy and seed, `m`, its metrics in the order of `METRICS` and then its target rate, and `c`, its components.

    A component is a list of `heat.COLUMNS`.
    """
    run = recorded_gaussians(algorithm, sharpening=float(sharpening))
    numbers = run.metrics.pivot(index=["pipeline", "seed"], columns="metric", values="value")[_KEPT].round(4)
    held: dict[str, list[dict]] = {_UNKEPT: _students()}
    for place, rows in run.mixtures.groupby(["pipeline", "seed"])[COLUMNS]:
        one = {"m": numbers.loc[place].tolist(), "c": rows.to_numpy().round(3).tolist()}
        held.setdefault(place[0], []).append(one)
    return held


@functools.cache
def _students() -> list[dict]:
    """Distilled at the high temperature, fitted again from the same draws; neither s, beta nor algorithm matters."""
    world = MogWorld(MogSettings(), "rlhf", tuple(range(SEEDS)))
    policies = {name: world.start(name) for name in ("base", "student")}
    student = world.run(PIPELINES[EXTRA[-1]][0], policies).policy
    metrics = world.evaluate(student)["metrics"]
    numbers = np.array([metrics[name] for name in _KEPT]).T.round(4).tolist()
    return [{"m": row, "c": parts} for row, parts in zip(numbers, components(student), strict=True)]


def show(*shown: str, **state: float | str) -> Chart:
    """Both orders and a control, or the truth, at a stage; below, four metrics up to there."""
    moved = parameters(CONTROLS, shown, state)
    reached = {
        name: CONTROLS[name].options if not shown or name in shown else [state.get(name, CONTROLS[name].value)]
        for name in ("algorithm", "sharpening")
    }
    settings = MogSettings()
    names = {name: signed(name) for name in _ROUTES}
    cells = {kind: {s: cell(kind, s) for s in reached["sharpening"]} for kind in reached["algorithm"]}
    further = {
        "cells": cells,
        "truth": {"c": components(Problem.of(settings).truth)[0]},
        "routes": _ROUTES,
        "names": names | {"none": "The truth"},
        "colours": {name: pipeline_style(name).colour for name in _ROUTES} | {"none": INK},
        "held": "cells[algorithm][sharpening]",
        "beside": "control != 'none' && isArray(held[control]) ? control : 'none'",
        "order": f"['{K_A}', '{A_K}', beside]",
        # By column and stage, the policies of the seed.
        "left": f"held[routes['{K_A}'][stage]][seed]",
        "middle": f"held[routes['{A_K}'][stage]][seed]",
        "right": "beside == 'none' ? truth : held[routes[beside][stage]][seed]",
        "finds": {
            kind: {
                s: {name: sum(each["m"][-1] > 0.5 for each in policies) for name, policies in held.items()}
                for s, held in of.items()
            }
            for kind, of in cells.items()
        },
        "ka": _rates(K_A),
        "ak": _rates(A_K),
    }
    columns = (_square(k, name) for k, name in enumerate(("left", "middle", "right")))
    squares = beside(*columns, spacing=30, color="shared")
    panels = beside(*(_metric(k, name) for k, name in enumerate(METRICS)), spacing=34)
    title = "The same parts, put together in two orders"
    seen = (
        "Above: densities that distil-then-align and align-then-distil leave after each stage, beside the truth or a "
        "control. Below: reward, target precision, overall precision and overall recall after each stage. Recorded run."
    )
    found = f"finds[algorithm][sharpening].{K_A}", f"finds[algorithm][sharpening].{A_K}"
    words = (
        "{told}",
        f"Recorded run: seed {{seed}} of {SEEDS} ({{upper(algorithm)}}, β = {settings.beta:g}, s = {{sharpening}}, "
        "m₀ = 4 %).{missing}",
        "Darker is denser; dashed circle: the target. Small points: the other seeds.{found}",
    )
    parts = {
        "told": {
            "stage == 0": "Both orders begin at the same base, which shows the target in {ka[0]:share} of its draws.",
            "stage == 1": "Target rate: K-A has distilled, {ka[0]:share} to {ka[1]:share}; A-K has aligned, "
            "{ak[0]:share} to {ak[1]:share}.",
            "": "Target rate: K-A {ka[1]:share} after distilling, {ka[2]:share} after aligning; A-K {ak[1]:share} "
            "after aligning, {ak[2]:share} after distilling. {verdict}",
        },
        "verdict": {
            "ka[2] > 0.5": "Here alignment did add it later.",
            "ka[2] > ka[1] + 0.05": "Here alignment added a part of it later.",
            "": "Alignment did not add it later.",
        },
        "missing": {
            "control != beside": " No {names[control]}: RLHF learns from its own draws and has no pairs.",
            "": "",
        },
        "found": {
            "stage == 2": f" Most draws are on target in {{{found[0]}}} of {SEEDS} seeds of K-A and {{{found[1]}}} of "
            "A-K.",
            "": "",
        },
    }
    return Chart(
        moved, title, squares, panels, words=words, parts=parts, seen=seen, further=further, color="independent"
    )


def _rates(route: str) -> str:
    return f"[{', '.join(f'held[routes.{route}[{step}]][seed].m[{len(METRICS)}]' for step in range(3))}]"


def _square(place: int, held: str) -> alt.LayerChart:
    settings = MogSettings()
    rate = share(f"order[{place}] == 'none' ? {settings.truth_weights[3]} : {held}.m[{len(METRICS)}]")
    title = alt.ExprRef(f"[names[order[{place}]], 'target: ' + {rate}]")
    return policy(settings, f"{held}.c", 4, _SIDE, title, alt.ExprRef(f"colours[order[{place}]]"))


def _metric(place: int, metric: str) -> alt.LayerChart:
    """Lines through the stages that have been reached; the axis is that of every run."""
    constant, low, high = METRICS[metric]
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    y = alt.Y("value:Q", **axis(low, high, bend=constant, values=ticks))
    labels = {"labelExpr": "['base', '1st', '2nd'][datum.value]", "grid": False}
    x = alt.X("step:Q", **axis(-0.25, 2.25, values=[0, 1, 2], **labels))
    seeds = numbered(
        9 * SEEDS, name=f"order[floor(datum.k / {3 * SEEDS})]", step=f"floor(datum.k / {SEEDS}) % 3",
        seed=f"datum.k % {SEEDS}",
    )  # fmt: skip
    seeds = seeds.transform_filter("datum.step <= stage && datum.name != 'none'").transform_calculate(
        value=f"held[routes[datum.name][datum.step]][datum.seed].m[{place}]",
        at=f"datum.step + (datum.seed - {SEEDS / 2}) / {5 * SEEDS}",
        colour="colours[datum.name]",
        sign="names[datum.name][0]",
    )
    mine = seeds.transform_filter("datum.seed == seed")
    ends = mine.transform_filter("datum.step == stage")
    words = [
        ends.transform_filter(f"datum.name == order[{k}]")
        .transform_calculate(words="datum.sign + ' ' + format(datum.value, abs(datum.value) < 10 ? '.2f' : '.0f')")
        .mark_text(align="left", fontSize=11, fontWeight="bold", baseline="bottom")
        .encode(text="words:N", x=alt.value(58 * k), y=alt.value(-6), color=alt.Color("colour:N", scale=None))
        for k in range(3)
    ]
    colour, shapes = alt.Color("colour:N", scale=None), [SHAPES[pipeline_style(name).marker] for name in _ROUTES]
    shape = alt.Shape("name:N", scale=alt.Scale(domain=list(_ROUTES), range=shapes), legend=None)
    look = {"fontSize": 12, "offset": 20, "fontWeight": "normal", "frame": "group"}
    return alt.layer(
        seeds.mark_point(filled=True, size=9, opacity=0.3).encode(alt.X("at:Q"), y, colour),
        mine.mark_line(strokeWidth=1.8).encode(x, y, colour, detail="name:N"),
        ends.mark_point(filled=True, size=90, opacity=1, stroke="white").encode(x, y, colour, shape),
        *words,
    ).properties(**sized(150, 120, metric_label(metric, "mog"), **look))
