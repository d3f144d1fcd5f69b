"""Explorer: "the student just got better". A sharper teacher trades the student's recall for precision.

The ring of KD-MWE, fitted live: whose density scores precision, and on which draws recall is measured, may be
chosen, because the published figures owe much to both choices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from alignkd_lab.course.widgets.controls import Choice, Number, start
from alignkd_lab.course.widgets.view import Explorer
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.ring import Ring, RingSettings, run_ring
from alignkd_lab.plots import plane
from alignkd_lab.plots.drawing import BAND, INK, QUIET, themed, write
from alignkd_lab.plots.style import MINUS, number, percent

SCORERS = {"truth": "the truth p*", "teacher": "the sharpened teacher"}
RECALL_DRAWS = {"fresh": "fresh draws of p*", "training": "the 100 training draws"}
CONTROLS = {
    "sharpening": Number(1.0, "sharpening, s", 0.25, 100.0, 0.05, True),
    "components": Number(1.0, "components of either student", 1, 8, 1),
    "scored_under": Choice("teacher", "precision is scored under", SCORERS),
    "draws": Choice("training", "recall is measured on", RECALL_DRAWS),
    # Seed 10 comes near the published run under the published scoring.
    "seed": Number(10.0, "seed", 0, 39, 1),
}
START = start(CONTROLS)
STILLS = (
    {"sharpening": 100.0, "scored_under": "teacher", "draws": "training"},
    {"sharpening": 100.0, "scored_under": "truth", "draws": "fresh"},
)
SOURCE = (
    "Live run: Gaussian ring of KD-MWE, one seed. Teacher (4 components) and direct student are fitted to 100 draws "
    "(dots), the distilled student to 1,000 samples of the sharpened teacher. Darker is denser (square-root scale)."
)
SAME = 0.1  # nats; a doubt about less is not worth a sentence
SIDE = 1.75  # half of the drawn square's
MODELS = ("truth", "sharpened", "direct", "distilled")
# Two students, neither of them a pipeline of the two orders.
STUDENTS = {"direct": ("#117A6D", "s"), "distilled": ("#9C2A5B", "o")}

TITLE = "Sharpen the teacher: is the student better?"
_SQUARE = 2.1  # inches
# One scale for all states, so that a slider's changes can be compared; what is denser is as dark.
_NORM = PowerNorm(0.5, vmin=0, vmax=2.0, clip=True)
_TICKS, _FEW_TICKS = (0.0, -1.0, -2.0, -5.0, -10.0, -20.0, -50.0, -100.0), (0.0, -2.0, -10.0, -50.0)
_NAMES = {
    "truth": ("Truth p*, draws", INK),
    "sharpened": ("Teacher, sharpened", INK),
    "direct": ("■ Direct student", STUDENTS["direct"][0]),
    "distilled": ("● Distilled student", STUDENTS["distilled"][0]),
}
_MARKS = "★ p* itself; □ the direct student at s = 1; shaded: better in both."
_LABEL = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


class Score(NamedTuple):
    """Nats a point; higher is better in both."""

    precision: float
    recall: float


_LOWEST = Score(precision=-60.0, recall=-200.0)
_HIGHEST = Score(precision=0.9, recall=-0.5)


@dataclass(frozen=True)
class Sharpening:
    """What the picture shows.

    state: `sharpening` (s), `components` (of either student), `scored_under`, `draws`, `seed`.
    scores: of the students "direct" and "distilled", and of "perfect": what p* itself would score.
    noise: standard error of what distilling changed, from the draws that it was scored on.
    unsharpened: the direct student's score where the teacher is not sharpened.
    fresh_recall: the direct student's recall on fresh draws.
    shares, means: of the sharpened teacher's components, `[component]` and `[component, 2]`.
    training_draws: what teacher and direct student were fitted to, `[draw, 2]`.
    fields: densities on the square of side `2 * SIDE`, `[y, x]`, by model.
    """

    state: dict[str, Any]
    scores: dict[str, Score]
    noise: Score
    unsharpened: Score
    fresh_recall: float
    shares: np.ndarray
    means: np.ndarray
    training_draws: np.ndarray
    fields: dict[str, np.ndarray]

    @property
    def gain(self) -> Score:
        """What distilling changed: distilled minus direct student."""
        direct, distilled = self.scores["direct"], self.scores["distilled"]
        return Score(distilled.precision - direct.precision, distilled.recall - direct.recall)


def compute(state: Mapping[str, Any]) -> Sharpening:
    """Both students of one seed, scored as the state says."""
    scorer, draws = state["scored_under"], state["draws"]
    components, seed = round(state["components"]), round(state["seed"])
    ring = _ring(seed, components, state["sharpening"])
    by_scorer = ring.scores["true" if scorer == "truth" else "published"]
    on_draws = ring.scores["true" if draws == "fresh" else "published"]
    scores = {name: Score(by_scorer[name]["precision"].item(), on_draws[name]["recall"].item()) for name in STUDENTS}
    scoring = ring.truth if scorer == "truth" else ring.sharpened
    truths = ring.fresh_draws if draws == "fresh" else ring.training_draws
    perfect = Score(scoring.log_prob(ring.fresh_draws).mean().item(), ring.truth.log_prob(truths).mean().item())
    before = ring.truth if scorer == "truth" else ring.teacher
    unsharpened = Score(before.log_prob(ring.own_draws["direct"]).mean().item(), scores["direct"].recall)
    return Sharpening(
        state={**{name: state[name] for name in START}, "components": components, "seed": seed},
        scores={**scores, "perfect": perfect},
        noise=_noise(ring, scoring, truths),
        unsharpened=unsharpened,
        fresh_recall=ring.scores["true"]["direct"]["recall"].item(),
        shares=ring.sharpened.weights[0].numpy(),
        means=ring.sharpened.means[0].numpy(),
        training_draws=ring.training_draws[0].numpy(),
        fields={name: plane.density(getattr(ring, name), (-SIDE, SIDE, -SIDE, SIDE)) for name in MODELS},
    )


def _noise(ring: Ring, scoring: GaussianMixture, truths: Tensor) -> Score:
    """Precision: each student has draws of its own. Recall: both are asked about the same ones."""
    own = [_standard_error(scoring.log_prob(ring.own_draws[name])) for name in STUDENTS]
    return Score(math.hypot(*own), _standard_error(ring.distilled.log_prob(truths) - ring.direct.log_prob(truths)))


def _standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(values.numel())


@functools.lru_cache(maxsize=64)
def _ring(seed: int, components: int, sharpening: float) -> Ring:
    return run_ring((seed,), RingSettings(student_components=components, sharpening=sharpening))


def caption(data: Sharpening) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    state, (direct, distilled) = data.state, (data.scores[name] for name in STUDENTS)
    each = f"{state['components']} component{'s' * (state['components'] > 1)} each"
    return (
        f"s = {state['sharpening']:.3g}: the sharpened teacher's largest component holds {percent(data.shares.max())}. "
        f"From the direct to the distilled student ({each}), precision goes from {_nats(direct.precision)} to "
        f"{_nats(distilled.precision)} nats under {SCORERS[state['scored_under']]}, recall from "
        f"{_nats(direct.recall)} to {_nats(distilled.recall)} on {RECALL_DRAWS[state['draws']]}. "
        f"{verdict(data.gain, data.noise)}{_doubts(data)}"
    )


def verdict(gain: Score, noise: Score) -> str:
    """A gain in words; less than twice its standard error counts as no change."""
    changed = zip(gain, noise, strict=True)
    precision, recall = (0 if abs(change) < 2 * error else 1 if change > 0 else -1 for change, error in changed)
    return {
        (1, -1): "Not simply better: it trades recall for precision.",
        (1, 0): "More precision, and hardly any recall lost.",
        (1, 1): "By this score it is better in both.",
        (0, 0): "Distilling changes hardly anything.",
        (0, -1): "Recall is lost, and nothing is gained.",
        (-1, -1): "Worse in both: recall is lost, and precision, too.",
        (-1, 0): "Precision is lost, and nothing is gained.",
        (-1, 1): "It trades precision for recall.",
        (0, 1): "Recall is gained, and precision hardly moves.",
    }[precision, recall]


def _doubts(data: Sharpening) -> str:
    """What speaks against the score itself."""
    doubts = []
    perfect, distilled = data.scores["perfect"].precision, data.scores["distilled"].precision
    if distilled - perfect >= SAME:
        doubts.append(
            f"for p* itself, a perfect student, this score is {_nats(perfect)}, less than for the distilled one"
        )
    moved = data.scores["direct"].precision - data.unsharpened.precision
    if abs(moved) >= SAME:
        doubts.append(
            f"the direct student's precision has moved by {_nats(moved)} nats since s = 1, though s never touched it"
        )
    flattered = data.scores["direct"].recall - data.fresh_recall
    if flattered >= SAME:
        doubts.append(f"on draws that it was not fitted to, the direct student's recall is {_nats(flattered)} lower")
    return f" But: {'; '.join(doubts)}." if doubts else ""


def _nats(value: float) -> str:
    """One decimal, as far as the scoring draws tell."""
    return f"{round(value, 1) + 0.0:.1f}".replace("-", MINUS)


@themed
def draw(data: Sharpening, note: str = SOURCE) -> Figure:
    """Left: truth, sharpened teacher and both students. Right: both students' scores."""
    figure = plane.canvas((10.0, 5.75), TITLE, note)
    right, up = _SQUARE + 0.25, _SQUARE + 0.36
    wall = plane.wall(figure, 0.12, 0.5, right + _SQUARE, up + _SQUARE + 0.3)
    places = {"truth": (0, up), "sharpened": (right, up), "direct": (0, 0), "distilled": (right, 0)}
    for name, corner in places.items():
        _density(wall, data, name, corner, _SQUARE)
    axis = plane.axes(figure, 5.65, 1.0, 4.15, 4.15)
    _scores(axis, data)
    _key(axis)
    axis.set_xlabel(f"recall on {RECALL_DRAWS[data.state['draws']]} (nats)")
    axis.set_ylabel(f"precision under {SCORERS[data.state['scored_under']]} (nats)")
    return figure


