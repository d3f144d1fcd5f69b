"""Divergences of the student's next-token distribution q from the teacher's p, each with its slope.

Every function takes log p, p, log q and q, all [n, V], may write over them, and returns the divergence of each row,
[n], and its slope by the logits of q, [n, V]: q (g - <q, g>) for the derivative g by q.
"""

from __future__ import annotations

from math import log, log1p

import torch
from torch import Tensor


def forward_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p || q) covers the teacher's modes. `mix` is not used."""
    return dot(p, log_p.sub_(log_q)), q.sub_(p)


def reverse_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(q || p) seeks the teacher's modes. `mix` is not used."""
    gap = log_q.sub_(log_p)
    values = dot(q, gap)
    return values, tilted(q, gap, values)


def jsd(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """mix KL(p || m) + (1 - mix) KL(q || m), m = mix p + (1 - mix) q: Agarwal et al. 2024 (GKD), equation 1."""
    log_m = _log_mixture(log_p, log_q, mix)
    gap = log_q.sub_(log_m)
    by_student = dot(q, gap)
    values = mix * dot(p, log_p.sub_(log_m)) + (1 - mix) * by_student
    return values, tilted(q, gap, by_student).mul_(1 - mix)


def skew_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p || m), m = mix p + (1 - mix) q: Ko et al. 2024 (DistiLLM), equation 3. Its slope is bounded."""
    gap = log_p.sub_(_log_mixture(log_p, log_q, mix))
    values = dot(p, gap)
    ratio = gap.exp_()  # p / m, at most 1 / mix
    return values, tilted(q, ratio, dot(q, ratio)).mul_(mix - 1)


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl, "jsd": jsd, "skew": skew_kl}


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Σ over the vocabulary, [n, V] and [n, V] -> [n]."""
    if left.is_cuda:
        return torch.linalg.vecdot(left, right)
    # On a CPU vecdot makes a third tensor [n, V], and to touch its memory costs more than the sum.
    return torch.bmm(left[:, None], right[:, :, None]).flatten()


def tilted(q: Tensor, g: Tensor, mean: Tensor) -> Tensor:
    """q (g - mean), written over g; [n, V], [n, V], [n] -> [n, V]."""
    return g.sub_(mean[:, None]).mul_(q)


def _log_mixture(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    """Through logarithms, since both probabilities may be too small for float32."""
    return torch.logaddexp(log_p + log(mix), log_q + log1p(-mix))
