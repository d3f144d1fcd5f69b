"""Tasks of notebook 04, with their solutions and the slips that lead to typical wrong answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alignkd_lab.exercises.tasks import Slip, Task


def first_step_weight() -> str:
    from alignkd_lab import theory

    # In the first step the policy is the reference, so its margin is the reference's own.
    level, behind = (theory.dpo_weight(margin, margin, beta=0.5).item() for margin in (0.0, -20.0))
    return "half and half" if level == behind == 0.5 else "more behind" if behind > level else "less behind"


def satisfied_margin() -> float:
    import math

    weight, beta, reference_margin = 0.05, 0.5, -20.0
    # weight = sigmoid(-beta (margin - reference_margin)), solved for the margin.
    return reference_margin + math.log((1 - weight) / weight) / beta


def one_pair() -> dict:
    """Two responses to one prompt, chosen first: tokens, what each model says, and which tokens are the response.

    logits `[2, 9, 6]` of policy and reference, tokens `[2, 9]`, `is_response` `[2, 9]` (with the end token,
    without prompt and padding; it marks tokens, not the positions that predict them), beta.
    """
    generator = torch.Generator().manual_seed(4)
    lengths, prompt, end, pad = (4, 6), 2, 5, 0
    tokens = torch.randint(1, 5, (2, 9), generator=generator)
    is_response = torch.zeros(2, 9, dtype=torch.bool)
    tokens[1, :prompt] = tokens[0, :prompt]
    for row, length in enumerate(lengths):
        tokens[row, prompt + length - 1] = end
        tokens[row, prompt + length :] = pad
        is_response[row, prompt : prompt + length] = True
    logits = {
        name: torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
        for name in ("policy_logits", "reference_logits")
    }
    return {**logits, "tokens": tokens, "is_response": is_response, "beta": 0.5}


def dpo_loss() -> float:
    import torch.nn.functional as F

    from alignkd_lab.exercises import given

    data = given("dpo_loss")
    labels, mask = data["tokens"][:, 1:], data["is_response"][:, 1:]

    def margin(logits):
        # The logits at one position predict the token at the next.
        log_probs = logits[:, :-1].log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        chosen, rejected = (log_probs * mask).sum(-1)
        return chosen - rejected

    change = margin(data["policy_logits"]) - margin(data["reference_logits"])
    return -F.logsigmoid(data["beta"] * change).item()


def dpo_slip(reference: bool = True, end: bool = True, mean: bool = False, shifted: bool = True) -> Callable:
    """The loss with one thing done wrong."""

    def loss() -> float:
        data = one_pair()
        mask = data["is_response"][:, 1:] if shifted else data["is_response"][:, :-1]
        if not end:
            mask = mask & (data["tokens"][:, 1:] != 5)

        def margin(logits: Tensor) -> Tensor:
            log_probs = logits[:, :-1].log_softmax(-1).gather(-1, data["tokens"][:, 1:, None]).squeeze(-1)
            chosen, rejected = (log_probs * mask).sum(-1) / (mask.sum(-1) if mean else 1)
            return chosen - rejected

        change = margin(data["policy_logits"]) - (margin(data["reference_logits"]) if reference else 0)
        return -torch.nn.functional.logsigmoid(data["beta"] * change).item()

    return loss


TASKS: dict[str, Task] = {
    "first_step_weight": Task(
        notebook="04",
        prediction=True,
        question="DPO's gradient weighs a pair by σ(−β (Δ_θ − Δ_ref)). The policy starts as the reference. For one "
        "pair Δ_ref = 0, for another −20 (the loser is far likelier). What are their weights in the first step?",
        options={
            "half and half": "½ and ½",
            "more behind": "½, and nearly 1 for the pair at −20",
            "less behind": "½, and nearly 0 for the pair at −20",
        },
        solve=first_step_weight,
        because="At the start Δ_θ = Δ_ref, so the bracket is 0 whatever the reference is.",
        hint="Answer one of the three choices.",
        slips=(
            Slip("more behind", "Not how far the winner is behind counts, but how far it has moved since the start."),
            Slip("less behind", "The weight fades with progress against the reference, and there is none yet."),
        ),
    ),
    "satisfied_margin": Task(
        notebook="04",
        question="β = 0.5 and Δ_ref = −20. At which Δ_θ has DPO's weight fallen to 0.05?",
        solve=satisfied_margin,
        because="The weight is nearly gone while Δ_θ is far below 0: DPO is satisfied, and the loser still ahead.",
        hint="Solve σ(−β (Δ_θ − Δ_ref)) = 0.05 for Δ_θ.",
        slips=(
            Slip(
                2 * math.log(19),
                "That is Δ_θ − Δ_ref, what the policy gained. Add the reference's own margin of −20.",
            ),
        ),
        tolerance=0.005,
    ),
    "dpo_loss": Task(
        notebook="04",
        question="Compute DPO's loss of one pair by hand, from logits, tokens and the mask of response tokens.",
        given=one_pair,
        solve=dpo_loss,
        because="Sums of log-probabilities over response tokens, chosen minus rejected, policy minus reference.",
        hint="-log σ(β [Δ_θ − Δ_ref]); Δ is a difference of two summed log-probabilities. Look at the shift by one: "
        "logits at a position speak of the next token.",
        slips=(
            Slip(dpo_slip(reference=False), "The reference is missing: subtract its margin Δ_ref."),
            Slip(dpo_slip(end=False), "The end token is missing. To stop is part of the response."),
            Slip(dpo_slip(mean=True), "Those are means over tokens. DPO sums them: a response's log-probability."),
            Slip(dpo_slip(shifted=False), "The mask is not shifted with the labels: take is_response[:, 1:]."),
        ),
        tolerance=0.001,
    ),
}
