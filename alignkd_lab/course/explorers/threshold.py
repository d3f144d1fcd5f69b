"""Explorer: "a large reward suffices". A reward multiplies what the reference does, and needs to be drawn first.

Exact: closed forms of `theory`, for a reward on a target set and none elsewhere. The optimum is that of a
free policy; that a run gets there takes draws of the target, which the right panel counts.
"""

from __future__ import annotations

import altair as alt

from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, POINT, STATE, axis, beside, note, sized
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
OPTIMUM, CHANCE = _OPTIMUM.format(m="reference_mass"), _CHANCE.format(n="round(draws)")

_PERCENT = {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}


def show(*shown: str, **state: float) -> Chart:
    """Left: where alignment ends. Right: whether a batch shows it the target at all."""
    words = (
        "The target has {reference_mass:share} of the reference and {optimum:share} of the best policy: {verdict}",
        "A batch of {draws:,.0f} draws holds it with a chance of {chance:share}{rest}",
    )
    parts = {
        "optimum": OPTIMUM,
        "verdict": {
            f"{OPTIMUM} > 0.5": f"it wins, as it would from {{{LEAST_MASS}:share}} on.",
            "": f"the reference wins, and only a reward above {{{LEAST_REWARD}:.3~g}} would change that.",
        },
        "chance": CHANCE,
        "rest": {f"{CHANCE} < 0.95": f", whatever the reward; 95 % take {{{DRAWS}:,.3~r}} draws.", "": "."},
    }
    seen = (
        "Left: the target's share at the optimum of RLHF against its share in the reference; it rises steeply at the "
        "recall threshold. Right: the chance that a batch holds the target, against the draws in it."
    )
    title, panels = "A reward multiplies what the reference already does", beside(_optimum(), _draws(), x="independent")
    moved = parameters(CONTROLS, shown, state)
    return Chart(moved, title, panels, words=words, parts=parts, seen=seen, source=SOURCE)


def _grid(name: str, low: float, high: float) -> alt.Chart:
    """A row for each of 200 numbers between two powers of ten."""
    powers = alt.sequence(low, high, (high - low) / 200, as_="power")
    return alt.Chart(powers).transform_calculate(**{name: "pow(10, datum.power)"})


def _stem(axis: dict, at: str, low: str, high: str) -> alt.LayerChart:
    """The state: from where it would be, to where it is."""
    one = ONE.transform_calculate(at=at, low=low, high=high)
    line = one.mark_rule(color=POINT, strokeWidth=2.2).encode(alt.X("at:Q", **axis), alt.Y("low:Q"), alt.Y2("high:Q"))
    return line + one.mark_point(size=110, **STATE).encode(alt.X("at:Q"), alt.Y("high:Q"))


def _optimum() -> alt.LayerChart:
    x = axis(1e-6, 1, "target's share in the reference, m₀", log=True, format="~%", values=[1e-6, 1e-4, 1e-2, 1])
    y = alt.Y("optimum:Q", **axis(0, 1.1, "share at the optimum, m*", **_PERCENT))
    curve = _grid("mass", -6, 0).transform_calculate(optimum=_OPTIMUM.format(m="min(datum.mass, 0.999)"))
    threshold = ONE.transform_calculate(least=LEAST_MASS).transform_filter("datum.least > 1e-6")
    # To the right, below the curve, unless the state stands there or there is no room.
    near = "datum.least > 2e-5 && reference_mass > datum.least && reference_mass < 15 * datum.least"
    left = f"(datum.least > 0.05 || ({near}))"
    shift, align = alt.ExprRef(f"{left} ? -7 : 7"), alt.ExprRef(f"{left} ? 'right' : 'left'")
    label = threshold.mark_text(text="recall threshold", dx=shift, align=align, dy=-7)
    return alt.layer(
        ONE.mark_rect(color=BAND).encode(y=alt.datum(0.5), y2=alt.datum(1.03)),
        note("the target wins", 1e-6, 1.0, align="left", color=QUIET, dx=6, dy=8),
        curve.mark_line(color=QUIET, strokeWidth=1.2, strokeDash=[5, 4]).encode(alt.X("mass:Q", **x), alt.Y("mass:Q")),
        curve.mark_line(color=INK).encode(alt.X("mass:Q", **x), y),
        threshold.mark_rule(color=INK, strokeDash=[1, 3]).encode(x="least:Q", y=alt.datum(0), y2=alt.datum(0.5)),
        label.encode(x="least:Q", y=alt.datum(0.02)),
        _stem(x, "reference_mass", "reference_mass", OPTIMUM),
    ).properties(**sized(360, 300, "Where alignment ends"))


def _draws() -> alt.LayerChart:
    x = axis(1, 1e6, "draws in a batch, n", log=True, format="~s", values=[1, 100, 1e4, 1e6])
    y = alt.Y("chance:Q", **axis(0, 1.1, "chance of at least one", **_PERCENT))
    curve = _grid("count", 0, 6).transform_calculate(chance=_CHANCE.format(n="datum.count"))
    return alt.layer(
        ONE.mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.datum(0.95)),
        note("95 %", 1, 0.95, align="left", color=QUIET, dx=6, dy=8),
        curve.mark_line(color=INK).encode(alt.X("count:Q", **x), y),
        _stem(x, "draws", "0", CHANCE),
    ).properties(**sized(360, 300, "Whether a batch shows it at all"))
