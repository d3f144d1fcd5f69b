"""Tasks of notebook 04, with their solutions and typical wrong answers."""

from __future__ import annotations

import math

import torch

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import dpo_loss


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


TASKS: dict[str, Task | Written] = {
    "first_step_weight": Task(
        prediction=True,
        question="DPO starts at the reference, and pushes on every pair with a weight between 0 and 1. In one pair the "
        "reference finds winner and loser equally likely. In another it finds the loser e²⁰ times likelier. How large "
        "are the two weights in the first step?",
        options={
            "half and half": "½ and ½",
            "more behind": "½, and nearly 1 for the pair whose winner is far behind",
            "less behind": "½, and nearly 0 for the pair whose winner is far behind",
        },
        solve=first_step_weight,
        because="The weight asks how far the policy has moved from the reference, and at the start it has not moved.",
    ),
    "unpaired_mass": Task(
        prediction=True,
        question="Four outcomes. The reference gives the loser 90 %, the winner e²⁰ times less, and two outcomes that "
        "no pair compares 9.9 % and 0.1 %. DPO (β = 0.5) trains on the pair until its weight is below 0.05. Which "
        "outcome is then the likeliest?",
        options={
            "winner": "the winner",
            "loser": "the loser, still",
            "bystander": "one of the two that no pair compares",
        },
        solve=unpaired_mass,
        because="The loser is pushed down, the winner is too rare to take over, and shares sum to one: what the loser "
        "loses goes to outcomes of which DPO knows nothing.",
    ),
    "winner_room": Task(
        prediction=True,
        question="Both answers of a pair are the same but for one word: the capital, or another city. Before training, "
        "SmolLM2 gives the winner about Paris a probability of 0.3, all its tokens together. DPO lets the margin grow "
        "by 20 nats. How many of them can be the winner's gain, at most?",
        solve=winner_room,
        because="A log-probability is at most 0, so nearly all of the margin is the loser's fall. And nothing in the "
        "loss keeps the winner from falling, too.",
        tolerance=0.05,
    ),
    "satisfied_margin": Task(
        question="DPO's weight of a pair is σ(−β (Δ_θ − Δ_ref)), where Δ is the winner's log-probability minus the "
        "loser's. With β = 0.5 and Δ_ref = −20: at which Δ_θ has the weight fallen to 0.05?",
        solve=satisfied_margin,
        because="The weight is nearly gone while Δ_θ is far below 0: DPO is satisfied, yet the loser is more than "
        "a million times likelier than the winner.",
        hint="Solve σ(−β (Δ_θ − Δ_ref)) = 0.05 for Δ_θ. The inverse of σ is log(p / (1 − p)).",
        distractors={
            2 * math.log(19): "That is Δ_θ − Δ_ref, what the policy has gained. Add the reference's own margin of −20.",
            -20 - 2 * math.log(19): "The sign is wrong: there the weight is 0.95. It fades as Δ_θ rises.",
            -20 + math.log(19): "Nearly: you solved for β (Δ_θ − Δ_ref). Divide by β.",
        },
        tolerance=0.005,
    ),
    "write_dpo_loss": Written(
        question="Write dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta). The first two are the "
        "policy's log-probabilities of whole responses, the next two the reference's, all [pairs]. Return the mean "
        "loss of a pair, one number.",
        solve=dpo_loss,
        inputs=dpo_calls,
        because="−log σ(β (Δ_θ − Δ_ref)), averaged over pairs. It matters how far the margin has moved, not who leads.",
        hint="Δ_θ = chosen − rejected; Δ_ref is the same for the reference. Then take the mean of "
        "−log σ(β (Δ_θ − Δ_ref)), with torch.nn.functional.logsigmoid.",
        mistakes={
            "beta * ( → -beta * (": "The pair is the wrong way round: this makes the rejected response likelier.",
            " - (reference_chosen - reference_rejected) → ": "The reference is missing: subtract its margin.",
            " - (reference_chosen →  + (reference_chosen": "The reference's margin is added. It is Δ_θ minus Δ_ref.",
            "-F.logsigmoid → F.logsigmoid": "The minus is missing. Training makes the loss small, so this pushes the "
            "chosen response down.",
            "beta * ( → (": "β is missing inside the sigmoid.",
            "-F.logsigmoid(beta *  → -beta * F.logsigmoid(": "β is outside. It belongs inside the sigmoid, where it "
            "sets how soon a pair is satisfied.",
            "F.logsigmoid → F.sigmoid": "The logarithm is missing: −log σ, not −σ.",
            ")).mean() → ).mean())": "The mean is taken too early: each pair has its own loss, and the losses are "
            "averaged.",
            ".mean() → .sum()": "That is the sum over pairs. Take the mean, or the step grows with the batch.",
            ".mean() → ": "One loss for each pair: take their mean.",
        },
    ),
}
