"""Explorer: "temperature is sharpening". One exponent on whole sequences and on every token, on a tree of two tokens.

The teacher says A and then one of several equally likely leaves, or B and then always the same leaf. Exact: every
sequence is listed. Sequences are sharpened as a mixture's weights are (KD-MWE); tokens are what a temperature reaches.
"""

from __future__ import annotations

import altair as alt

from alignkd_lab.course.widgets.charts import POINT, Chart, Slider, caption, parameters, share, stack
from alignkd_lab.plots.drawing import INK, QUIET

_LEAST, _MOST = 0.25, 8.0
CONTROLS = {
    "exponent": Slider(1.0, "exponent, s = 1/τ", _LEAST, _MOST, 0.25),
    "first": Slider(0.7, "A's share as the first token", 0.05, 0.95, 0.05),
    "leaves": Slider(6.0, "leaves of A (B has one)", 1.0, 12.0, 1.0),
}
SOURCE = "Live: exact, every sequence of a made-up teacher is listed. White lines part the leaves of A."
# Not a pipeline's colours: these are two first tokens.
A_COLOUR, B_COLOUR = "#44AA99", "#882255"

# A's share under p(sequence)^s and under p(token)^s at every step, which is the temperature 1/s; each normalised.
_BY_SEQUENCES = "(1 / (1 + pow((1 - first) * leaves / first, {s}) / leaves))"
_BY_TOKENS = "(1 / (1 + pow((1 - first) / first, {s})))"
SEQUENCES, TOKENS = (way.format(s="exponent") for way in (_BY_SEQUENCES, _BY_TOKENS))
# Past it B's one sequence outweighs all of A's: (1 - p)^s = n (p / n)^s; nowhere if each of A's leaves outweighs it.
CROSSING = "(leaves > 1 && (1 - first) * leaves > first ? log(leaves) / log((1 - first) * leaves / first) : 1e9)"
_PERCENT = {"format": ".0%", "values": [0, 0.25, 0.5, 0.75, 1]}


def show(*shown: str, **state: float) -> Chart:
    """Left: the share of every sequence. Right: A's share by exponent, in both ways.

    `shown` names the controls to put on the page (all where none is), `state` where they begin.
    """
    gap, odds = f"abs({SEQUENCES} - {TOKENS})", f"({SEQUENCES} - 0.5) * ({TOKENS} - 0.5)"
    words = caption(
        f"'The teacher says A first with ' + {share('first')} + '. With s = ' + exponent + ' on whole sequences it is '"
        f" + {share(SEQUENCES)} + '; on every token, τ = ' + format(1 / exponent, '.3~g') + ', ' + "
        f"{share(TOKENS)} + '.'",
        f"{gap} < 0.005 ? (exponent == 1 ? 'At s = 1 neither changes anything.' : leaves == 1 ? "
        "'A has one leaf, as B has, so here temperature is sharpening.' : 'Here the two hardly differ.') : "
        f"{odds} < 0 ? 'Sequences favour ' + ({SEQUENCES} > 0.5 ? 'A, tokens B' : 'B, tokens A') + "
        "': the temperature never sees that A has ' + leaves + ' leaves to share with.' : "
        f"'The same exponent, ' + format(100 * {gap}, '.2~r') + ' points apart: a token is drawn before its leaves.'",
        f"'{SOURCE}'",
        width=720,
    )
    alternative = (
        "Left: the share of every sequence for the teacher, for whole sequences sharpened, and for every token at its "
        "temperature. Right: A's share against the exponent, in both ways. "
    ) + SOURCE
    whole = stack("One exponent, on whole sequences and on every token", _bars() | _curves(), words)
    return Chart(whole, alternative, parameters(CONTROLS, shown, state))


