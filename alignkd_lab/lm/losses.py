"""Every loss as a pure function of hidden states and heads, returning `(loss, info)`.

Shapes: N response tokens, V vocabulary, d width, R responses. Hidden states are already indexed at
response positions, so a [batch, time, V] tensor never exists; `chunk` rows go through the head at a
time, in float32, and are computed again in the backward pass. `chunk=None` is one chunk of the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class NllInfo(NamedTuple):
    log_probs: Tensor  # [N]


class KdInfo(NamedTuple):
    kl: Tensor  # KL(teacher || student) of each token, [N]
    teacher_entropy: Tensor  # [N]


class DpoInfo(NamedTuple):
    chosen_rewards: Tensor  # beta (log pi - log pi_ref) of the chosen responses, [pairs]
    rejected_rewards: Tensor  # the same of the rejected, [pairs]
    weight: Tensor  # sigma(-beta [Delta_theta - Delta_ref]), the factor of the gradient, [pairs]
    accuracy: Tensor  # share of pairs whose chosen reward is the larger, scalar


def _by_rows(function: Callable, chunk: int | None, *rows: Tensor) -> list[Tensor]:
    """`function(*rows)` on `chunk` rows at a time, joined; several chunks are recomputed in the backward pass."""
    count = len(rows[0])
    if chunk is None or count <= chunk:
        return list(function(*rows))
    parts = [
        checkpoint(function, *(row[start : start + chunk] for row in rows), use_reentrant=False)
        for start in range(0, count, chunk)
    ]
    return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]


def token_log_probs(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """log pi(label) of each token. hidden [N, d], head [V, d], labels [N] -> float32 [N]."""

    def rows(hidden: Tensor, labels: Tensor) -> tuple[Tensor]:
        logits = F.linear(hidden, head).float()
        return (logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(dim=-1),)

    return _by_rows(rows, chunk, hidden, labels)[0]


def nll(hidden: Tensor, head: Tensor, labels: Tensor, items: Tensor | int | None = None, chunk: int | None = None):
    """-(1/items) Σ_t log pi(y_t). hidden [N, d], head [V, d], labels [N]; `items` is N unless given."""
    log_probs = token_log_probs(hidden, head, labels, chunk)
    return -log_probs.sum() / (items or len(labels)), NllInfo(log_probs.detach())


def kd(
    hidden: Tensor,
    head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    teacher_temperature: float = 1.0,
    items: Tensor | int | None = None,
    chunk: int | None = None,
):
    """Forward KL over the whole vocabulary: (1/items) Σ_t KL(teacher_τ(.|s_t) || pi(.|s_t)).

    hidden [N, d], head [V, d], teacher_hidden [N, d'], teacher_head [V, d']. The teacher alone is
    sharpened, softmax(logits / `teacher_temperature`), and the student stays at temperature 1, the one at which it is
    used. No gradient reaches the teacher. Source: KD-MWE (forward KL); sequence-level KD is
    `nll` on the teacher's samples.
    """

    total, kl, entropy = _ForwardKl.apply(hidden, head, teacher_hidden, teacher_head, teacher_temperature, chunk)
    return total / (items or len(kl)), KdInfo(kl, entropy)


class _ForwardKl(torch.autograd.Function):
    """Σ_t KL(p_t || softmax(z_t)), whose gradient softmax(z) - p is at hand as soon as the value is.

    So the head's backward product is done chunk by chunk in the forward pass: nothing of width V outlives
    its chunk, and nothing is computed twice.
    """

    @staticmethod
    def forward(ctx, hidden, head, teacher_hidden, teacher_head, teacher_temperature, chunk):
        kl, entropy, grads = [], [], []
        grad_head = torch.zeros_like(head, dtype=torch.float32) if head.requires_grad else None
        for rows in torch.arange(len(hidden)).split(chunk or max(1, len(hidden))):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            teacher = F.linear(teacher_hidden[part], teacher_head).float().div_(teacher_temperature)
            teacher = teacher.sub_(teacher.logsumexp(dim=-1, keepdim=True))
            probs = teacher.exp()
            entropy.append(-torch.linalg.vecdot(probs, teacher))
            del teacher
            logits = F.linear(hidden[part], head).float()
            norm = logits.logsumexp(dim=-1, keepdim=True)
            # KL = Σ p log p - Σ p z + logsumexp(z), since Σ p = 1
            kl.append(norm.squeeze(1) - torch.linalg.vecdot(probs, logits) - entropy[-1])
            slope = logits.sub_(norm).exp_().sub_(probs).to(hidden.dtype)
            grads.append(slope @ head.to(slope.dtype))
            if grad_head is not None:
                grad_head += slope.T @ hidden[part]
        kl, entropy = torch.cat(kl), torch.cat(entropy)
        ctx.save_for_backward(torch.cat(grads).to(hidden.dtype), grad_head)
        ctx.mark_non_differentiable(kl, entropy)
        return kl.sum(), kl, entropy

    @staticmethod
    def backward(ctx, upstream, *_):
        grad, grad_head = ctx.saved_tensors
        return upstream * grad, None if grad_head is None else upstream * grad_head, None, None, None, None


def dpo(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    response: Tensor,
    reference_log_probs: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
    items: Tensor | int | None = None,
    chunk: int | None = None,
):
    """-(1/items) Σ log σ(β [Δ_θ - Δ_ref]), Δ = log π(chosen) - log π(rejected), summed over tokens.

    hidden [N, d], head [V, d], labels [N]; `response` [N] says which response a token belongs to; responses
    alternate chosen, rejected, chosen, ...; reference_log_probs [R] are sums over tokens. `items` defaults to the
    number of pairs. Source: Rafailov et al. 2023, equation 7; label smoothing as in conservative DPO.
    """
    log_probs = token_log_probs(hidden, head, labels, chunk)
    summed = torch.zeros_like(reference_log_probs).index_add(0, response, log_probs)
    rewards = beta * (summed - reference_log_probs)
    chosen, rejected = rewards[0::2], rewards[1::2]
    margin = chosen - rejected
    losses = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    with torch.no_grad():
        info = DpoInfo(chosen.detach(), rejected.detach(), torch.sigmoid(-margin), (margin > 0).float().mean())
    return losses.sum() / (items or len(losses)), info
