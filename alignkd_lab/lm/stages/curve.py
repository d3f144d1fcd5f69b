"""What alignment earns and how far it drifts along the way: measured at a few steps, on prompts of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alignkd_lab.lm.context import Context, Reward
from alignkd_lab.lm.settings import CurveSettings
from alignkd_lab.progress import tell
from alignkd_lab.results import Cost


class Curve:
    """Points along the training of one stage; `on_step` is for the trainer, and for step 0 before it begins.

    They are step 0 and the settings' number of even ones, or those after the steps that `at` names.

    Attributes:
        points: reward and rate of the target on validation prompts, and KL from the reference in nats a response.
        cost: of sampling and reading them.
    """

    def __init__(
        self, context: Context, reward: Reward, model, reference_model, settings: CurveSettings, steps: int, name: str,
        at: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self._context, self._reward, self._settings, self._name = context, reward, settings, name
        self._model, self._reference_model = model, reference_model
        count = settings.curve_points
        self._marks = {0, *(round(steps * (i + 1) / count) for i in range(count))} if at is None else set(at)
        self.points: list[dict] = []
        self.cost = Cost()

    def on_step(self, step: int) -> None:
        if step in self._marks:
            self.points.append(self._point(step))
            tell("curve", stage=self._name, **self.points[-1])

    @torch.no_grad()
    def _point(self, step: int) -> dict:
        model, settings = self._model, self._settings
        was_training = model.training
        model.eval().merge_adapter()
        samples = self._context.sample(
            model.get_base_model(), "validation", None, settings.validation_responses, settings.max_tokens,
            f"step {step}",
        )  # fmt: skip
        model.unmerge_adapter()
        model.train(was_training)
        earned = self._reward.earn(samples, None)
        under_reference = self._context.score(self._reference_model, samples)
        self.cost += Cost(sampled=samples.token_count, scored=samples.token_count + earned.tokens)
        gaps = [float((own - other).sum()) for own, other in zip(samples.log_probs, under_reference, strict=True)]
        count = len(gaps)
        return {
            "step": step,
            "reward": sum(earned.rewards) / count,
            "target_rate": sum(earned.hits) / count,
            "kl": sum(gaps) / count,
        }
