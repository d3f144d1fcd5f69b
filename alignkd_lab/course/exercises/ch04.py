"""Tasks of notebook 04, with their solutions and typical wrong answers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.exercises.write import Written
from alignkd_lab.nano import dpo_loss as nano_dpo_loss

END = 5  # the end token of the pair below


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


def one_pair() -> dict:
    """Two responses to one prompt, chosen first: tokens, what each model says, and which tokens are the response.

    `policy_logits` and `reference_logits` `[2, 9, 6]`, `tokens` `[2, 9]`, `is_response` `[2, 9]` (with the end token,
    without prompt and padding; it marks tokens, not the positions that predict them), `beta`.
    """
    generator = torch.Generator().manual_seed(4)
    lengths, prompt, pad = (4, 6), 2, 0
    tokens = torch.randint(1, 5, (2, 9), generator=generator)
    is_response = torch.zeros(2, 9, dtype=torch.bool)
    tokens[1, :prompt] = tokens[0, :prompt]
    for row, length in enumerate(lengths):
        tokens[row, prompt + length - 1] = END
        tokens[row, prompt + length :] = pad
        is_response[row, prompt : prompt + length] = True
    logits = {
        name: torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
        for name in ("policy_logits", "reference_logits")
    }
    return {**logits, "tokens": tokens, "is_response": is_response, "beta": 0.5}


def dpo_loss(data: dict) -> float:
    import torch.nn.functional as F

    labels, mask = data["tokens"][:, 1:], data["is_response"][:, 1:]

    def margin(logits):
        # The logits at one position predict the token at the next.
        log_probs = logits[:, :-1].log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        chosen, rejected = (log_probs * mask).sum(-1)
        return chosen - rejected

    change = margin(data["policy_logits"]) - margin(data["reference_logits"])
    return -F.logsigmoid(data["beta"] * change).item()


def dpo_distractor(
    reference: bool = True, end: bool = True, mean: bool = False, mask: int = 1, labels: int = 1, turned: bool = False
) -> Callable:
    """The loss with one thing done wrong; `mask` and `labels` say by how many places each is shifted."""

    def loss() -> float:
        data = one_pair()
        tokens, last = data["tokens"], data["tokens"].shape[1] - 1
        counted = data["is_response"][:, mask : mask + last]
        if not end:
            counted = counted & (tokens[:, 1:] != END)

        def margin(logits: Tensor) -> Tensor:
            predicted = tokens[:, labels : labels + last, None]
            log_probs = logits[:, :-1].log_softmax(-1).gather(-1, predicted).squeeze(-1)
            chosen, rejected = (log_probs * counted).sum(-1) / (counted.sum(-1) if mean else 1)
            return rejected - chosen if turned else chosen - rejected

        change = margin(data["policy_logits"]) - (margin(data["reference_logits"]) if reference else 0)
        return -torch.nn.functional.logsigmoid(data["beta"] * change).item()

    return loss


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


def dpo_mistake(
    turned: bool = False,
    reference: int = -1,
    of: Callable = lambda change, beta: -(beta * change).sigmoid().log().mean(),
) -> Callable:
    """DPO's loss with one thing done wrong; `of` makes it of each pair's change and of beta."""

    def loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float):
        change = chosen - rejected + reference * (reference_chosen - reference_rejected)
        return of(-change if turned else change, beta)

    return loss


TASKS: dict[str, Task] = {
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
        distractors={
            "more behind": "What counts is not how far behind the winner is, but how far it has come since the start.",
            "less behind": "The weight fades with progress against the reference, and there is none yet.",
        },
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
        distractors={
            "winner": "It gains a factor of a few hundred on the loser, but it started e²⁰, half a billion, behind.",
            "loser": "It still leads the winner. But it is pushed down, and two others are not pushed at all.",
        },
    ),
    "winner_room": Task(
        prediction=True,
        question="Both answers of a pair are the same but for one word: the capital, or another city. Before training, "
        "SmolLM2 gives the winner about Paris a probability of 0.3, all its tokens together. DPO lets the margin grow "
        "by 20 nats. How many of them can be the winner's gain, at most?",
        solve=winner_room,
        because="A log-probability is at most 0, so nearly all of the margin is the loser's fall. And nothing in the "
        "loss keeps the winner from falling, too.",
        hint="A probability is at most 1, so a log-probability is at most 0. Where does the winner's begin?",
        distractors={
            20.0: "That is the whole margin, and the winner would have a probability far above 1.",
            10.0: "Half of the margin each? The winner would have a probability far above 1.",
            0.7: "That is in probability. In nats it is a difference of logarithms: log 1 − log 0.3.",
        },
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
    "dpo_loss": Task(
        question='given("dpo_loss") holds one pair, the chosen response in row 0 and the rejected one in row 1: '
        "policy_logits and reference_logits [2, 9, 6], tokens [2, 9], is_response [2, 9] (which tokens are the "
        "response, its end token included) and beta. What is DPO's loss?",
        given=one_pair,
        solve=dpo_loss,
        because="Sums of log-probabilities over response tokens, chosen minus rejected, policy minus reference.",
        hint="−log σ(β [Δ_θ − Δ_ref]); Δ is a difference of two summed log-probabilities. Look at the shift by one: "
        "logits at a position speak of the next token.",
        distractors={
            dpo_distractor(reference=False): "The reference is missing: subtract its margin Δ_ref.",
            dpo_distractor(end=False): "The end token is missing. Stopping is part of the response.",
            dpo_distractor(mean=True): "Those are means over tokens. DPO sums them: a response's log-probability.",
            dpo_distractor(mask=0): "The mask is not shifted with the labels: take is_response[:, 1:].",
            dpo_distractor(labels=0, mask=0): "Nothing is shifted: the logits at a position were compared with the "
            "token that already stands there. Pair logits[:, :-1] with tokens[:, 1:], and shift the mask as well.",
            dpo_distractor(turned=True): "The pair is the wrong way round: row 0 is the chosen response.",
        },
        tolerance=0.001,
    ),
}

WRITTEN: dict[str, Written] = {
    "write_dpo_loss": Written(
        question="Write dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta). The first two are the "
        "policy's log-probabilities of whole responses, the next two the reference's, all [pairs]. Return the mean "
        "loss of a pair, one number.",
        solve=nano_dpo_loss,
        inputs=dpo_calls,
        because="−log σ(β (Δ_θ − Δ_ref)), averaged over pairs. It matters how far the margin has moved, not who leads.",
        hint="Δ_θ = chosen − rejected; Δ_ref is the same for the reference. Then take the mean of "
        "−log σ(β (Δ_θ − Δ_ref)), with torch.nn.functional.logsigmoid.",
        mistakes={
            dpo_mistake(turned=True): "The pair is the wrong way round: this makes the rejected response likelier.",
            dpo_mistake(reference=0): "The reference is missing: subtract its margin.",
            dpo_mistake(reference=1): "The reference's margin is added. It is Δ_θ minus Δ_ref.",
            dpo_mistake(of=lambda change, beta: (beta * change).sigmoid().log().mean()): "The minus is missing. "
            "Training makes the loss small, so this pushes the chosen response down.",
            dpo_mistake(of=lambda change, beta: -change.sigmoid().log().mean()): "β is missing inside the sigmoid.",
            dpo_mistake(of=lambda change, beta: -beta * change.sigmoid().log().mean()): "β is outside. It belongs "
            "inside the sigmoid, where it sets how soon a pair is satisfied.",
            dpo_mistake(of=lambda change, beta: -(beta * change).sigmoid().mean()): "The logarithm is missing: −log σ, "
            "not −σ.",
            dpo_mistake(of=lambda change, beta: -(beta * change.mean()).sigmoid().log()): "The mean is taken too "
            "early: each pair has its own loss, and the losses are averaged.",
            dpo_mistake(of=lambda change, beta: -(beta * change).sigmoid().log().sum()): "That is the sum over pairs. "
            "Take the mean, or the step grows with the batch.",
            dpo_mistake(of=lambda change, beta: -(beta * change).sigmoid().log()): "One loss for each pair: take their "
            "mean.",
        },
    ),
}