@themed
def strip(settings: Sequence[Sharpening], note: str = SOURCE) -> Figure:
    """Several settings side by side, for a page without a kernel; truth and direct student are the first one's."""
    figure = plane.canvas((10.0, 5.05), TITLE, f"{note} {_MARKS}")
    side, small, step = 1.72, 1.06, 2.62
    wall = plane.wall(figure, 0.12, 0.5, 9.8, 4.5)
    _density(wall, settings[0], "truth", (0, side + 0.38), side)
    _density(wall, settings[0], "direct", (0, 0), side)
    for place, data in enumerate(settings):
        left = 2.35 + step * place
        said = f"s = {data.state['sharpening']:.3g}\n{SCORERS[data.state['scored_under']].replace('the ', 'under ', 1)}"
        plane.say(wall, said, (left - 0.12, 4.05), 0, color=INK, fontsize=9.5, fontweight="bold", va="center")
        _density(wall, data, "sharpened", (left - 0.12, 2.62), small)
        _density(wall, data, "distilled", (left + 1.06, 2.62), small)
        axis = plane.axes(figure, left + 0.32, 0.98, 2.02, 1.9)
        _scores(axis, data, 0.75)
        axis.set_xlabel("recall, " + ("fresh draws" if data.state["draws"] == "fresh" else "training draws"))
        if place == 0:
            axis.set_ylabel("precision")
    return figure


