"""Solutions and data of notebook 06."""

from __future__ import annotations

import torch


def adpa_corner() -> str:
    from alignkd_lab.course.toy import one_state

    probs = one_state.optimum(gamma=1.5)
    return f"token {1 + int(probs.argmax())}" if probs.max() > 0.999 else "the DPO teacher"


def two_positions() -> dict:
    """Two positions of a response that the student wrote, and a vocabulary of five tokens.

    `student` and `advantages` `[2, 5]`: probabilities and nats; `gamma`; `tokens`, the N of the mean.
    """
    generator = torch.Generator().manual_seed(6)
    student = torch.randn(2, 5, generator=generator, dtype=torch.float64).softmax(-1)
    # The two teachers are near each other, as a DPO teacher is near its reference.
    reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    dpo = reference + 0.6 * torch.randn(2, 5, generator=generator, dtype=torch.float64)
    advantages = dpo.log_softmax(-1) - reference.log_softmax(-1)
    return {"student": student, "advantages": advantages, "gamma": 1.5, "tokens": 2}


def adpa_logit_gradient(data: dict) -> tuple[float, ...]:
    probs, advantages = data["student"][0], data["advantages"][0]
    mean = (probs * advantages).sum()
    return tuple((-data["gamma"] / data["tokens"] * probs * (advantages - mean)).tolist())


def adpa_calls() -> list[tuple]:
    """Logits [N_w, V] and tokens of chosen responses, logits [N, V] of three models on sampled ones, gamma."""
    noise = torch.Generator().manual_seed(6)

    def call(chosen: int, sampled: int, gamma: float) -> tuple:
        logits = [torch.randn(count, 5, generator=noise, dtype=torch.float64) for count in (chosen, *[sampled] * 3)]
        tokens = torch.randint(5, (chosen,), generator=noise)
        return logits[0].requires_grad_(), tokens, logits[1].requires_grad_(), logits[2], logits[3], gamma

    return [call(4, 3, 1.5), call(3, 6, 0.5)]
