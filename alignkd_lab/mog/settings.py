"""The settings of the Gaussian world: everything that a run depends on besides its seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from alignkd_lab.errors import BadInput, check_fields, check_number

# What each stage depends on: the key of a kept result is a hash of the whole. `MogSettings` explains the fields.

NARROWEST = 0.03  # of modes, and of e^(R/beta): below it a sum over the grid (`mog.problem`) is a percent off


@dataclass(frozen=True)
class FitSettings:
    """Of every fit by expectation maximisation.

    restarts: independent starts, of which the likeliest is kept.
    em_iterations, em_tolerance: a start stops once its mean log-likelihood per point grows by less than `em_tolerance`
        nats in a step, or after `em_iterations` steps.
    variance_floor: least variance of a component along an axis; without it a component could shrink onto one point and
        win with an infinite likelihood.
    """

    restarts: int = 8
    em_iterations: int = 300
    em_tolerance: float = 1e-4
    variance_floor: float = 1e-3


@dataclass(frozen=True)
class StartSettings(FitSettings):
    """Of `base` and `student`, from which every pipeline starts."""

    truth_weights: tuple[float, ...] = (0.33, 0.33, 0.30, 0.04)
    truth_means: tuple[tuple[float, float], ...] = ((-1.5, 1.5), (1.5, 1.5), (-1.5, -1.5), (1.5, -1.5))
    truth_sd: float = 0.3
    training_draws: int = 400
    base_components: int = 4
    student_components: int = 3


@dataclass(frozen=True)
class DistilSettings(FitSettings):
    """`sharpening` is one of the run's two."""

    sharpening: float = 2.0
    teacher_samples: int = 1000


@dataclass(frozen=True)
class RewardSettings:
    targets: tuple[int, ...] = (3,)
    reward_height: float = 4.0
    reward_width: float = 0.5
    reward_clip: float = 0.0


@dataclass(frozen=True)
class AlignSettings(RewardSettings):
    beta: float = 0.5


@dataclass(frozen=True)
class RlhfSettings(AlignSettings):
    rlhf_steps: int = 200
    rlhf_batch: int = 256
    rlhf_learning_rate: float = 0.1


@dataclass(frozen=True)
class DpoSettings(AlignSettings):
    dpo_pairs: int = 8000
    dpo_steps: int = 200
    dpo_batch: int = 256
    dpo_learning_rate: float = 0.1
    dpo_label_noise: float = 0.0


@dataclass(frozen=True)
class EvaluationSettings(RewardSettings):
    evaluation_draws: int = 4000


@dataclass(frozen=True)
class MogSettings(StartSettings, DistilSettings, RlhfSettings, DpoSettings, EvaluationSettings):
    """The world "rare mode": four modes, one of them rare and desired; the student is one component short.

    truth_weights, truth_means, truth_sd: the mixture p*; every mode is round with this standard deviation.
    targets: indices of the modes that alignment wants, one or two.
    training_draws, base_components: what the base is fitted to, and with how many components.
    student_components: size of the student, fewer than the modes.
    reward_height, reward_width: the reward is a bump, height * exp(-d^2 / (2 width^2)), d the distance to the
        nearest target mode.
    reward_clip: the reward is cut at this value, for alignment and as a metric; 0 cuts nothing.
    beta: weight of the KL to the reference.
    sharpening: power on the teacher's weights before it is sampled (the published s, 1 leaves them alone).
    sharpening_high: the same for the control that distils at a temperature above 1, hence a power below 1.
    teacher_samples: draws of the sharpened teacher that the student is fitted to.
    restarts, em_iterations, em_tolerance, variance_floor: of every fit, see `FitSettings`.
    rlhf_steps, rlhf_batch, rlhf_learning_rate: policy-gradient steps, draws per step, Adam's first rate.
    dpo_pairs, dpo_steps, dpo_batch, dpo_learning_rate: pairs, steps, pairs per step, Adam's first rate.
    dpo_label_noise: chance that a pair's label is flipped.
    evaluation_draws: fresh draws behind every metric.

    Steps, batches and rates were chosen at the base, by the gap J* - J that they leave there, and serve both
    orders. More steps change no stage's result (`tests/test_mog_world.py` measures both).

    Raises:
        BadInput: a value that cannot be used; the message names the field.
    """

    sharpening_high: float = 0.5

    def __post_init__(self) -> None:
        # Settings read back from a record hold lists.
        for name in ("truth_weights", "truth_means", "targets"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        noise = {"above": None, "least": 0, "most": 0.5, "why": "at 0.5 a label says nothing"}
        check_fields(
            self,
            targets={"least": 0, "most": len(self.truth_means) - 1 if isinstance(self.truth_means, tuple) else 0},
            truth_weights={"most": 1},
            rlhf_batch={"least": 2, "why": "one draw has no baseline"},
            reward_clip={"above": None, "least": 0, "why": "0 cuts nothing"},
            sharpening_high={"most": 1, "why": "it stands for a temperature above 1"},
            dpo_label_noise=noise,
            base_components={"most": self.training_draws, "why": "it is fitted to so many points (training_draws)"},
            student_components={
                "most": self.teacher_samples,
                "why": "it is fitted to so many points (teacher_samples)",
            },
        )
        if len(self.truth_weights) != len(self.truth_means):
            raise BadInput(
                f"truth_weights and truth_means must be equally many, "
                f"not {len(self.truth_weights)} and {len(self.truth_means)}"
            )
        if not math.isclose(sum(self.truth_weights), 1.0):
            raise BadInput(f"truth_weights must sum to 1, not {self.truth_weights}")
        for mean in self.truth_means:
            if not isinstance(mean, tuple) or len(mean) != 2:
                raise BadInput(f"truth_means must have two coordinates each, not {mean!r}")
            for coordinate in mean:
                check_number("truth_means", coordinate)
        peak = self.reward_width * min(1.0, math.sqrt(self.beta / self.reward_height))
        for name, width in (("truth_sd", self.truth_sd), ("reward_width", peak)):
            if width < NARROWEST:
                raise BadInput(
                    f"{name}: the grid on which policies are compared has cells of 0.05, and a peak is {width:.2g} "
                    f"wide, under {NARROWEST}; raise {name}" + ", or beta" * (name == "reward_width")
                )
        if len(set(self.targets)) < len(self.targets):
            raise BadInput(f"targets must name each mode once, not {self.targets}")

    @property
    def target_weight(self) -> float:
        """The target's share of the truth, m₀; of several target modes in all."""
        return round(sum(self.truth_weights[target] for target in self.targets), 12)

    @property
    def target_name(self) -> str:
        """`rare_mode` for the rarest mode alone, else the modes by number."""
        rarest = min(range(len(self.truth_weights)), key=self.truth_weights.__getitem__)
        if self.targets == (rarest,):
            return "rare_mode"
        return "modes_" + "_".join(str(target) for target in self.targets)


def with_target_weight(settings: MogSettings, weight: float) -> MogSettings:
    """The settings with this weight on the target's mode or modes; each group keeps its proportions.

    Raises:
        BadInput: a weight that does not lie between 0 and 1.
    """
    if not 0 < weight < 1:
        raise BadInput(f"the target's weight must lie between 0 and 1, not {weight!r}")
    now = sum(settings.truth_weights[target] for target in settings.targets)
    if now == weight:
        return settings
    scale = {True: weight / now, False: (1 - weight) / (1 - now)}
    weights = tuple(w * scale[mode in settings.targets] for mode, w in enumerate(settings.truth_weights))
    return replace(settings, truth_weights=weights)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