def _density(wall: Axes, data: Sharpening, name: str, corner: tuple[float, float], side: float) -> None:
    words, colour = _NAMES[name]
    large = side > 1.5
    plane.hang(wall, data.fields[name], corner, side, _NORM)
    font = {"color": colour, "fontsize": 10 if large else 8.5, "fontweight": "bold"}
    said = words if large else words.split(",")[0].removesuffix(" student")
    plane.say(wall, said, (corner[0], corner[1] + side), 4, **font)
    if name == "truth":
        x, y = _on_wall(data.training_draws, corner, side).T
        wall.plot(x, y, ".", color=INK, alpha=0.55, markersize=2.6, markeredgewidth=0)
    if name == "sharpened" and large:
        for share, (x, y) in zip(data.shares, _on_wall(data.means, corner, side), strict=True):
            if share >= 0.005:
                said = percent(share).replace("more than ", "> ")
                wall.text(x, y, said, ha="center", va="center", fontsize=8, bbox=_LABEL)


def _on_wall(points: np.ndarray, corner: tuple[float, float], side: float) -> np.ndarray:
    return (points + SIDE) / (2 * SIDE) * side + corner


def _scores(axis: Axes, data: Sharpening, size: float = 1.0) -> None:
    """Both students and the truth itself; `size` of the marks, as a share of the large picture's."""
    direct, distilled, perfect = (data.scores[name] for name in ("direct", "distilled", "perfect"))
    _frame(axis, size)
    better = (_HIGHEST.recall - direct.recall, _HIGHEST.precision - direct.precision)
    axis.add_patch(Rectangle((direct.recall, direct.precision), *better, facecolor=BAND, edgecolor="#B8BEC5", lw=0.8))
    if size == 1:
        write(axis, "better\nin both", (_HIGHEST.recall, _HIGHEST.precision), (-4, -4), QUIET, ha="right", va="top")
    old, colour = data.unsharpened, STUDENTS["direct"][0]
    if old.precision != direct.precision:
        axis.plot([old.recall, direct.recall], [old.precision, direct.precision], ":", color=colour)
        axis.plot(*old[::-1], "s", color="white", markeredgecolor=colour, markersize=9 * size)
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkA": 6, "shrinkB": 6}
    axis.annotate("", distilled[::-1], direct[::-1], arrowprops=arrow)
    axis.plot(*perfect[::-1], "*", color=INK, markersize=14 * size, markeredgecolor="white", zorder=4)
    # Where both stand in one place, the direct student is still seen.
    for (name, (colour, marker)), width in zip(STUDENTS.items(), (13, 8.5), strict=True):
        look = {"markersize": width * size, "markeredgecolor": "white", "zorder": 5}
        axis.plot(*data.scores[name][::-1], marker, color=colour, **look)


