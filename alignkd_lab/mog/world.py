"""The Gaussian world behind the `World` protocol of `alignkd_lab.pipelines`: all seeds in one batch.

A policy is a `GaussianMixture` with one mixture per seed. The policy `student` exists before it has seen
a teacher only as a size: its components all sit on a standard normal, and distillation reads nothing of
it but their number.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.mog import align
from alignkd_lab.mog.em import distil, fit
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem, evaluate
from alignkd_lab.mog.settings import (
    DistilSettings,
    DpoSettings,
    EvaluationSettings,
    MogSettings,
    RlhfSettings,
    StartSettings,
)
from alignkd_lab.pipelines import ALGORITHMS, Align, Distil, Stage
from alignkd_lab.results import Cost, Result
from alignkd_lab.store import changed, part

# Raise one where its code, or a default of its settings, changes what it computes: results kept before then rest.
CODE = {"start": 1, "distil": 1, "rlhf": 1, "dpo": 1, "evaluate": 1}

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

    # What results depend on ---------------------------------------------------------------------------

    def fingerprint(self) -> dict:
        device = torch.device(self.device).type
        origin = {"world": "mog", "seeds": list(self.seeds), "device": device, "code": CODE["start"]}
        return origin | changed(part(StartSettings, self.settings))

    def stage_settings(self, stage: Stage) -> dict:
        if isinstance(stage, Distil):
            return {"code": CODE["distil"]} | changed(self._distil_settings(stage))
        known = {"code": CODE[self.algorithm], "algorithm": self.algorithm}
        return known | changed(self._align_settings)

    def evaluation_settings(self) -> dict:
        return {"code": CODE["evaluate"]} | changed(part(EvaluationSettings, self.settings))

    @property
    def _align_settings(self) -> RlhfSettings | DpoSettings:
        return part(RlhfSettings if self.algorithm == "rlhf" else DpoSettings, self.settings)

    def _distil_settings(self, stage: Distil) -> DistilSettings:
        known = {"kd": self.settings.sharpening, "high": self.settings.sharpening_high}
        if stage.temperature not in known:
            raise UnknownName(f"temperature of the stage {stage.name!r}", stage.temperature, known)
        return part(DistilSettings, self.settings, sharpening=known[stage.temperature])

    # Policies -----------------------------------------------------------------------------------------

    def start(self, name: str) -> GaussianMixture:
        if name == "base":
            starts = self.noise.uniform("base starts", self.settings.restarts, self.settings.base_components)
            return fit(self.training_draws(), starts, self.settings)
        if name == "student":
            shape = len(self.seeds), self.settings.student_components, 2
            zeros = torch.zeros(shape, dtype=torch.float64, device=self.device)
            return GaussianMixture(torch.log_softmax(zeros[..., 0], -1), zeros, zeros.clone())
        raise UnknownName("starting policy", name, ("base", "student"))

    def training_draws(self) -> torch.Tensor:
        """The draws of p* that the base is fitted to: `[seed, draw, 2]`."""
        return self._truth.draw(self.noise, "training draws", self.settings.training_draws)

    @property
    def _truth(self) -> GaussianMixture:
        return self.problem.truth.expand(len(self.seeds))

    # Stages -------------------------------------------------------------------------------------------

    def run(self, stage: Stage, policies: dict[str, GaussianMixture]) -> Result:
        kinds = {Distil: self._distil, Align: self._align}
        if type(stage) not in kinds:
            raise BadInput(f"pipeline: {stage.name!r} teaches by next-token distributions; run it with world 'lm'")
        result = kinds[type(stage)](stage, policies)
        return Result(result.policy, {"seeds_in_batch": len(self.seeds), **result.info}, result.cost)

    def _distil(self, stage: Distil, policies: dict[str, GaussianMixture]) -> Result:
        settings = self._distil_settings(stage)
        student = distil(policies[stage.teacher], policies[stage.init].components, self.noise, settings)
        cost = Cost(sampled=settings.teacher_samples, trained=settings.teacher_samples)
        return Result(student, {"sharpening": settings.sharpening}, cost)

    def _align(self, stage: Align, policies: dict[str, GaussianMixture]) -> Result:
        settings, init, reference = self._align_settings, policies[stage.init], policies[stage.reference]
        if self.algorithm == "rlhf":
            policy, info = align.rlhf(init, reference, self.problem, self.noise, settings)
            draws = settings.rlhf_steps * settings.rlhf_batch
            rate, cost = settings.rlhf_learning_rate, Cost(draws, draws, draws)
        else:
            pairs = align.sample_pairs(policies[stage.sampler], self.problem, self.noise, settings)
            policy, info = align.dpo(init, reference, pairs, self.problem, self.noise, settings)
            info["per_seed"]["informative_pairs"] = pairs.informative.tolist()
            drawn, trained = 2 * settings.dpo_pairs, 2 * settings.dpo_steps * settings.dpo_batch
            rate, cost = settings.dpo_learning_rate, Cost(drawn, trained, drawn)
        reached, best = self.problem.optimality(policy, reference, settings.beta)
        info["per_seed"] |= {
            name: [None if math.isnan(value) else value for value in values.tolist()]
            for name, values in (("objective", reached), ("optimum", best), ("gap", best - reached))
        }
        return Result(policy, {"learning_rate": rate, **info}, cost)

    # Evaluation and keeping ---------------------------------------------------------------------------

    def evaluate(self, policy: GaussianMixture) -> dict:
        """`{"metrics": {name: [per seed]}, "view": [a mixture per seed]}`, on draws that no stage saw."""
        count = self.settings.evaluation_draws
        own = policy.draw(self.noise, "evaluation", count)
        metrics = evaluate(policy, self.problem, own, self._truth.draw(self.noise, "evaluation of recall", count))
        columns = (policy.weights.tolist(), policy.means.tolist(), policy.sds.tolist())
        view = [{"weights": w, "means": m, "sds": s} for w, m, s in zip(*columns, strict=True)]
        return {"metrics": {name: value.tolist() for name, value in metrics.items()}, "view": view}

    def save(self, policy: GaussianMixture, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"log_weights": policy.log_weights, "means": policy.means, "log_sds": policy.log_sds}
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, folder / _FILE)

    def load(self, folder: Path) -> GaussianMixture:
        return GaussianMixture(**load_file(folder / _FILE)).to(self.device)
