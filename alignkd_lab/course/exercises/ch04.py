"""Solutions and data of notebook 04."""

from __future__ import annotations

import torch


def first_step_weight() -> str:
    from alignkd_lab import theory

    # In the first step the policy is the reference, so its margin is the reference's own.
    level, behind = (theory.dpo_weight(margin, margin, beta=0.5).item() for margin in (0.0, -20.0))
    return "half and half" if level == behind == 0.5 else "more behind" if behind > level else "less behind"


def winner_room() -> float:
    import math

    return -math.log(0.3)


def satisfied_margin() -> float:
    import math

    weight, beta, reference_margin = 0.05, 0.5, -20.0
    # weight = sigmoid(-beta (margin - reference_margin)), solved for the margin.
    return reference_margin + math.log((1 - weight) / weight) / beta


def unpaired_mass() -> str:
    from alignkd_lab.course.toy.walk import walk

    walked = walk("dpo", margin=-20.0, beta=0.5)
    satisfied = (walked.weights < 0.05).argmax()  # the first such step
    return ("loser", "winner", "bystander", "bystander")[walked.log_probs[satisfied].argmax()]


def dpo_calls() -> list[tuple]:
    """Log-probabilities [pairs] of chosen and rejected responses, of the policy and then of the reference; beta."""
    noise = torch.Generator().manual_seed(4)
    draws = [torch.randn(4, pairs, generator=noise, dtype=torch.float64) for pairs in (3, 5)]
    return [
        (chosen.requires_grad_(), rejected.requires_grad_(), *reference, beta)
        for (chosen, rejected, *reference), beta in zip(draws, (0.5, 2.0), strict=True)
    ]
