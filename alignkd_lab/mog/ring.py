"""World "ring": the Gaussian set-up of KD-MWE, and the two ways to score it.

Eight modes on a ring; a direct student of one component fitted to 100 draws; a teacher of four components
fitted to the same draws, sharpened until one component is left; a distilled student of one component
fitted to 1,000 samples of that teacher.

The published precision is scored under the sharpened teacher, not under the truth p*, and the published
recall on the 100 draws that the models were fitted to. Both scorings are computed here side by side:
`published` does as the paper's notebook does, `true` uses p* and fresh draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignkd_lab.errors import check_fields
from alignkd_lab.mog.em import distil, fit
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.settings import DistilSettings

# KD-MWE's own figures, nats a point: {student: {metric: value}}, from one run.
PUBLISHED = {
    "direct": {"precision": -20.27, "recall": -2.65},
    "distilled": {"precision": -0.70, "recall": -42.45},
}

# The published run fits with scikit-learn's defaults: one start from k-means, and this tolerance and floor.
_FIT = DistilSettings(restarts=1, em_iterations=1000, em_tolerance=1e-3, variance_floor=1e-6)
_KMEANS_STEPS = 50


@dataclass(frozen=True)
class RingSettings:
    """The published set-up by default.

    truth_variance: of every mode along each axis, around the eight points of {-1, 0, 1}^2 without the centre.
    training_draws: draws of p*, seen by the teacher and by the direct student.
    teacher_components, student_components: sizes.
    sharpening: power on the teacher's weights.
    teacher_samples: what the distilled student is fitted to.
    scoring_draws: fresh draws behind each score.
    """

    truth_variance: float = 0.025
    training_draws: int = 100
    teacher_components: int = 4
    student_components: int = 1
    sharpening: float = 100.0
    teacher_samples: int = 1000
    scoring_draws: int = 2000

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Ring:
    """What a run leaves: every model, one mixture per seed, the training draws, and the scores.

    scores: `scores[scoring][student][metric]`, `[seed]`, nats a point; scoring is "published" or "true",
        student "direct" or "distilled", metric "precision" or "recall".
    own_draws, fresh_draws: behind the true scores: draws of each student, and of p*; `[seed, draw, 2]`.
    """

    truth: GaussianMixture
    training_draws: Tensor
    teacher: GaussianMixture
    sharpened: GaussianMixture
    direct: GaussianMixture
    distilled: GaussianMixture
    scores: dict[str, dict[str, dict[str, Tensor]]]
    own_draws: dict[str, Tensor]
    fresh_draws: Tensor


def run_ring(
    seeds: tuple[int, ...] | range, settings: RingSettings | None = None, device: torch.device | str = "cpu"
) -> Ring:
    """Both students and both scorings, all seeds at once."""
    settings = settings or RingSettings()
    noise = SeedNoise(tuple(seeds), device)
    truth = _truth(settings, device).expand(len(noise.seeds))
    draws, size = truth.draw(noise, "ring training draws", settings.training_draws), settings.student_components
    teacher = fit(draws, noise.uniform("ring teacher starts", 1, settings.teacher_components), _FIT, _KMEANS_STEPS)
    direct = fit(draws, noise.uniform("ring direct starts", 1, size), _FIT, _KMEANS_STEPS)
    distilling = replace(_FIT, sharpening=settings.sharpening, teacher_samples=settings.teacher_samples)
    distilled = distil(teacher, size, noise, distilling, _KMEANS_STEPS)
    sharpened = teacher.sharpen(settings.sharpening)
    fresh = truth.draw(noise, "ring fresh draws", settings.scoring_draws)
    students = {"direct": direct, "distilled": distilled}
    own = {name: s.draw(noise, f"ring {name} draws", settings.scoring_draws) for name, s in students.items()}
    scores = {
        scoring: {
            name: {
                "precision": density.log_prob(own[name]).mean(-1),
                "recall": student.log_prob(truths).mean(-1),
            }
            for name, student in students.items()
        }
        for scoring, density, truths in (("published", sharpened, draws), ("true", truth, fresh))
    }
    return Ring(truth, draws, teacher, sharpened, direct, distilled, scores, own, fresh)


def _truth(settings: RingSettings, device: torch.device | str) -> GaussianMixture:
    corners = [point for point in itertools.product((-1.0, 0.0, 1.0), repeat=2) if point != (0.0, 0.0)]
    means = torch.tensor([corners], dtype=torch.float64, device=device)
    log_weights = torch.full_like(means[..., 0], -math.log(len(corners)))
    return GaussianMixture(log_weights, means, torch.full_like(means, 0.5 * math.log(settings.truth_variance)))


# Over sharpening and size of the student: what distilling changes, seed by seed -------------------------

SHARPENINGS = (1.0, 2.0, 4.0, 8.0, 16.0, 40.0, 100.0)
COMPONENTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Sweep:
    """Distilled minus direct student, in nats a point; either student has as many components as the other.

    settings: of every run but for the student's size and the sharpening.
    gains: `gains[scoring][metric]`, `[components, sharpening, seed]`; scoring is "published" or "true" (see
        `ring.Ring`), metric "precision" or "recall".
    """

    settings: RingSettings
    sharpenings: tuple[float, ...]
    components: tuple[int, ...]
    gains: dict[str, dict[str, Tensor]]

    def gain(self, metric: str, components: int, sharpening: float, scoring: str = "true") -> Tensor:
        """What one setting gains, `[seed]`. Raises ValueError for a setting that was not run."""
        place = self.components.index(components), self.sharpenings.index(sharpening)
        return self.gains[scoring][metric][place]


def run_sweep(
    seeds: Sequence[int] = range(20),
    settings: RingSettings | None = None,
    components: Sequence[int] = COMPONENTS,
    sharpenings: Sequence[float] = SHARPENINGS,
) -> Sweep:
    """Every size with every sharpening on the same seeds, all else as in `settings`."""
    settings = settings or RingSettings()
    rows = [
        [run_ring(tuple(seeds), replace(settings, student_components=k, sharpening=s)).scores for s in sharpenings]
        for k in components
    ]

    def gains(scoring: str, metric: str) -> Tensor:
        def gain(scores: dict) -> Tensor:
            return scores[scoring]["distilled"][metric] - scores[scoring]["direct"][metric]

        return torch.stack([torch.stack([gain(scores) for scores in row]) for row in rows])

    metrics = ("precision", "recall")
    found = {scoring: {metric: gains(scoring, metric) for metric in metrics} for scoring in ("published", "true")}
    return Sweep(settings, tuple(sharpenings), tuple(components), found)
