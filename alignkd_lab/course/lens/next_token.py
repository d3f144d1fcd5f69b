"""What a model says next, as rows over the vocabulary, and what a student can make of several such rows.

A student that is too small to tell K contexts apart answers all of them with one row q. Over all rows, the mean of
KL(p_k ‖ q) is least at the arithmetic mean of the p_k, and the mean of KL(q ‖ p_k) at their normalised geometric mean.

Shapes: K contexts, V vocabulary, n first tokens. Log-probabilities are float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm import losses
from alignkd_lab.lm.chunked import default_chunk
from alignkd_lab.lm.losses import DIVERGENCES
from alignkd_lab.lm.sampling import Samples, prefill
from alignkd_lab.lm.teachers import Full


@torch.inference_mode()
def rows_after(model, contexts: list[list[int]]) -> Tensor:
    """Log-probabilities of the token after each context (token ids), [K, V]."""
    hidden = prefill(model, contexts, 1).hidden
    return Full(hidden, model.lm_head.weight).over_vocabulary(slice(None))


@torch.inference_mode()
def log_probs_at(samples: Samples, head: Tensor, temperature: float) -> list[Tensor]:
    """log-probability of each token under the model that wrote it, were every token drawn at `temperature`.

    Raises:
        BadInput: the samples were drawn without `keep_hidden`.
    """
    if samples.hidden is None:
        raise BadInput("samples: their hidden states were not kept; draw them with sample(..., keep_hidden=True)")
    found = []
    for hidden, tokens in zip(samples.hidden, samples.tokens, strict=True):
        rows = Full(hidden.to(head), head).over_vocabulary(slice(None), temperature)
        found.append(rows.gather(1, torch.tensor(tokens, device=rows.device)[:, None]).squeeze(1).cpu())
    return found


def covering(log_probs: Tensor) -> Tensor:
    """The row q of least mean KL(p_k ‖ q): log of the arithmetic mean. [K, V] -> [V]."""
    return log_probs.logsumexp(0) - math.log(len(log_probs))


def seeking(log_probs: Tensor) -> Tensor:
    """The row q of least mean KL(q ‖ p_k): the normalised geometric mean. [K, V] -> [V]."""
    return log_probs.mean(0).log_softmax(-1)


def divergence(name: str, log_probs: Tensor, student: Tensor, mix: float = 0.5) -> tuple[Tensor, Tensor]:
    """Of the one row `student` [V] from each of `log_probs` [K, V], with the slope of their mean by its logits.

    `name` is one of `lm.losses.DIVERGENCES`. Returns [K] and [V].

    Raises:
        UnknownName: another name.
    """
    if name not in DIVERGENCES:
        raise UnknownName("divergence", name, DIVERGENCES)
    log_p, log_q = log_probs.clone(), student.expand_as(log_probs).clone()
    values, slope = DIVERGENCES[name](log_p, log_probs.exp(), log_q, log_q.exp(), mix)
    return values, slope.mean(0)


class FirstTokens(NamedTuple):
    """Candidates for the first token, likeliest first, and their shares among themselves.

    tokens: ids, [n]. teacher, by_tokens, by_sequences: shares, [n], that sum to 1.
    """

    tokens: Tensor
    teacher: Tensor
    by_tokens: Tensor
    by_sequences: Tensor


def sharpen_two_tokens(model, context: list[int], exponent: float, count: int = 24) -> FirstTokens:
    """Which token comes first when each token, or each sequence of two tokens, has its probability to the power s.

    The first token is one of the `count` likeliest, the second any of the vocabulary: a token's share by sequences is
    p(a)^s Σ_b p(b | a)^s, normalised. No candidate may end the response.

    Raises:
        BadInput: an exponent that is not above 0.
    """
    if not exponent > 0:
        raise BadInput(f"exponent: {exponent} must be above 0; 1 leaves the model as it is")
    first, tokens = rows_after(model, [context])[0].topk(count)
    second = rows_after(model, [[*context, token] for token in tokens.tolist()])
    kept = (exponent * second).logsumexp(-1)
    return FirstTokens(tokens, first.softmax(0), (exponent * first).softmax(0), (exponent * first + kept).softmax(0))


def sampling_error(hidden: Tensor, head: Tensor, teacher: Full, draws: int, seed: int = 0) -> float:
    """How far the gradient of sequence-level KD lies from that of full-vocabulary KD, over the length of the latter.

    The first is the likelihood of `draws` tokens of the teacher at each state, the second KL(p ‖ q); both gradients are
    by the student's hidden states [N, d]. The mean over draws is the second one, so the error falls as 1/√draws.
    """
    student = hidden.detach().requires_grad_()
    loss, _ = losses.kd(student, head, teacher)
    (exact,) = torch.autograd.grad(loss, student)
    shares = teacher.over_vocabulary(slice(None)).exp()
    labels = shares.multinomial(draws, replacement=True, generator=torch.Generator().manual_seed(seed))
    loss, _ = losses.nll(student.repeat_interleave(draws, 0), head, labels.flatten(), chunk=default_chunk(head))
    (sampled,) = torch.autograd.grad(loss, student)
    return float((sampled - exact).norm() / exact.norm())