def _frame(axis: Axes, size: float) -> None:
    axis.set_autoscale_on(False)
    axis.set_xscale("symlog", linthresh=2.0)
    axis.set_yscale("symlog", linthresh=2.0)
    axis.set(xlim=(_LOWEST.recall, _HIGHEST.recall), ylim=(_LOWEST.precision, _HIGHEST.precision))
    for low, high, place in ((*axis.get_xlim(), axis.set_xticks), (*axis.get_ylim(), axis.set_yticks)):
        shown = _TICKS if size == 1 else _FEW_TICKS
        place(*zip(*((value, number(value, 1)) for value in shown if low < value < high), strict=True))
    axis.minorticks_off()


def _key(axis: Axes) -> None:
    place = 0.0
    colours = {"■ direct": "direct", "□ at s = 1": "direct", "● distilled": "distilled", "★ p* itself": None}
    for words, student in colours.items():
        colour = STUDENTS[student][0] if student else INK
        axis.annotate(words, (place, 1.025), xycoords="axes fraction", color=colour, fontsize=9.5, fontweight="bold")
        place += 0.05 + 0.0205 * len(words)


def show(*shown: str, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    A page without a kernel shows the state beside `STILLS`.
    """

    def still(state: Mapping[str, Any]) -> tuple[Figure, str]:
        settings = [compute({**state, **changes}) for changes in ({}, *STILLS)]
        return strip(settings), " ".join(map(caption, settings))

    return Explorer(CONTROLS, shown, state, compute, draw, caption, SOURCE, "sharpening.show", still=still)
