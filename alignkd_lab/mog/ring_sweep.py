"""The ring of KD-MWE over sharpening and size of the student: what distilling changes, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alignkd_lab.mog.ring import RingSettings, run_ring

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
