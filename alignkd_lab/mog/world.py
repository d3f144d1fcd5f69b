"""The Gaussian world behind the `World` protocol of `alignkd_lab.pipelines`: all seeds in one batch.

A policy is a `GaussianMixture` with one mixture per seed. The policy `student` exists before it has seen
a teacher only as a size: its components all sit on a standard normal, and distillation reads nothing of
it but their number.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.mog import align
from alignkd_lab.mog.em import EmSettings, distil, fit
from alignkd_lab.mog.mixture import GaussianMixture
from alignkd_lab.mog.noise import SeedNoise
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import Align, Distil, Stage, StageResult

ALGORITHMS = ("rlhf", "dpo")

# Raise one where a change of code changes what that part computes: results kept from the old code then rest.
_CODE = {"start": 1, "distil": 1, "align": 1, "evaluate": 1}

_TRUTH = ("truth_weights", "truth_means", "truth_sd")
_REWARD = ("targets", "reward_height", "reward_width", "reward_clip")
_EM = ("restarts", "em_iterations", "em_tolerance", "variance_floor")
_RLHF = ("beta", "rlhf_steps", "rlhf_batch", "rlhf_learning_rate")
_DPO = ("beta", "dpo_pairs", "dpo_steps", "dpo_batch", "dpo_learning_rate", "dpo_label_noise")
# Settings younger than kept stages: at 0 they change nothing, and stay out of what a stage is found by.
_LATER = ("reward_clip",)
_FILE = "mixture.safetensors"


class MogWorld:
    """Settings, algorithm and seeds; a seed's results do not depend on the other seeds of the batch.

    Raises:
        BadInput: unknown algorithm, no seeds, or a seed twice.
    """

    def __init__(
        self,
        settings: MogSettings,
        algorithm: str,
        seeds: tuple[int, ...] | range,
        device: torch.device | str = "cpu",
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", algorithm, ALGORITHMS)
        seeds = tuple(seeds)
        if not seeds or len(set(seeds)) < len(seeds):
            raise BadInput(f"seeds must be at least one, each named once, not {seeds}")
        self.settings, self.algorithm, self.seeds, self.device = settings, algorithm, seeds, device
        self.problem = Problem.of(settings, device)
        self.noise = SeedNoise(seeds, device)
        self._em = EmSettings(
            restarts=settings.restarts,
            iterations=settings.em_iterations,
            tolerance=settings.em_tolerance,
            variance_floor=settings.variance_floor,
        )

    # What results depend on ---------------------------------------------------------------------------

    def fingerprint(self) -> dict:
        names = (*_TRUTH, *_EM, "training_draws", "base_components", "student_components")
        device = torch.device(self.device).type
        origin = {"world": "mog", "seeds": list(self.seeds), "device": device, "code": _CODE["start"]}
        return {**origin, **self._named(names)}

    def stage_settings(self, stage: Stage) -> dict:
        if isinstance(stage, Distil):
            named = {"sharpening": self._sharpening(stage), **self._named((*_EM, "teacher_samples"))}
            return {"code": _CODE["distil"], **named}
        algorithm_settings = _RLHF if self.algorithm == "rlhf" else _DPO
        named = self._named((*_REWARD, *algorithm_settings))
        return {"code": _CODE["align"], "algorithm": self.algorithm, **named}

    def evaluation_settings(self) -> dict:
        return {"code": _CODE["evaluate"], **self._named((*_REWARD, "evaluation_draws"))}

    def _named(self, names: tuple[str, ...]) -> dict:
        everything = dataclasses.asdict(self.settings)
        return {name: everything[name] for name in names if everything[name] or name not in _LATER}

    def _sharpening(self, stage: Distil) -> float:
        known = {"kd": self.settings.sharpening, "high": self.settings.sharpening_high}
        if stage.temperature not in known:
            raise UnknownName(f"temperature of the stage {stage.name!r}", stage.temperature, known)
        return known[stage.temperature]

    # Policies -----------------------------------------------------------------------------------------

    def start(self, name: str) -> GaussianMixture:
        if name == "base":
            return self._fit_base()
        if name == "student":
            return self._unfitted_student()
        raise UnknownName("starting policy", name, ("base", "student"))

    def training_draws(self) -> torch.Tensor:
        """The draws of p* that the base is fitted to: `[seed, draw, 2]`."""
        return self._truth_draws("training draws", self.settings.training_draws)

    def _truth_draws(self, purpose: str, count: int) -> torch.Tensor:
        truth = self.problem.truth.expand(len(self.seeds))
        return truth.from_noise(self.noise.uniform(purpose, count), self.noise.normal(purpose, count, 2))

    def _fit_base(self) -> GaussianMixture:
        starts = self.noise.uniform("base starts", self.settings.restarts, self.settings.base_components)
        return fit(self.training_draws(), starts, self._em)

    def _unfitted_student(self) -> GaussianMixture:
        shape = (len(self.seeds), self.settings.student_components)
        zeros = torch.zeros(*shape, 2, dtype=torch.float64, device=self.device)
        return GaussianMixture(torch.log_softmax(zeros[..., 0], -1), zeros, zeros.clone())

    # Stages -------------------------------------------------------------------------------------------

    def run(self, stage: Stage, policies: dict[str, GaussianMixture]) -> StageResult:
        policy, info = self._distil(stage, policies) if isinstance(stage, Distil) else self._align(stage, policies)
        return StageResult(policy, {"seeds_in_batch": len(self.seeds), **info})

    def _distil(self, stage: Distil, policies: dict[str, GaussianMixture]) -> tuple[GaussianMixture, dict]:
        sharpening = self._sharpening(stage)
        student = distil(
            policies[stage.teacher],
            policies[stage.init].components,
            self.noise,
            sharpening=sharpening,
            samples=self.settings.teacher_samples,
            em=self._em,
        )
        samples = self.settings.teacher_samples
        return student, {"sharpening": sharpening, "tokens": _draws(samples, samples, 0)}

    def _align(self, stage: Align, policies: dict[str, GaussianMixture]) -> tuple[GaussianMixture, dict]:
        run = self._rlhf if self.algorithm == "rlhf" else self._dpo
        policy, info = run(stage, policies)
        reached, best = self.problem.optimality(policy, policies[stage.reference], self.settings.beta)
        info["per_seed"] |= {
            "objective": reached.tolist(),
            "optimum": best.tolist(),
            "gap": (best - reached).tolist(),
        }
        return policy, info

    def _rlhf(self, stage: Align, policies: dict[str, GaussianMixture]) -> tuple[GaussianMixture, dict]:
        settings = self.settings
        policy, info = align.rlhf(
            policies[stage.init],
            policies[stage.reference],
            self.problem,
            self.noise,
            beta=settings.beta,
            steps=settings.rlhf_steps,
            batch=settings.rlhf_batch,
            learning_rate=settings.rlhf_learning_rate,
        )
        draws = settings.rlhf_steps * settings.rlhf_batch
        tokens = _draws(draws, draws, draws)
        return policy, {"learning_rate": settings.rlhf_learning_rate, "tokens": tokens, **info}

    def _dpo(self, stage: Align, policies: dict[str, GaussianMixture]) -> tuple[GaussianMixture, dict]:
        settings = self.settings
        pairs = align.sample_pairs(
            policies[stage.sampler],
            self.problem,
            self.noise,
            count=settings.dpo_pairs,
            label_noise=settings.dpo_label_noise,
        )
        policy, info = align.dpo(
            policies[stage.init],
            policies[stage.reference],
            pairs,
            self.problem,
            self.noise,
            beta=settings.beta,
            steps=settings.dpo_steps,
            batch=settings.dpo_batch,
            learning_rate=settings.dpo_learning_rate,
        )
        info["per_seed"]["informative_pairs"] = pairs.informative.tolist()
        tokens = _draws(2 * settings.dpo_pairs, 2 * settings.dpo_steps * settings.dpo_batch, 2 * settings.dpo_pairs)
        return policy, {"learning_rate": settings.dpo_learning_rate, "tokens": tokens, **info}

    # Evaluation and keeping ---------------------------------------------------------------------------

    def evaluate(self, policy: GaussianMixture) -> dict:
        """`{"metrics": {name: [per seed]}, "view": [a mixture per seed]}`, on draws that no stage saw."""
        count = self.settings.evaluation_draws
        own = policy.from_noise(self.noise.uniform("evaluation", count), self.noise.normal("evaluation", count, 2))
        metrics = evaluate(policy, self.problem, own, self._truth_draws("evaluation of recall", count))
        return {"metrics": {name: value.tolist() for name, value in metrics.items()}, "view": _view(policy)}

    def save(self, policy: GaussianMixture, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"log_weights": policy.log_weights, "means": policy.means, "log_sds": policy.log_sds}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / _FILE)

    def load(self, folder: Path) -> GaussianMixture:
        return GaussianMixture(**load_file(folder / _FILE)).to(self.device)


def _draws(sampled: int, trained: int, scored: int) -> dict:
    """The cost of a stage for one seed; a draw is to this world what a token is to the other."""
    return {"sampled": sampled, "trained": trained, "scored": scored}


def _view(policy: GaussianMixture) -> list[dict]:
    columns = (policy.weights.tolist(), policy.means.tolist(), policy.sds.tolist())
    return [{"weights": w, "means": m, "sds": s} for w, m, s in zip(*columns, strict=True)]
