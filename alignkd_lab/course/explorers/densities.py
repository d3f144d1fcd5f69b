"""Explorer: "a large reward suffices", seen as density. The tilt moves a curve; the draws come from the reference.

A rare target beside common modes, on a line and in the plane, with the same draws in both: the optimum's
share of the target is one formula in any dimension. Exact but for the draws, whose noise is fixed, so that
a slider shows what it changes and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import altair as alt
import numpy as np

from alignkd_lab.course.explorers import threshold
from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.heat import heat, ring
from alignkd_lab.course.widgets.pieces import ONE, POINT, axis, beside, note, sized
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import BAND, INK, QUIET

_MOST_DRAWS, SHOWN_DRAWS = 1_000_000, 600
CONTROLS = threshold.CONTROLS | {"draws": Slider(256.0, "draws in a batch, n", 1.0, SHOWN_DRAWS, 1.0)}
SOURCE = "Live: exact densities, draws with a fixed noise; nothing is trained."
# On a line: two common modes and the target, five standard deviations or more from the boundary of the reward.
LINE_MEANS, LINE_WEIGHTS, LINE_SD = (-3.0, 0.0, 3.0), (0.6, 0.4), 0.3
LINE_BOUNDARY = 1.5
_PLANE = MogSettings()
_PLANE_WEIGHTS = tuple(weight / sum(_PLANE.truth_weights[:3]) for weight in _PLANE.truth_weights[:3])
_WIDTH, _SIDE = 420, 300


def show(*shown: str, **state: float) -> Chart:
    """Left: both densities on a line, and the draws below. Right: the optimum's density in the plane, and the draws."""
    counted = alt.Chart(_draws()).transform_calculate(
        hit="datum.index <= draws && datum.uniform < reference_mass ? 1 : 0",
        seen="datum.uniform < reference_mass ? datum.index : 1e9",
    )
    words = (
        "The target has {reference_mass:share} of the reference and {best:share} of the best policy, in both panels.",
        "A first batch of {draws:,.0f} draws has {hits} on the target. Drawing on and on, this learner would meet its "
        "first one {first}.",
    )
    parts = {
        "hits": {"datum.hits > 0": "{datum.hits:,}", "": "nothing"},
        "first": {"datum.first < 1e9": "at draw {datum.first:,}", "": "not within a million draws"},
    }
    seen = (
        "Left: the reference's density on a line, the best policy's, which the reward moves to the target, and the "
        "reference's draws, which it does not move. Right: the best policy's density in the plane, and the draws."
    )
    title, panels = "The reward tilts the density; the reference makes the draws", beside(_line(), _plane())
    one = counted.transform_aggregate(hits="sum(hit)", first="min(seen)")
    further = {"best": threshold.OPTIMUM, "mixture": _mixture()}
    moved = parameters(CONTROLS, shown, state)
    return Chart(moved, title, panels, words=words, parts=parts, of=one, seen=seen, source=SOURCE, further=further)


@functools.cache
def _draws() -> alt.InlineData:
    """Of a million draws the first, and of the rest those rarer than all before: where a rarer target is first seen.

    Each has its `index`, from 1; `uniform`, which picks the mode; two `normal` numbers, its place there.
    """
    generator = np.random.default_rng(55)
    uniforms = generator.random(_MOST_DRAWS)
    normals = generator.standard_normal((SHOWN_DRAWS, 2)).round(3)
    rows = [
        {"index": index + 1, "uniform": round(uniforms[index], 5), "a": a, "b": b}
        for index, (a, b) in enumerate(normals.tolist())
    ]
    rarest = np.minimum.accumulate(uniforms)
    records = np.flatnonzero(rarest[1:] < rarest[:-1]) + 1
    later = [{"index": int(index) + 1, "uniform": uniforms[index]} for index in records if index >= SHOWN_DRAWS]
    return alt.InlineData([*rows, *later])


def _mode(weights: Sequence[float], places: Sequence[float]) -> str:
    """A draw's mode: targets at the last place, the others where the rest of `uniform` falls among the weights.

    Rare ones at the low end: a larger share keeps the targets that a smaller one had.
    """
    chosen = places[-2]
    for edge, place in reversed([*zip(np.cumsum(weights[:-1]), places[:-2], strict=True)]):
        chosen = f"(datum.uniform - reference_mass) / (1 - reference_mass) < {edge} ? {place} : {chosen}"
    return f"(datum.uniform < reference_mass ? {places[-1]} : {chosen})"


