"""What a stage of either world leaves, and what it took."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

KINDS = ("sampled", "trained", "scored")  # of tokens that a model works on; draws in the Gaussian world


class Cost(NamedTuple):
    """What work took, for one seed: tokens (of Gaussians: draws) that were sampled, trained on and scored by a model.

    `seconds_before` is the time in which an earlier stage drew samples that this one reads, too.
    """

    sampled: int = 0
    trained: int = 0
    scored: int = 0
    seconds_before: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(operator.add, self, other))

    @property
    def tokens(self) -> dict[str, int]:
        return {kind: getattr(self, kind) for kind in KINDS}


NOTHING = Cost()


@dataclass(frozen=True)
class Result:
    """What a stage leaves: the policy, `info` (JSON: counts, losses, curves), and what it took."""

    policy: Any
    info: dict = field(default_factory=dict)
    cost: Cost = NOTHING
