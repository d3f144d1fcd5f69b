"""Random numbers that belong to a seed and a purpose.

A seed's numbers must not depend on which other seeds share its batch, and two pipelines must meet the
same numbers, so that their differences are paired. Hence one generator per seed and purpose. They run on
the CPU on every device: a GPU run then sees the same draws.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SeedNoise:
    """Noise for a batch of seeds, on `device`, in float64."""

    seeds: tuple[int, ...]
    device: torch.device | str = "cpu"

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Uniform on [0, 1): `[seed, *shape]`."""
        return self._stack(torch.rand, purpose, shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal: `[seed, *shape]`."""
        return self._stack(torch.randn, purpose, shape)

    def _stack(self, draw, purpose: str, shape: tuple[int, ...]) -> Tensor:
        kind = draw.__name__
        rows = [
            draw(shape, generator=_generator(seed, f"{purpose}/{kind}"), dtype=torch.float64) for seed in self.seeds
        ]
        return torch.stack(rows).to(self.device)


def _generator(seed: int, purpose: str) -> torch.Generator:
    """Python's own `hash` of a string changes from process to process; this one does not."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
