"""Explorer of the two KL divergences: one bump for two, on a line.

Forward KL(p ‖ q) covers what p shows; reverse KL(q ‖ p) seeks a place where p is high. Distilling by samples is the
forward one: if the student sits on one mode, its teacher did so before.
"""

from __future__ import annotations

import functools

import altair as alt
import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm

from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, axis, beside, sized
from alignkd_lab.plots.drawing import INK, QUIET

WEIGHTS, SD = (0.6, 0.4), 0.5
CONTROLS = {
    "sharpening": Slider(20.0, "sharpening of the teacher, s", 1.0, 20.0, 0.5),
    "distance": Slider(6.0, "distance, in standard deviations", 1.0, 8.0, 0.5),
}
SOURCE = "Live: exact on a line. The bump of reverse KL: searched before, for each stop of the distance."
_STUDENT = "#9C2A5B"
# In Vega's terms: the modes lie at ±half; the teacher's weight of the larger one.
_HALF = f"(distance * {SD / 2})"
_TEACHER = f"(1 / (1 + pow({WEIGHTS[1] / WEIGHTS[0]}, sharpening)))"


def show(*shown: str, **state: float) -> Chart:
    """The three fits beside each other."""
    moved = parameters(CONTROLS, shown, state)
    slider = CONTROLS["distance"]
    stops = {*np.arange(slider.low, slider.high + slider.step, slider.step), state.get("distance", slider.value)}
    found = [dict(zip(("at", "mean", "sd"), (float(stop), *reverse_fit(stop)), strict=True)) for stop in sorted(stops)]
    reverse = alt.Chart(alt.InlineData(found)).transform_filter("datum.at == distance")
    panels = beside(
        _fit("Forward KL to the truth: covers", _by_moments(str(WEIGHTS[0]))),
        _fit("Reverse KL to the truth: seeks", reverse),
        _fit("Forward KL to a sharpened teacher", _by_moments(_TEACHER), teacher=True),
        spacing=30,
    )
    words = (
        f"Sharpened with s = {{sharpening}}, the teacher has {{{_TEACHER}:share}} of its weight on the larger mode; "
        f"the truth has {100 * WEIGHTS[0]:g} %.",
        "Reverse KL: the modes lie {how}",
        "Grey: the truth; red: the student; dashed: the teacher. Precision, recall: under the truth, in nats.",
    )
    apart = f"abs(datum.mean + {_HALF}) < 0.1 * {_HALF}"
    near = "so near that its bump lies over both."
    parts = {"how": {apart: "far apart, so its bump sits on the larger one.", "": near}}
    seen = (
        "One bump fitted to two modes: forward KL lies over both, reverse KL sits on the larger, and forward KL to a "
        "sharpened teacher sits there too."
    )
    title = "One bump for two: which divergence puts it where?"
    return Chart(moved, title, panels, words=words, parts=parts, of=reverse, seen=seen, source=SOURCE)


@functools.cache
def reverse_fit(distance: float) -> tuple[float, float]:
    """Mean and standard deviation of the bump with the least reverse KL to the truth, for this distance of its modes.

    From either mode and from between; of equals the first.
    """
    line = np.linspace(-9, 9, 1801)
    half = distance * SD / 2
    truth = sum(weight * norm.pdf(line, mean, SD) for weight, mean in zip(WEIGHTS, (-half, half), strict=True))
    log_truth = np.log(truth)

    def divergence(bump: np.ndarray) -> float:
        mean, log_sd = bump
        # The entropy of a Gaussian grows with log sd.
        return -log_sd - np.trapezoid(norm.pdf(line, mean, np.exp(log_sd)) * log_truth, line)

    starts = [(-half, np.log(SD)), (half, np.log(SD)), (0.0, np.log(SD + half))]
    within = [(-3.0, 3.0), (np.log(0.2), np.log(2.5))]  # where the line holds all of a bump's mass
    found = (minimize(divergence, start, method="L-BFGS-B", bounds=within) for start in starts)
    mean, log_sd = min(found, key=lambda each: each.fun).x
    return round(float(mean), 4), round(float(np.exp(log_sd)), 4)


def _by_moments(weight: str) -> alt.Chart:
    """One row: mean and standard deviation of the modes with this weight, which minimise the forward KL."""
    return ONE.transform_calculate(
        mean=f"{_HALF} * (1 - 2 * {weight})",
        sd=f"sqrt({SD**2} + 4 * {weight} * (1 - {weight}) * {_HALF} * {_HALF})",
    )


def _density(weight: str) -> str:
    one, other = (f"densityNormal(datum.y, {sign}{_HALF}, {SD})" for sign in "-+")
    return f"({weight} * {one} + (1 - {weight}) * {other})"


def _fit(title: str, student: alt.Chart, teacher: bool = False) -> alt.LayerChart:
    """A student, one row with `mean` and `sd`, over the truth; its scores beside it."""
    x = alt.X("y:Q", **axis(-4.2, 4.2, "y", values=[-3, 0, 3]))
    y = alt.Y("density:Q", **axis(0, 1, "density", values=[0, 0.5, 1]))
    line = alt.Chart(alt.sequence(-4.2, 4.2001, 0.03, as_="y"))
    truth = line.transform_calculate(density=_density(str(WEIGHTS[0])))
    sharp = line.transform_calculate(density=_density(_TEACHER))
    bump = student.transform_calculate(y="sequence(-4.2, 4.2001, 0.03)").transform_flatten(["y"])
    bump = bump.transform_calculate(density="densityNormal(datum.y, datum.mean, datum.sd)")
    scores = student.transform_calculate(z="sequence(-6, 6.001, 0.05)").transform_flatten(["z"])
    scores = scores.transform_calculate(
        y="datum.mean + datum.sd * datum.z", part=f"0.05 * densityNormal(datum.z) * log({_density(str(WEIGHTS[0]))})"
    )
    scores = scores.transform_aggregate(precision="sum(part)", mean="max(mean)", sd="max(sd)")
    squares = " + ".join(
        f"{weight} * pow({sign}{_HALF} - datum.mean, 2)" for weight, sign in zip(WEIGHTS, "-+", strict=True)
    )
    scores = scores.transform_calculate(
        recall=f"-0.5 * log(2 * PI * datum.sd * datum.sd) - ({SD**2} + {squares}) / (2 * datum.sd * datum.sd)",
        words="['precision ' + format(datum.precision, '.2f'), 'recall ' + format(datum.recall, '.2f')]",
    )
    text = scores.mark_text(align="right", baseline="top", lineHeight=17, dx=-4, dy=4).encode(
        x=alt.datum(4.2), y=alt.datum(1), text="words:N"
    )
    layers = [
        truth.mark_area(color="#C9CED4").encode(x, y),
        bump.mark_line(color=_STUDENT, strokeWidth=2.6).encode(x, y),
        *([sharp.mark_line(color=INK, strokeWidth=1.4, strokeDash=[5, 4]).encode(x, y)] if teacher else []),
        text,
    ]
    return alt.layer(*layers).properties(**sized(225, 240, title, fontSize=12, color=QUIET))