def _dots(x: str, y: str) -> alt.Chart:
    """Misses small and grey, hits large and violet."""

    def look(hit: object, miss: object) -> dict:
        return alt.condition("datum.uniform < reference_mass", alt.value(hit), alt.value(miss))

    batch = alt.Chart(_draws()).transform_filter("datum.index <= draws").transform_calculate(x=x, y=y)
    return batch.mark_point(stroke="white").encode(
        alt.X("x:Q"),
        alt.Y("y:Q"),
        fill=look(POINT, INK),
        shape=look("diamond", "circle"),
        size=look(90, 9),
        opacity=look(1, 0.45),
        strokeWidth=look(1, 0),
    )


def _line() -> alt.LayerChart:
    def density(mass: str) -> str:
        bumps = [f"densityNormal(datum.y, {mean}, {LINE_SD})" for mean in LINE_MEANS]
        common = " + ".join(f"{weight} * {bump}" for weight, bump in zip(LINE_WEIGHTS, bumps[:2], strict=True))
        return f"(1 - {mass}) * ({common}) + {mass} * {bumps[2]}"

    x = alt.X("y:Q", **axis(-4.2, 4.2, "y", values=LINE_MEANS, grid=False))
    y = alt.Y("density:Q", **axis(-0.42, 1.45, "density", values=[0, 0.5, 1], grid=False))
    curve = alt.Chart(alt.sequence(-4.2, 4.2001, 0.02, as_="y"))
    reference = curve.transform_calculate(density=density("reference_mass"))
    optimum = curve.transform_calculate(density=density("best"))
    where = ONE.transform_calculate(
        # Beside the highest bump, where there is always room.
        x=f"best > 0.375 ? {LINE_MEANS[2] - 0.55} : {LINE_MEANS[0] + 0.55}",
        y="best > 0.375 ? best * 1.33 : (1 - best) * 0.8",
    )
    side = alt.ExprRef("best > 0.375 ? 'right' : 'left'")
    top = ONE.transform_calculate(y=f"{LINE_WEIGHTS[1]} * (1 - reference_mass) * 1.33")
    return alt.layer(
        ONE.mark_rect(color=BAND).encode(x=alt.datum(LINE_BOUNDARY), x2=alt.datum(4.2)),
        note("target", LINE_BOUNDARY, -0.36, align="left", dx=6, color=QUIET),
        reference.mark_area(color="#C9CED4").encode(x, y),
        optimum.mark_line(color=INK, strokeWidth=2).encode(x, alt.Y("density:Q")),
        top.mark_text(color=QUIET, dy=-8, text="reference").encode(x=alt.datum(0), y="y:Q"),
        where.mark_text(align=side, text="best policy").encode(x="x:Q", y="y:Q"),
        _dots(
            f"{_mode(LINE_WEIGHTS, LINE_MEANS)} + {LINE_SD} * datum.a",
            "-0.07 - 0.2 * (datum.index * 0.618 - floor(datum.index * 0.618))",
        ),
        note("the reference's draws", -4.2, -0.36, align="left", dx=4, color=QUIET),
    ).properties(**sized(_WIDTH, _SIDE, "On a line"))


def _mixture() -> str:
    """The best policy in the plane, as components."""
    shares = [f"(1 - best) * {weight}" for weight in _PLANE_WEIGHTS] + ["best"]
    sd = f"{_PLANE.truth_sd}, {_PLANE.truth_sd}"
    return f"[{', '.join(f'[{w}, {x}, {y}, {sd}]' for w, (x, y) in zip(shares, _PLANE.truth_means, strict=True))}]"


def _plane() -> alt.LayerChart:
    means, sd, window, radius = _PLANE.truth_means, _PLANE.truth_sd, (-3, 3, -3, 3), 1.05
    target = note("target", means[3][0], means[3][1] + radius, dy=-8)
    x, y = (
        f"{_mode(_PLANE_WEIGHTS, places)} + {sd} * datum.{noise}"
        for places, noise in zip(zip(*means, strict=True), "ab", strict=True)
    )
    pale = ("#FFFFFF", "#4C6A8A")  # so that dots are seen on it
    drawn = heat("mixture", 4, window, _SIDE, 60, pale), ring(means[3], radius, window, _SIDE)
    return alt.layer(
        *drawn,
        target,
        _dots(x, y),
    ).properties(**sized(_SIDE, _SIDE, "In the plane: best policy and draws"))
