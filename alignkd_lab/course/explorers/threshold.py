"""Explorer: "a large reward suffices". A reward multiplies what the reference does, and needs to be drawn first.

Exact: closed forms of `theory`, for a reward on a target set and none elsewhere. The optimum is that of a
free policy; that a run gets there takes draws of the target, which the right panel counts.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from alignkd_lab.course.widgets.charts import POINT, Chart, Slider, beside, caption, parameters, share, stack
from alignkd_lab.plots.drawing import BAND, INK, QUIET

# The rare mode's mass, reward, KL weight and batch of the Gaussian world's default settings.
CONTROLS = {
    "reference_mass": Slider(0.04, "target's share in the reference, m₀", 1e-6, 0.5, 0.05, True),
    "reward": Slider(4.0, "reward on the target, R", 0.0, 20.0, 0.1),
    "beta": Slider(0.5, "KL weight, β", 0.05, 5.0, 0.05, True),
    "draws": Slider(256.0, "draws in a batch, n", 1.0, 1e6, 0.05, True),
}
SOURCE = "Live: closed forms, exact; nothing is trained."

# `theory.target_mass`, `recall_threshold`, `chance_of_target` and `draws_for_chance`.
_OPTIMUM = "1 / (1 + (1 - {m}) / {m} * exp(-reward / beta))"
LEAST_MASS = "1 / (1 + exp(reward / beta))"
LEAST_REWARD = "beta * log((1 - reference_mass) / reference_mass)"
_CHANCE = "(1 - exp({n} * log(1 - reference_mass)))"
DRAWS = "log(0.05) / log(1 - reference_mass)"
OPTIMUM, CHANCE = _OPTIMUM.format(m="reference_mass"), _CHANCE.format(n="draws")

_PERCENT = {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}


def show(*shown: str, **state: float) -> Chart:
    """Left: where alignment ends. Right: whether a batch shows it the target at all.

    `shown` names the controls to put on the page (all where none is), `state` where they begin.
    """
    moved = parameters(CONTROLS, shown, state)
    words = caption(
        f"'The target has ' + {share('reference_mass')} + ' of the reference and ' + {share(OPTIMUM)} + "
        f"' of the best policy: ' + ({OPTIMUM} > 0.5 ? 'it wins, as it would from ' + {share(LEAST_MASS)} + ' on.'"
        f" : 'the reference wins, and only a reward above ' + format({LEAST_REWARD}, '.3~g') + ' would change that.')",
        f"'A batch of ' + format(draws, ',.0f') + ' draws holds it with a chance of ' + {share(CHANCE)} + "
        f"({CHANCE} < 0.95 ? ', whatever the reward; 95 % take ' + format({DRAWS}, ',.3~r') + ' draws.' : '.')",
        f"'{SOURCE}'",
    )
    alternative = (
        "Left: the target's share at the optimum of RLHF against its share in the reference; it rises steeply at the "
        "recall threshold. Right: the chance that a batch holds the target, against the draws in it. " + SOURCE
    )
    panels = beside(_optimum(), _draws(), x="independent")
    whole = stack("A reward multiplies what the reference already does", panels, words)
    return Chart(whole, alternative, moved)


def _grid(name: str, low: float, high: float) -> alt.Chart:
    """A row for each of 200 numbers between two powers of ten."""
    powers = alt.sequence(low, high, (high - low) / 200, as_="power")
    return alt.Chart(powers).transform_calculate(**{name: "pow(10, datum.power)"})


def _stem(axis: dict, at: str, low: str, high: str) -> alt.LayerChart:
    """The state: from where it would be, to where it is."""
    one = alt.Chart(alt.sequence(0, 1)).transform_calculate(at=at, low=low, high=high)
    line = one.mark_rule(color=POINT, strokeWidth=2.2).encode(alt.X("at:Q", **axis), alt.Y("low:Q"), alt.Y2("high:Q"))
    point = one.mark_point(color="white", fill=POINT, size=110, opacity=1).encode(alt.X("at:Q"), alt.Y("high:Q"))
    return line + point


def _panel(title: str, *layers: alt.Chart) -> alt.LayerChart:
    return alt.layer(*layers).properties(width=360, height=300, title=title)


def _axis(title: str, low: float, high: float, **look: Any) -> dict:
    return {"scale": alt.Scale(type="log", domain=[low, high]), "axis": alt.Axis(title=title, **look)}


def _optimum() -> alt.LayerChart:
    x = _axis("target's share in the reference, m₀", 1e-6, 1, format="~%", values=[1e-6, 1e-4, 1e-2, 1])
    y = alt.Y(
        "optimum:Q", scale=alt.Scale(domain=[0, 1.03]), axis=alt.Axis(title="share at the optimum, m*", **_PERCENT)
    )
    curve = _grid("mass", -6, 0).transform_calculate(optimum=_OPTIMUM.format(m="min(datum.mass, 0.999)"))
    band = alt.Chart(alt.sequence(0, 1)).mark_rect(color=BAND).encode(y=alt.datum(0.5), y2=alt.datum(1.03))
    named = alt.Chart(alt.sequence(0, 1)).mark_text(align="left", color=QUIET, dx=6, dy=8, text="the target wins")
    threshold = (
        alt.Chart(alt.sequence(0, 1)).transform_calculate(least=LEAST_MASS).transform_filter("datum.least > 1e-6")
    )
    rule = threshold.mark_rule(color=INK, strokeDash=[1, 3]).encode(x="least:Q", y=alt.datum(0), y2=alt.datum(0.5))
    # On the side that has room, away from the state.
    left = "(datum.least > 0.01 || (datum.least > 2e-4 && reference_mass > datum.least))"
    label = threshold.mark_text(
        text="recall threshold", dx=alt.ExprRef(f"{left} ? -7 : 7"), align=alt.ExprRef(f"{left} ? 'right' : 'left'"),
        dy=-7,
    )  # fmt: skip
    return _panel(
        "Where alignment ends",
        band,
        named.encode(x=alt.datum(1e-6), y=alt.datum(1.0)),
        curve.mark_line(color=QUIET, strokeWidth=1.2, strokeDash=[5, 4]).encode(alt.X("mass:Q", **x), alt.Y("mass:Q")),
        curve.mark_line(color=INK).encode(alt.X("mass:Q", **x), y),
        rule,
        label.encode(x="least:Q", y=alt.datum(0.02)),
        _stem(x, "reference_mass", "reference_mass", OPTIMUM),
    )


def _draws() -> alt.LayerChart:
    x = _axis("draws in a batch, n", 1, 1e6, format="~s", values=[1, 100, 1e4, 1e6])
    y = alt.Y("chance:Q", scale=alt.Scale(domain=[0, 1.03]), axis=alt.Axis(title="chance of at least one", **_PERCENT))
    curve = _grid("count", 0, 6).transform_calculate(chance=_CHANCE.format(n="datum.count"))
    level = alt.Chart(alt.sequence(0, 1)).mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.datum(0.95))
    named = alt.Chart(alt.sequence(0, 1)).mark_text(align="left", color=QUIET, dx=6, dy=8, text="95 %")
    return _panel(
        "Whether a batch shows it at all",
        level,
        named.encode(x=alt.datum(1), y=alt.datum(0.95)),
        curve.mark_line(color=INK).encode(alt.X("count:Q", **x), y),
        _stem(x, "draws", "0", CHANCE),
    )
