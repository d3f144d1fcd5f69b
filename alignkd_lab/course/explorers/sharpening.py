"""Explorer: "the student just got better". A sharper teacher trades the student's recall for precision.

The ring of KD-MWE: whose density scores precision, and on which draws recall is measured, may be chosen, because the
published figures owe much to both choices. Fitting has no closed form: every stop of the sliders is fitted beforehand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import torch
from torch import Tensor

from alignkd_lab.course.widgets.charts import STAR, Chart, Menu, Slider, parameters
from alignkd_lab.course.widgets.heat import components, heat
from alignkd_lab.course.widgets.pieces import ONE, POINT, axis, below, beside, numbered, sized
from alignkd_lab.mog.ring import COMPONENTS, RingSettings, run_ring
from alignkd_lab.plots.drawing import BAND, INK, QUIET

SEEDS, STOPS = range(20), [10 ** (stop / 4) for stop in range(-2, 9)]
SCORERS = {"truth": "the truth p*", "teacher": "the sharpened teacher"}
RECALL_DRAWS = {"fresh": "fresh draws of p*", "training": "the 100 training draws"}
CONTROLS = {
    "sharpening": Slider(1.0, "sharpening, s", STOPS[0], 100.0, 0.25, True),
    "components": Menu(1, "components of either student", {k: f"{k}" for k in COMPONENTS}),
    "scored_under": Menu("teacher", "precision is scored under", SCORERS),
    "draws": Menu("training", "recall is measured on", RECALL_DRAWS),
    # Seed 10 comes near the published run under the published scoring.
    "seed": Slider(10.0, "seed", 0, len(SEEDS) - 1, 1),
}
SOURCE = "Live run: fitted when the page ran, at every stop of the sliders. In each square, darker is denser."
# Two students, neither of them a pipeline of the two orders: colour, matplotlib's marker.
STUDENTS = {"direct": ("#117A6D", "s"), "distilled": ("#9C2A5B", "o")}
_SIDE, _WINDOW = 155, (-1.75, 1.75, -1.75, 1.75)
_TICKS = (0, -1, -2, -5, -10, -20, -50, -100)


@functools.cache
def fitted() -> dict[str, Any]:
    """Models and scores of every stop, as parameters; some seconds.

    A model is `[seed][component]` of `heat.COLUMNS`. `scores[components][stop][seed]` holds under
    "truth", "teacher" (precision), "fresh" and "training" (recall) what the direct, the distilled and the perfect
    student score, and the standard error of distilled minus direct, in nats a point.
    """
    found: dict[str, Any] = {"direct_students": {}, "distilled_students": {}, "scores": {}}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # thousands of small products: a second thread only gets in the way
    for k in COMPONENTS:
        rings = [run_ring(SEEDS, RingSettings(student_components=k, sharpening=s)) for s in STOPS]
        found["direct_students"][f"{k}"] = components(rings[0].direct)
        found["distilled_students"][f"{k}"] = [components(ring.distilled) for ring in rings]
        found["scores"][f"{k}"] = []
        for ring in rings:
            students, by = (ring.direct, ring.distilled), {}
            for name, judge in (("truth", ring.truth), ("teacher", ring.sharpened)):
                own = [judge.log_prob(ring.own_draws[student]) for student in STUDENTS]
                by[name] = _scored(own, judge.log_prob(ring.fresh_draws), (own[0].var(-1) + own[1].var(-1)).sqrt())
            for name, draws in (("fresh", ring.fresh_draws), ("training", ring.training_draws)):
                said = [student.log_prob(draws) for student in students]
                by[name] = _scored(said, ring.truth.log_prob(draws), (said[1] - said[0]).std(-1))
            found["scores"][f"{k}"].append([{name: rows[seed] for name, rows in by.items()} for seed in SEEDS])
    torch.set_num_threads(threads)
    truth, draws = components(ring.truth)[0], ring.training_draws.numpy().round(2).tolist()
    return {"truth": truth, "teachers": components(ring.teacher), "training_draws": draws, **found}


def _scored(students: Sequence[Tensor], perfect: Tensor, spread: Tensor) -> list:
    rows = [*(values.mean(-1) for values in (*students, perfect)), spread / math.sqrt(perfect.shape[-1])]
    return torch.stack(rows, -1).numpy().round(3).tolist()


def show(*shown: str, **state: float | str) -> Chart:
    """Left: truth, sharpened teacher and both students. Right: both students' scores."""
    moved = parameters(CONTROLS, shown, state)
    powers = ", ".join(f"pow(teacher[{i}][0], s)" for i in range(4))
    whole = " + ".join(f"powers[{i}]" for i in range(4))
    parts = ", ".join(f"[shares[{i}], {', '.join(f'teacher[{i}][{j}]' for j in range(1, 5))}]" for i in range(4))
    further = fitted() | {
        "stop": f"clamp(round(4 * log(sharpening) / LN10) + 2, 0, {len(STOPS) - 1})",
        "s": "pow(10, stop / 4 - 0.5)",
        "teacher": "teachers[seed]",
        "powers": f"[{powers}]",
        "shares": f"[{', '.join(f'powers[{i}] / ({whole})' for i in range(4))}]",
        "sharpened": f"[{parts}]",
        "direct": "direct_students[components][seed]",
        "distilled": "distilled_students[components][stop][seed]",
        "score": "scores[components][stop][seed]",
        "precision": "score[scored_under]",
        "recall": "score[draws]",
        # Where the teacher is not sharpened.
        "unsharpened": "scores[components][2][seed][scored_under][0]",
        "how": ["falls", "stays", "rises"],  # less than twice its standard error counts as no change
        "gains": "[precision[1] - precision[0], recall[1] - recall[0]]",
        "changes": "[abs(gains[0]) < 2 * precision[3] ? 1 : gains[0] > 0 ? 2 : 0, "
        "abs(gains[1]) < 2 * recall[3] ? 1 : gains[1] > 0 ? 2 : 0]",
    }
    squares = below(
        beside(
            _square("Truth p*, 100 draws", "truth", 8, INK, _dots()),
            _square("Teacher, sharpened", "sharpened", 4), spacing=14,
        ),
        beside(
            _square("■ Direct student", "direct", 8, STUDENTS["direct"][0]),
            _square("● Distilled student", "distilled", 8, STUDENTS["distilled"][0]), spacing=14,
        ),
        spacing=10, color="independent",
    )  # fmt: skip
    panels = beside(squares, _scores(), spacing=40)
    words = (
        "s = {s:.3~g}: the sharpened teacher has {max(shares[0], shares[1], shares[2], shares[3]):share} in one "
        "component.",
        "From direct to distilled: precision {how[changes[0]]}, {precision[0]:.1f} to {precision[1]:.1f} nats; recall "
        "{how[changes[1]]}, {recall[0]:.1f} to {recall[1]:.1f} nats.",
        "Precision of the truth itself: {precision[2]:.1f}; of the direct student at s = 1: {unsharpened:.1f}. Its "
        "recall on fresh draws: {score.fresh[0]:.1f}.",
    )
    seen = (
        "Left: densities of the truth, the sharpened teacher, and a direct and a distilled student. Right: precision "
        "against recall of both students, the direct one where the teacher is not sharpened, and the truth itself."
    )
    title = "Sharpen the teacher: is the student better?"
    return Chart(moved, title, panels, words=words, seen=seen, source=SOURCE, further=further)


