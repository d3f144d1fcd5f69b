"""Explorer: "if the model does it now and then, alignment will find it". It needs pairs, and those can be counted.

Exact: the distribution of informative pairs of a rule as reward, every prompt at the same base rate (`lm.feasibility`).
Neither the reward's size nor the KL weight is among the controls, because neither is in the formula.
"""

from __future__ import annotations

import functools

import altair as alt
import numpy as np

from alignkd_lab.claims import LEAST_PAIRS
from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, POINT, STATE, axis, beside, note, numbered, sized
from alignkd_lab.lm.feasibility import SURE, chance_of_pairs
from alignkd_lab.plots.drawing import INK, QUIET

# The study's target and sizes, as its plan names them (data/records/PLAN.md).
CONTROLS = {
    "rate": Slider(0.023, "base rate of the target, m₀", 0.001, 0.5, 0.02, True),
    "responses": Slider(24.0, "responses to each prompt, n", 2.0, 96.0, 1.0),
    "prompts": Slider(96.0, "prompts", 8.0, 400.0, 8.0),
}
SOURCE = "Live: closed forms, exact; no model runs. Zones: computed before, for each stop of “prompts”."
_RATES = np.geomspace(1e-3, 0.5, 60)
RESPONSES = np.array([2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96])
_COLOURS = ("#F3D9C9", "#FFFFFF", "#D5E6F2")  # no go, unsure, go
_MOST = RESPONSES.max()
# Of the sum that gives the chance: points on a circle, and its radius, which keeps the error below 1e-8.
_POINTS, _RADIUS = 64, 0.75


def show(*shown: str, **state: float) -> Chart:
    """Left: where there is enough to learn from. Right: pairs expected by responses at this base rate."""
    moved = parameters(CONTROLS, shown, state)
    words = (
        "{prompts:,} prompts × {responses} responses are {prompts * responses:,} draws with {datum.pairs:,.0f} "
        "informative pairs expected, at a base rate of {rate:share}.",
        f"The chance of at least {LEAST_PAIRS} is {{datum.chance:share}}: {{verdict}}. {{needed}}; no reward changes "
        "that.",
    )
    parts = {
        "verdict": {f"datum.chance >= {SURE}": "go", f"datum.chance <= {1 - SURE:g}": "no go", "": "a gamble"},
        "needed": {
            f"datum.needed > {_MOST}": f"{_MOST} responses to each prompt would not give {LEAST_PAIRS} on average",
            "": f"From {{datum.needed}} responses a prompt on, {LEAST_PAIRS} are expected",
        },
    }
    seen = (
        f"Left: by base rate and responses to each prompt, where at least {LEAST_PAIRS} informative pairs are nearly "
        "sure, where nearly ruled out, and a border between. Right: the pairs expected by responses to each prompt."
    )
    panels = beside(_map(state.get("prompts", CONTROLS["prompts"].value)), _curve())
    title = "Is there enough to learn from?"
    return Chart(moved, title, panels, words=words, parts=parts, of=_chance(), seen=seen, source=SOURCE)


def _counts() -> alt.Chart:
    """A row for n responses to a prompt, of which h are hits: its `chance`, the pairs expected at n, and from which n
    on there are enough."""
    pairs = numbered((_MOST + 1) ** 2, "i", n=f"floor(datum.i / {_MOST + 1})", h=f"datum.i % {_MOST + 1}")
    pairs = pairs.transform_filter("datum.n >= 2 && datum.h <= datum.n").transform_calculate(
        step="datum.h > 0 ? log((datum.n - datum.h + 1) / datum.h) : 0"
    )
    pairs = pairs.transform_window(choices="sum(step)", groupby=["n"], sort=[alt.SortField("h")])
    pairs = pairs.transform_calculate(
        made="min(datum.h, datum.n - datum.h)",
        mass="exp(datum.choices + datum.h * log(rate) + (datum.n - datum.h) * log(1 - rate))",
        part="prompts * datum.mass * datum.made",
    )
    pairs = pairs.transform_joinaggregate(pairs="sum(part)", groupby=["n"])
    pairs = pairs.transform_calculate(enough=f"datum.pairs >= {LEAST_PAIRS} ? datum.n : {_MOST + 1}")
    return pairs.transform_joinaggregate(needed="min(enough)")


