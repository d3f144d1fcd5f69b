"""Explorer: "the student just got better". A sharper teacher trades the student's recall for precision.

The ring of KD-MWE, fitted live: whoever judges precision, and whichever draws recall is measured on, may be
chosen, because the published figures owe much to both choices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.widgets.state import begun
from alignkd_lab.errors import UnknownName
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.ring import Ring, RingSettings, run_ring
from alignkd_lab.plots.style import MINUS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alignkd_lab.course.widgets.view import Explorer

JUDGES = {"truth": "the truth p*", "teacher": "the sharpened teacher"}
RECALL_DRAWS = {"fresh": "fresh draws of p*", "training": "the 100 training draws"}
# Seed 10 comes near the published run under the published scoring.
START: dict[str, Any] = {"sharpening": 1.0, "components": 1.0, "judge": "teacher", "draws": "training", "seed": 10.0}
STILLS = (
    {"sharpening": 100.0, "judge": "teacher", "draws": "training"},
    {"sharpening": 100.0, "judge": "truth", "draws": "fresh"},
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


class Score(NamedTuple):
    """Nats a point; higher is better in both."""

    precision: float
    recall: float


@dataclass(frozen=True)
class Sharpening:
    """What the picture shows.

    state: `sharpening` (s), `components` (of either student), `judge`, `draws`, `seed`.
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
    """Both students of one seed, scored as the state says.

    Args:
        state: `sharpening` (s, power on the teacher's weights), `components` (of either student), `judge` of
            precision ("truth" or "teacher"), `draws` behind recall ("fresh" or "training"), `seed`. Components and
            seed are rounded.

    Raises:
        BadInput: a sharpening or a number of components that is not above 0.
        UnknownName: another judge, or other draws.
    """
    judge, draws = _known("judge", state["judge"], JUDGES), _known("draws", state["draws"], RECALL_DRAWS)
    components, seed = round(state["components"]), round(state["seed"])
    ring = _ring(seed, components, state["sharpening"])
    by_judge = ring.scores["true" if judge == "truth" else "published"]
    on_draws = ring.scores["true" if draws == "fresh" else "published"]
    scores = {name: Score(by_judge[name]["precision"].item(), on_draws[name]["recall"].item()) for name in STUDENTS}
    judging = ring.truth if judge == "truth" else ring.sharpened
    truths = ring.fresh_draws if draws == "fresh" else ring.training_draws
    perfect = Score(judging.log_prob(ring.fresh_draws).mean().item(), ring.truth.log_prob(truths).mean().item())
    before = ring.truth if judge == "truth" else ring.teacher
    unsharpened = Score(before.log_prob(ring.own_draws["direct"]).mean().item(), scores["direct"].recall)
    return Sharpening(
        state={**{name: state[name] for name in START}, "components": components, "seed": seed},
        scores={**scores, "perfect": perfect},
        noise=_noise(ring, judging, truths),
        unsharpened=unsharpened,
        fresh_recall=ring.scores["true"]["direct"]["recall"].item(),
        shares=ring.sharpened.weights[0].numpy(),
        means=ring.sharpened.means[0].numpy(),
        training_draws=ring.training_draws[0].numpy(),
        fields={name: plane.density(getattr(ring, name), (-SIDE, SIDE, -SIDE, SIDE)) for name in MODELS},
    )


def _noise(ring: Ring, judging: GaussianMixture, truths: Tensor) -> Score:
    """Precision: each student has draws of its own. Recall: both are asked about the same ones."""
    own = [_standard_error(judging.log_prob(ring.own_draws[name])) for name in STUDENTS]
    return Score(math.hypot(*own), _standard_error(ring.distilled.log_prob(truths) - ring.direct.log_prob(truths)))


def _standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(values.numel())


@functools.lru_cache(maxsize=64)
def _ring(seed: int, components: int, sharpening: float) -> Ring:
    return run_ring((seed,), RingSettings(student_components=components, sharpening=sharpening))


def _known(name: str, value: str, options: Mapping[str, str]) -> str:
    if value not in options:
        raise UnknownName(name, value, options)
    return value


def controls(**state: Any) -> dict[str, Any]:
    """A control for each part of the state, at `START` where `state` does not say otherwise.

    Raises:
        UnknownName: a part that the state does not have, or a judge or draws that there are not.
    """
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

    start = begun(START, state)
    return {
        "sharpening": NumberControl("sharpening, s", start["sharpening"], 0.25, 100.0, 0.05, True),
        "components": NumberControl("components of either student", start["components"], 1, 8, 1),
        "judge": ChoiceControl("precision is judged by", start["judge"], JUDGES),
        "draws": ChoiceControl("recall is measured on", start["draws"], RECALL_DRAWS),
        "seed": NumberControl("seed", start["seed"], 0, 39, 1),
    }


def caption(data: Sharpening) -> str:
    """What the picture shows at this state, in words, and what becomes of the belief."""
    (before, recall_before), (after, recall_after) = data.scores["direct"], data.scores["distilled"]
    components = data.state["components"]
    return (
        f"s = {data.state['sharpening']:.3g}: the sharpened teacher's largest component holds "
        f"{percent(data.shares.max())}. From the direct to the distilled student "
        f"({components} component{'s' * (components > 1)} each), precision goes from {_nats(before)} to {_nats(after)} "
        f"nats under {JUDGES[data.state['judge']]}, recall from {_nats(recall_before)} to {_nats(recall_after)} on "
        f"{RECALL_DRAWS[data.state['draws']]}. {verdict(data.gain, data.noise)}{_doubts(data)}"
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
            f"for p* itself, a perfect student, this judge has {_nats(perfect)}, less than for the distilled one"
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


def show(*shown: str, **state: Any) -> Explorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`.

    A page without a kernel shows the state beside `STILLS`.
    """
    from alignkd_lab.course.explorers.sharpening_view import draw, strip
    from alignkd_lab.course.widgets.choice import ChoiceExplorer

    def still(state: Mapping[str, Any]) -> tuple[Figure, str]:
        settings = [compute({**state, **changes}) for changes in ({}, *STILLS)]
        return strip(settings), " ".join(caption(data) for data in settings)

    made = controls(**state)
    return ChoiceExplorer(made, shown or made, compute, draw, caption, SOURCE, "sharpening.show", still)