def _square(title: str, model: str, count: int, colour: str = INK, *over: alt.Chart) -> alt.LayerChart:
    drawn = heat(model, count, _WINDOW, _SIDE, 31)
    return alt.layer(drawn, *over).properties(**sized(_SIDE, _SIDE, title, color=colour, fontSize=12, offset=4))


def _dots() -> alt.Chart:
    draws = numbered(100, x="training_draws[seed][datum.k][0]", y="training_draws[seed][datum.k][1]")
    return draws.mark_point(filled=True, size=6, color=INK, opacity=0.55).encode(x="x:Q", y="y:Q")


def _scores() -> alt.LayerChart:
    x, y = (
        axis(low, high, f"{title} (nats)", bend=2, values=[tick for tick in _TICKS if tick > low], labelFlush=False)
        for title, low, high in (("recall", -200, -0.5), ("precision", -60, 0.9))
    )
    one = ONE.transform_calculate(
        direct_up="precision[0]", direct_at="recall[0]", up="precision[1]", at="recall[1]", old="unsharpened",
        perfect_up="precision[2]", perfect_at="recall[2]", right="-0.5", top="0.9",
    )  # fmt: skip

    def point(at: str, up: str, shape: str, size: int, colour: str, **look: Any) -> alt.Chart:
        mark = {"shape": shape, "size": size, "fill": colour, "stroke": "white", "opacity": 1} | look
        return one.mark_point(**mark).encode(alt.X(f"{at}:Q", **x), alt.Y(f"{up}:Q", **y))

    direct, distilled = (colour for colour, _ in STUDENTS.values())
    better = one.mark_rect(color=BAND, stroke="#B8BEC5").encode(
        alt.X("direct_at:Q", **x), alt.Y("direct_up:Q", **y), x2="right:Q", y2="top:Q"
    )
    named = one.mark_text(align="right", baseline="top", dx=-4, dy=4, color=QUIET, text=["better", "in both"])
    moved = one.mark_rule(color=direct, strokeDash=[1, 3]).encode(x="direct_at:Q", y="old:Q", y2="direct_up:Q")
    arrow = one.mark_rule(color=POINT, strokeWidth=1.8)
    return alt.layer(
        better,
        named.encode(x="right:Q", y="top:Q"),
        moved,
        arrow.encode(x="direct_at:Q", y="direct_up:Q", x2="at:Q", y2="up:Q"),
        point("direct_at", "old", "square", 110, "white", stroke=direct),
        point("perfect_at", "perfect_up", STAR, 300, INK, stroke=None),
        point("direct_at", "direct_up", "square", 150, direct),
        point("at", "up", "circle", 110, distilled),
    ).properties(**sized(390, 300, "■ direct  □ it, at s = 1  ● distilled  ★ p* itself", fontSize=12))
