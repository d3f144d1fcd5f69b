"""What a run in the language world depends on, apart from its seed, and of it what each stage does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignkd_lab.errors import BadInput, check_choice, check_fields, check_number
from alignkd_lab.provenance import DTYPES

# Named here and not in `lm.weights`, so that whoever reads records need not load torch.
BUILT_IN = "smollm2-135m-instruct"
SHIPPED = "shipped"  # what settings call the prompts that come with this package
HEALED = re.compile(r"healed(?:-(\d+))?")  # what settings call a healed student: of any depth, or of so many layers


FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:@([0-9a-f]{12}))?")  # of one's own (`lm.functions`)


def is_function(name: str) -> bool:
    """Whether it is written as a function's; `model:` stands for a reward model."""
    return bool(FUNCTION.fullmatch(name)) and not name.startswith("model:")


def base_of_student(source: str) -> str:
    """The source of a healed student's base (the built-in model for `healed-16` alone); of another source, itself."""
    name, _, base = source.partition(":")
    return (base or BUILT_IN) if HEALED.fullmatch(name) else source


@dataclass(frozen=True)
class RewardSettings:
    """What a reward depends on. Of these groups stages, curves and evaluation depend; `LmSettings` explains fields."""

    truth: str = BUILT_IN
    target: str = "colour"
    reward: str = "likelihood"
    truth_responses: int = 6
    max_tokens: int = 28


@dataclass(frozen=True)
class PairSettings(RewardSettings):
    preference_prompts: int = 64
    preference_responses: int = 12
    dpo_label_noise: float = 0.0


@dataclass(frozen=True)
class CurveSettings(RewardSettings):
    curve_points: int = 2
    validation_responses: int = 2


@dataclass(frozen=True)
class EvaluationSettings(RewardSettings):
    test_prompts: int = 40
    test_responses: int = 3
    heldout_responses: int = 8


@dataclass(frozen=True)
class BudgetSettings:
    """What a student may train on, of whichever method."""

    distil_prompts: int = 96
    distil_responses: int = 5
    distil_passes: int = 1
    distil_batch: int = 4
    distil_learning_rate: float = 5e-4
    lora_rank: int = 16
    max_tokens: int = RewardSettings.max_tokens


@dataclass(frozen=True)
class DistilSettings(BudgetSettings):
    """`kd_temperature` is one of the run's two: the usual one, or that of the control."""

    kd_loss: str = "full"
    kd_temperature: float = 0.7


@dataclass(frozen=True)
class GkdSettings(BudgetSettings):
    gkd_divergence: str = "reverse"


@dataclass(frozen=True)
class DpoSettings(PairSettings, CurveSettings):
    beta: float = 0.1
    align_steps: int = 24
    align_batch: int = 6
    lora_rank: int = BudgetSettings.lora_rank


@dataclass(frozen=True)
class RlooSettings(CurveSettings):
    preference_prompts: int = PairSettings.preference_prompts
    rlhf_beta: float = 0.1
    rlhf_steps: int = 24
    rlhf_prompts: int = 2
    rlhf_generations: int = 6
    lora_rank: int = BudgetSettings.lora_rank


@dataclass(frozen=True)
class DckdSettings(BudgetSettings, PairSettings):
    """`share` of a distillation's budget is the stage's."""

    alpha: float = 0.2
    share: float = 1.0


@dataclass(frozen=True)
class AdpaSettings(BudgetSettings, PairSettings):
    gamma: float = 1.5
    adpa_form: str = "formula"
    student_responses: int = 4
    share: float = 1.0