def _chance() -> alt.Chart:
    """One row: the `pairs` expected, from which n on there are enough (`needed`), and the `chance` of enough.

    The pairs of all prompts have the generating function of one prompt's to the power of their number. Its first
    coefficients come from its values on a circle, as `lm.feasibility.chance_of_pairs` has them from a recurrence.
    """
    places = np.arange(_POINTS // 2 + 1)  # the other half are the conjugates
    z = _RADIUS * np.exp(2j * np.pi * places / _POINTS)
    fewer = (z[:, None] ** -np.arange(LEAST_PAIRS)).sum(-1) * np.where(places % (_POINTS // 2) == 0, 1, 2) / _POINTS
    one = _counts().transform_filter("datum.n == responses").transform_calculate(j=f"sequence({len(places)})")
    one = one.transform_flatten(["j"]).transform_calculate(
        size=f"datum.mass * pow({_RADIUS}, datum.made)",
        turn=f"datum.made * datum.j * {2 * np.pi / _POINTS}",
        real="datum.size * cos(datum.turn)",
        imaginary="datum.size * sin(datum.turn)",
    )
    one = one.transform_aggregate(
        a="sum(real)", b="sum(imaginary)", pairs="max(pairs)", needed="max(needed)", groupby=["j"]
    )
    one = one.transform_calculate(
        size="pow(datum.a * datum.a + datum.b * datum.b, prompts / 2)",
        turn="prompts * atan2(datum.b, datum.a)",
        fewer=f"datum.size * (cos(datum.turn) * {fewer.real.tolist()}[datum.j] - sin(datum.turn) * "
        f"{fewer.imag.tolist()}[datum.j])",
    )
    one = one.transform_aggregate(fewer="sum(fewer)", pairs="max(pairs)", needed="max(needed)")
    return one.transform_calculate(chance="clamp(1 - datum.fewer, 0, 1)")


@functools.cache
def borders(prompts: int) -> tuple[list[float], list[float]]:
    """By `RESPONSES` the base rates up to which the chance is at most 1 - SURE, and from which on at least SURE."""
    chances = np.clip(chance_of_pairs(_RATES, prompts, RESPONSES[:, None]), 1e-12, 1 - 1e-12)
    odds = np.log(chances / (1 - chances))
    bar = np.log(SURE / (1 - SURE))
    found = [[np.exp(np.interp(at, row, np.log(_RATES))) for row in odds] for at in (-bar, bar)]
    return tuple([float(f"{rate:.4g}") for rate in rates] for rates in found)


def _map(prompts: float) -> alt.LayerChart:
    slider = CONTROLS["prompts"]
    stops = {*np.arange(slider.low, slider.high + 1, slider.step), round(prompts)}
    rows = [dict(zip(("p", "low", "high"), (int(stop), *borders(int(stop))), strict=True)) for stop in sorted(stops)]
    x = axis(1e-3, 0.5, "base rate of the target, m₀", log=True, format="~%", values=[1e-3, 1e-2, 0.1, 0.5], grid=False)
    y = alt.Y("n:Q", **_by_responses())
    zone = alt.Chart(alt.InlineData(rows)).transform_filter("datum.p == prompts")
    zone = zone.transform_calculate(n=f"{RESPONSES.tolist()}").transform_flatten(["n", "low", "high"])
    zone = zone.transform_calculate(least="0.001", most="0.5")
    point = ONE.transform_calculate(rate="rate", n="responses").mark_point(size=120, **STATE)
    no, _, go = _COLOURS
    return alt.layer(
        zone.mark_area(color=no, orient="horizontal").encode(alt.X("least:Q", **x), y, x2="low:Q"),
        zone.mark_area(color=go, orient="horizontal").encode(alt.X("high:Q", **x), y, x2="most:Q"),
        note(f"no go: ≤ {1 - SURE:.0%}", 1e-3, 2, align="left", dx=8, dy=-12, fontWeight="bold"),
        note(f"go: ≥ {SURE:.0%}", 0.5, 96, align="right", dx=-8, dy=14, fontWeight="bold"),
        point.encode(alt.X("rate:Q", **x), y),
    ).properties(**sized(360, 300, f"Chance of at least {LEAST_PAIRS} pairs; white: a gamble"))


def _by_responses() -> dict:
    look = {"values": [2, 4, 8, 16, 32, 64], "format": "d", "grid": False}
    return axis(2, 96, "responses to each prompt, n", log=True, **look)


def _curve() -> alt.LayerChart:
    look = {"values": [0.01, 0.1, 1, 10, 100, 1000, 10_000], "format": ","}
    y = alt.Y("pairs:Q", **axis(0.01, 20_000, "informative pairs, logarithmic", log=True, **look))
    x = alt.X("n:Q", **_by_responses())
    curve = _counts().transform_filter("datum.h == 0")
    here = curve.transform_filter("datum.n == responses")
    return alt.layer(
        ONE.mark_rule(color=QUIET, strokeDash=[4, 3]).encode(y=alt.datum(LEAST_PAIRS)),
        note(f"the bar: {LEAST_PAIRS}", 96, LEAST_PAIRS, align="right", color=QUIET, dx=-4, dy=8),
        curve.mark_line(color=INK).encode(x, y),
        here.mark_rule(color=POINT, strokeWidth=2.2).encode(x, alt.Y("pairs:Q"), y2=alt.datum(0.01)),
        here.mark_point(size=120, **STATE).encode(x, y),
    ).properties(**sized(360, 300, "Pairs expected at this base rate"))
