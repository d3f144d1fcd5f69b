"""What closed forms predict of a pipeline: every stage perfect, every model without limits.

A base that is the truth, a student that can hold whatever its teacher shows, an alignment that ends at the
optimum of its objective. A real run departs from this by what is left out: a student that is one component
short, and a policy that learns from its own draws. That gap is what the runs are for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import METHODS, PIPELINES, Distil, unknown


@dataclass(frozen=True)
class Policy:
    """A mixture whose components need not be Gaussian, on the cells of a grid.

    log_mass: `[component, cell]`, log of weight times the component's probability of the cell.
    """

    log_mass: Tensor

    def sharpen(self, sharpening: float) -> Policy:
        """Weights to the power `sharpening`, components as they are (KD-MWE)."""
        log_weights = self.log_mass.logsumexp(-1, keepdim=True)
        return Policy(self.log_mass - log_weights + torch.log_softmax(sharpening * log_weights, 0))

    def tilt(self, reward: Tensor, beta: float) -> Policy:
        """The optimum with this policy as reference: policy * exp(R / beta), normalised (Order)."""
        tilted = self.log_mass + reward / beta
        return Policy(tilted - tilted.logsumexp((0, 1)))

    @functools.cached_property
    def log_probs(self) -> Tensor:
        """`[cell]`, in nats."""
        return self.log_mass.logsumexp(0)


@dataclass(frozen=True)
class _Plane:
    """What does not depend on the modes' weights: the grid, its reward, and each mode's log-probabilities."""

    cell: float
    reward: Tensor
    on_target: Tensor
    log_modes: Tensor

    @classmethod
    @functools.lru_cache(maxsize=8)
    def of(cls, settings: MogSettings) -> _Plane:
        problem = Problem.of(settings)
        points = problem.grid()
        reward = problem.reward(points)[0]
        log_modes = torch.log_softmax(problem.truth.joint_log_prob(points)[0], -1)
        cell = (points[0, 1, 1] - points[0, 0, 1]).item()
        return cls(cell, reward, problem.on_target(points)[0], log_modes)


class ClosedForm:
    """The truth of some settings on a grid, and what a pipeline makes of it.

    cell: the width of a cell; reward, on_target: `[cell]`.
    """

    def __init__(self, settings: MogSettings) -> None:
        even = tuple(1 / len(settings.truth_weights) for _ in settings.truth_weights)
        # A plane serves every beta and sharpening; at this beta settings are refused for the reward's own width alone.
        plane = _Plane.of(replace(settings, truth_weights=even, beta=settings.reward_height, sharpening=1.0))
        self.settings, self._plane = settings, plane
        self.cell, self.reward, self.on_target = plane.cell, plane.reward, plane.on_target
        log_weights = torch.tensor(settings.truth_weights, dtype=torch.float64).log()
        self.truth = Policy(plane.log_modes + log_weights[:, None])
        self._true = self.truth.log_probs.exp()
        self._target = torch.log_softmax(self.truth.log_mass[list(settings.targets)].logsumexp(0), 0)

    def route(self, pipeline: str) -> list[Policy]:
        """The base, and the policy that each stage of the pipeline leaves.

        Raises:
            UnknownName: no pipeline, or one that the Gaussian world does not run.
        """
        if pipeline not in (known := [name for name in PIPELINES if name not in METHODS]):
            raise unknown("pipeline of the Gaussian world", pipeline, known)
        policies = {"base": self.truth}
        for stage in PIPELINES[pipeline]:
            if isinstance(stage, Distil):
                high = stage.temperature == "high"
                sharpening = self.settings.sharpening_high if high else self.settings.sharpening
                policies[stage.name] = policies[stage.teacher].sharpen(sharpening)
            else:
                policies[stage.name] = policies[stage.reference].tilt(self.reward, self.settings.beta)
        return list(policies.values())

    def metrics(self, policy: Policy) -> dict[str, float]:
        """The metrics of `mog.problem.evaluate`, as sums over the grid."""
        own = policy.log_probs.exp()
        to_density = -2 * np.log(self.cell)
        return {
            "reward": (own @ self.reward).item(),
            "target_rate": own[self.on_target].sum().item(),
            "target_precision": (own @ self._target).item() + to_density,
            "overall_precision": (own @ self.truth.log_probs).item() + to_density,
            "overall_recall": (self._true @ policy.log_probs).item() + to_density,
        }

    def least_target_weights(self, betas: Sequence[float], sharpening: float = 1.0) -> np.ndarray:
        """The recall threshold as a boundary: the least m0 with which the target wins at the optimum, `[beta]`.

        With a `sharpening` the optimum is that of a perfect copy of the truth, sharpened.

        m0 E_T[e^{R/beta}] > (1 - m0) E_notT[e^{R/beta}] (Order) is linear in the weights of the modes: each
        brings its own expectation on the target's cells minus that off them. The other modes keep their proportions.
        """
        tilt = torch.exp(self.reward / torch.as_tensor(np.asarray(betas), dtype=torch.float64)[:, None])
        sign = torch.where(self.on_target, 1.0, -1.0).to(tilt.dtype)
        gain = self._plane.log_modes.exp() @ (tilt * sign).T
        weights = torch.tensor(self.settings.truth_weights, dtype=tilt.dtype)
        rare = torch.zeros(len(weights), dtype=torch.bool)
        rare[list(self.settings.targets)] = True
        groups = [(weights[part] / weights[part].sum(), gain[part]) for part in (rare, ~rare)]
        inside, outside = (shares @ gains for shares, gains in groups)
        # Where a common mode wins for the target, any weight will do; where a target's own cannot, none does.
        least = torch.where(outside >= 0, 0.0, torch.where(inside <= 0, 1.0, -outside / (inside - outside)))
        # Sharpened, a group of weights w that sum to W sums to W^s times the sum of (w / W)^s.
        of_rare, of_others = ((shares**sharpening).sum() for shares, _ in groups)
        odds_against = ((1 / least - 1) * of_rare / of_others) ** (1 / sharpening)
        return (1 / (1 + odds_against)).numpy()