@dataclass(frozen=True)
class LmSettings(DistilSettings, GkdSettings, DpoSettings, RlooSettings, EvaluationSettings):
    """Counts are per seed; learning rates are AdamW's; temperatures are sampling temperatures.

    Attributes:
        truth, base: sources of weights (see `lm.weights`).
        student: `healed` for the shipped healed layer cut of the base, `healed-16` for one of 16 layers (made here
            where there is none), else a source of weights.
        prompts: a file of one's own prompts (see `lm.prompts`), or `shipped`.
        target: a rule of `lm.rewards.TARGETS`, or a function of one's own, `module:function`, from a text to a bool.
        reward: `likelihood` (the rule times how plausible the truth finds the response), `rule`, `model:<source>`, a
            sequence-classification reward model (see `lm.reward_model`), or `module:function`, which gives for prompts
            and responses a number each (see `lm.functions`).
        preference_prompts, preference_responses: training prompts, and responses sampled for each.
        distil_prompts, distil_responses: the same for the teacher's samples.
        kd_loss: `full` (KL to the sharpened teacher over the vocabulary, on its samples) or `sequence` (NLL of them).
        kd_temperature, kd_temperature_high: the teacher's temperature, and that of the control.
        distil_passes, distil_batch: passes over the samples, and prompts a step.
        student_responses: responses of the initial student to each prompt, for ADPA.
        alpha, gamma: weight of DCKD's KL terms, and of ADPA's expected advantage.
        adpa_form: ADPA by the paper's `formula`, or as in its `released` code (see `lm.losses.adpa`).
        gkd_divergence: `forward`, `reverse` or `jsd`, of on-policy distillation.
        beta: KL weight of DPO.
        dpo_label_noise: chance that the label of a training pair is flipped.
        align_steps, align_batch: steps, and pairs a step.
        align_learning_rates: what the trials choose from, for the base and for the student alike.
        kl_budget: KL from the reference, nats a response, within which a trial's learning rate may win.
        trial_seed: the seed of the trials, never one of a run.
        rlhf_beta: KL weight of RLHF, for a reward from 0 to 1 and the KL of a whole response in nats.
        rlhf_steps, rlhf_prompts, rlhf_generations: steps, prompts a step, and responses drawn to each of them.
        rlhf_learning_rates: what the trials of RLHF choose from; one alone needs no trial.
        lora_rank: rank of the adapter that a stage trains.
        curve_points: how often a stage's reward and KL are measured along training.
        validation_responses, truth_responses, test_prompts, test_responses: sizes of the samples that measure.
        heldout_responses: responses of the base to each test prompt, for pairs that no stage has seen.
        sample_batch: responses decoded together.
        dtype: of matrix products, over float32 weights: `float32`, `bfloat16`, or `default` for the device's
            (`resolve_dtype`).
    """

    base: str = BUILT_IN
    student: str = "healed"
    prompts: str = SHIPPED
    kd_temperature_high: float = 1.25
    alpha: float = DckdSettings.alpha
    gamma: float = AdpaSettings.gamma
    adpa_form: str = AdpaSettings.adpa_form
    student_responses: int = AdpaSettings.student_responses
    align_learning_rates: tuple[float, ...] = (3e-4, 6e-4)
    kl_budget: float = 10.0
    rlhf_learning_rates: tuple[float, ...] = (6e-4,)
    trial_seed: int = 1_000_003
    sample_batch: int = 192
    dtype: str = "default"

    @property
    def student_source(self) -> str:
        """The student as a source: a healed one names its base."""
        return f"{self.student}:{self.base}" if HEALED.fullmatch(self.student) else self.student

    def rates_to_try(self, algorithm: str) -> tuple[float, ...]:
        """What the trials of an algorithm choose from."""
        return self.rlhf_learning_rates if algorithm == "rlhf" else self.align_learning_rates

    def steps_of_alignment(self, whole_budget: bool) -> int:
        """A step of DPO trains on two responses a pair; the whole budget adds the responses of a distillation."""
        distilled = self.distil_prompts * self.distil_responses * self.distil_passes
        return self.align_steps + whole_budget * round(distilled / (2 * self.align_batch))

    def __post_init__(self) -> None:
        compared = {"least": 2, "why": "responses to a prompt are compared"}
        check_fields(
            self,
            preference_responses=compared,
            heldout_responses=compared,
            rlhf_generations=compared,
            dpo_label_noise={"above": None, "least": 0, "most": 0.5, "why": "at 0.5 a label says nothing"},
            trial_seed={"least": 0},
        )
        check_number(
            "rlhf_prompts", self.rlhf_prompts, most=self.preference_prompts, why="preference_prompts has no more"
        )
        if not (
            self.reward in ("likelihood", "rule") or re.fullmatch("model:.+", self.reward) or is_function(self.reward)
        ):
            raise BadInput(
                f"reward: unknown {self.reward!r}; use 'likelihood', 'rule', 'model:<hub id or folder>' or "
                "'module:function'"
            )
        check_choice("dtype", self.dtype, ("default", *DTYPES))
        check_choice("adpa_form", self.adpa_form, ("formula", "released"))
        check_choice("gkd_divergence", self.gkd_divergence, ("forward", "reverse", "jsd"))
        check_choice("kd_loss", self.kd_loss, ("full", "sequence"))