def _bars() -> alt.LayerChart:
    """A row for each way and sequence, A's leaves first and B's one leaf last."""
    rows = alt.Chart(alt.sequence(0, 13, as_="leaf")).transform_filter("datum.leaf <= leaves")
    rows = rows.transform_calculate(
        row="['the teacher', 'whole sequences, sharpened', 'every token, at its temperature']",
        a=f"[first, {SEQUENCES}, {TOKENS}]",
    ).transform_flatten(["row", "a"])
    rows = rows.transform_calculate(
        token="datum.leaf < leaves ? 'A' : 'B'",
        start="datum.a * datum.leaf / leaves",
        end="datum.leaf < leaves ? datum.a * (datum.leaf + 1) / leaves : 1",
    )
    labels = "indexof(datum.label, ', ') > 0 ? split(datum.label, ', ') : datum.label"
    y = alt.Y("row:N", sort=None, scale=alt.Scale(padding=0.3), axis=alt.Axis(title=None, labelExpr=labels))
    x = alt.X("start:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title="share of the sequences", **_PERCENT))
    colour = alt.Color("token:N", scale=alt.Scale(domain=["A", "B"], range=[A_COLOUR, B_COLOUR]), legend=None)
    one = rows.transform_filter("datum.leaf == 0")

    def named(token: str, part: str, place: float, side: str, ground: str) -> list[alt.Chart]:
        wide = one.transform_calculate(part=part, said=f"'{token} ' + {share(part)}")
        wide = wide.transform_filter("datum.part > 0.16").encode(y, x=alt.value(place), text="said:N")
        look = {"align": side, "color": "white", "fontWeight": "bold"}
        # On a ground of its own, so that no line between leaves runs through the words.
        return [wide.mark_text(**look, stroke=ground, strokeWidth=7), wide.mark_text(**look)]

    texts = named("A", "datum.a", 8, "left", A_COLOUR) + named("B", "1 - datum.a", 312, "right", B_COLOUR)
    wide = alt.condition("datum.end - datum.start > 0.02", alt.value(1.2), alt.value(0))
    bars = rows.mark_bar(stroke="white").encode(x, y, colour, x2="end:Q", strokeWidth=wide)
    return alt.layer(bars, *texts).properties(width=320, height=270, title="What is said")


def _curves() -> alt.LayerChart:
    scale = alt.Scale(type="log", domain=[_LEAST, _MOST], nice=False)
    fractions = "datum.value == 0.25 ? '¼' : datum.value == 0.5 ? '½' : datum.label"
    axis = alt.Axis(title="exponent, s = 1/τ", values=[0.25, 0.5, 1, 2, 4, 8], labelExpr=fractions)
    x, y = alt.X("s:Q", scale=scale, axis=axis), alt.Y("a:Q", scale=alt.Scale(domain=[0, 1.05], nice=False))
    dash = alt.StrokeDash(
        "way:N",
        scale=alt.Scale(domain=["whole sequences", "every token"], range=[[1, 0], [5, 4]]),
        legend=None,
    )
    grid = alt.Chart(alt.sequence(-2, 3.001, 0.05, as_="power")).transform_calculate(
        s="pow(2, datum.power)",
        way="['whole sequences', 'every token']",
        a=f"[{_BY_SEQUENCES.format(s='datum.s')}, {_BY_TOKENS.format(s='datum.s')}]",
    )
    one = alt.Chart(alt.sequence(0, 1))
    here = one.transform_calculate(s="exponent", a=f"[{SEQUENCES}, {TOKENS}]").transform_flatten(["a"])
    crossing = one.transform_calculate(s=CROSSING).transform_filter(f"datum.s > {_LEAST} && datum.s < {_MOST}")
    crossing = crossing.transform_calculate(said="'s = ' + format(datum.s, '.3~g')")
    # On the side away from the state.
    side = {
        "align": alt.ExprRef(f"{CROSSING} > exponent ? 'left' : 'right'"),
        "dx": alt.ExprRef(f"{CROSSING} > exponent ? 7 : -7"),
    }
    return alt.layer(
        one.mark_rule(color=QUIET, strokeDash=[1, 3]).encode(y=alt.datum(0.5)),
        here.mark_rule(color=POINT, strokeWidth=1.4).encode(x),
        grid.transform_flatten(["way", "a"])
        .mark_line(color=INK, strokeWidth=2)
        .encode(x, alt.Y("a:Q", axis=alt.Axis(title="share of A", **_PERCENT)), dash),
        crossing.mark_tick(color=INK, thickness=2, size=12, orient="vertical").encode(x, y=alt.datum(0.5)),
        crossing.mark_text(dy=-9, **side).encode(x, y=alt.datum(0.5), text="said:N"),
        here.mark_point(color="white", fill=POINT, size=100, opacity=1).encode(x, y),
    ).properties(width=320, height=270, title="A first: sequences (solid), tokens (dashed)")
