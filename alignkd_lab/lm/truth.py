"""The truth of a run as samples and as a yardstick."""

from __future__ import annotations

from functools import cached_property

import torch

from alignkd_lab.lm.context import Context
from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.sampling import Samples


class Truth:
    """The truth p* of a run: what it wrote itself, and how likely it finds what others wrote.

    It does not read again what it wrote itself.
    """

    def __init__(self, context: Context, source: str, max_tokens: int) -> None:
        self.policy = Policy(source)
        self._context, self._max_tokens = context, max_tokens

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self._context.models.of(self.policy)

    def samples(self, split: str, count: int | None, responses: int) -> Samples:
        return self._context.keep_samples(
            self.policy, split, count, responses, self._max_tokens, f"truth {split}", self._model
        )

    def wrote(self, policy: Policy | None) -> bool:
        return policy is not None and policy.digest == self.policy.digest

    def read(self, samples: Samples, policy: Policy | None) -> tuple[list[torch.Tensor], int]:
        """Log-probabilities under the truth of what `policy` wrote, and how many tokens it had to read for them."""
        if self.wrote(policy):
            return samples.log_probs, 0
        return self._context.score(self._model, samples), samples.token_count
