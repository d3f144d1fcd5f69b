"""Solutions and data of notebook 05."""

from __future__ import annotations

import torch


def layers_to_drop() -> str:
    from alignkd_lab.course.explorers.layer_cuts import CUTS  # which 14 of the 30 layers go
    from alignkd_lab.course.shipped import measured_influence

    influence = measured_influence()  # of each of the 30 layers: how much it turns the state that passes
    return min(CUTS, key=lambda name: sum(influence[layer] for layer in CUTS[name]))


def kd_calls() -> list[tuple]:
    """Logits [N, V] of student and teacher, and both directions."""
    noise = torch.Generator().manual_seed(5)
    draws = [torch.randn(2, tokens, 5, generator=noise, dtype=torch.float64) for tokens in (3, 4)]
    return [
        (student.requires_grad_(), teacher, way)
        for (student, teacher), way in zip(draws, ("forward", "reverse"), strict=True)
    ]
