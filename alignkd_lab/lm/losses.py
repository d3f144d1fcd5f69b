"""Every loss as a pure function of hidden states and heads, returning `(loss, info)`.

Shapes: N response tokens, V vocabulary, d width of the student, R responses. Hidden states are already indexed at
response positions, so a [batch, time, V] tensor never exists; `chunk` rows go through the head at a time (`lm.chunked`,
whose `default_chunk` is a sensible number), and `chunk=None` is one chunk of the same path. A mean is a sum over tokens
divided by `items`, the count of the whole effective batch; it is the count at hand unless given. What a teacher says is
a `lm.teachers.Full`, and no gradient reaches it. `info` holds numbers, detached from the graph.

In equations pi is the student, and at one position p is a teacher and q the student; <q, f> = Σ_a q(a) f(a) over the
vocabulary. A loss with derivative g by q has the slope q (g - <q, g>) by the logits, which the `rows` below return.
"""

from __future__ import annotations

from math import log, log1p
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkd_lab.errors import BadInput, UnknownName, check_number
from alignkd_lab.lm.chunked import Rows, nll_rows, sum_rows, token_log_probs
from alignkd_lab.lm.teachers import Full, advantage, cast_heads, released_advantage

Items = Tensor | int | None
Pair = tuple[Tensor | int, Tensor | int] | None


class NllInfo(NamedTuple):
    log_probs: Tensor  # log pi(label), [N]


class KdInfo(NamedTuple):
    divergence: Tensor  # of each token, without the factor T², [N]
    teacher_entropy: Tensor  # of p as it enters the divergence, [N]
    student_entropy: Tensor  # of q as it enters the divergence, [N]


class DpoInfo(NamedTuple):
    log_probs: Tensor  # log pi(label), [N]
    chosen_rewards: Tensor  # beta (log pi - log pi_ref) of the chosen responses, [pairs]
    rejected_rewards: Tensor  # the same of the rejected, [pairs]
    weight: Tensor  # sigma(-beta [Delta_theta - Delta_ref]), the factor of the gradient, [pairs]
    accuracy: Tensor  # 1 where the chosen reward is the larger, else 0, [pairs]


class DckdInfo(NamedTuple):
    log_probs: Tensor  # log pi(label) of every token, chosen or rejected, [N]
    kl: Tensor  # KL(p || q), [N]
    teacher_entropy: Tensor  # [N]
    student_entropy: Tensor  # [N]


class AdpaInfo(NamedTuple):
    log_probs: Tensor  # log pi(label) of the chosen tokens, [chosen]
    expected_advantage: Tensor  # <q, A> in nats, [sampled]
    largest_advantage: Tensor  # max_a A(a) in nats: where an unregularised student ends, [sampled]
    largest_token: Tensor  # its token, [sampled]
    student_entropy: Tensor  # [sampled]


# Divergences of the student's next-token distribution q from the teacher's p, each with its slope. Every function takes
# log p, p, log q and q, all [n, V], may write over them, and returns the divergence of each row, [n], and its slope by
# the logits of q, [n, V].


def forward_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p || q) covers the teacher's modes. `mix` is not used."""
    return dot(p, log_p.sub_(log_q)), q.sub_(p)


def reverse_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(q || p) seeks the teacher's modes. `mix` is not used."""
    gap = log_q.sub_(log_p)
    values = dot(q, gap)
    return values, tilt(q, gap, values)


def jsd(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """mix KL(p || m) + (1 - mix) KL(q || m), m = mix p + (1 - mix) q: Agarwal et al. 2024 (GKD), equation 1."""
    log_m = _log_mixture(log_p, log_q, mix)
    gap = log_q.sub_(log_m)
    by_student = dot(q, gap)
    values = mix * dot(p, log_p.sub_(log_m)) + (1 - mix) * by_student
    return values, tilt(q, gap, by_student).mul_(1 - mix)


def skew_kl(log_p: Tensor, p: Tensor, log_q: Tensor, q: Tensor, mix: float) -> tuple[Tensor, Tensor]:
    """KL(p || m), m = mix p + (1 - mix) q: Ko et al. 2024 (DistiLLM), equation 3. Its slope is bounded."""
    gap = log_p.sub_(_log_mixture(log_p, log_q, mix))
    values = dot(p, gap)
    ratio = gap.exp_()  # p / m, at most 1 / mix
    return values, tilt(q, ratio, dot(q, ratio)).mul_(mix - 1)


DIVERGENCES = {"forward": forward_kl, "reverse": reverse_kl, "jsd": jsd, "skew": skew_kl}


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Σ over the vocabulary, [n, V] and [n, V] -> [n]."""
    if left.is_cuda:
        return torch.linalg.vecdot(left, right)
    # On a CPU vecdot makes a third tensor [n, V], and to touch its memory costs more than the sum.
    return torch.bmm(left[:, None], right[:, :, None]).flatten()


def tilt(q: Tensor, g: Tensor, mean: Tensor) -> Tensor:
    """q (g - mean), written over g; [n, V], [n, V], [n] -> [n, V]."""
    return g.sub_(mean[:, None]).mul_(q)


def _log_mixture(log_p: Tensor, log_q: Tensor, mix: float) -> Tensor:
    """Through logarithms, since both probabilities may be too small for float32."""
    return torch.logaddexp(log_p + log(mix), log_q + log1p(-mix))


def nll(
    hidden: Tensor, head: Tensor, labels: Tensor, items: Items = None, chunk: int | None = None,
    weights: Tensor | None = None,
):  # fmt: skip
    """-(1/items) Σ_t w_t log pi(y_t): maximum likelihood; on a teacher's samples, sequence-level KD.

    hidden [N, d], head [V, d], labels [N], weights [N], 1 unless given. With the advantage of a response as the weight
    of its tokens, and `items` responses, the gradient is REINFORCE's (RLOO: Ahmadian et al. 2024, section 3).
    """
    _check_rows(len(hidden), labels=len(labels), weights=len(labels if weights is None else weights))
    rows = nll_rows(labels) if weights is None else _weighted(nll_rows(labels), weights)
    total, *by_row = sum_rows(hidden, head, rows, chunk)
    return total / _count(items, len(labels)), NllInfo(-by_row[-1])


def kd(
    hidden: Tensor, head: Tensor, teacher: Full, *,
    divergence: str = "forward", mix: float = 0.5, temperature: float = 1.0, teacher_temperature: float = 1.0,
    items: Items = None, chunk: int | None = None,
):  # fmt: skip
    """(T²/items) Σ_t D(p_t, q_t) over the whole vocabulary, T = `temperature`.

    hidden [N, d], head [V, d], `teacher` of N rows. q = softmax(student's logits / T) and
    p = softmax(teacher's logits / (T `teacher_temperature`)): T softens both sides, and T² keeps the gradient's size
    (Hinton et al. 2015, section 2); `teacher_temperature` sharpens the teacher alone, and the student stays at the
    temperature at which it is used. D is "forward" KL(p || q), "reverse" KL(q || p), "jsd" or "skew", the last two with
    `mix`: see `DIVERGENCES`. Source: KD-MWE (forward KL).
    """
    if divergence not in DIVERGENCES:
        raise UnknownName("divergence", divergence, DIVERGENCES)
    check_number("mix", mix, above=0, below=1)
    check_number("temperature", temperature, above=0)
    check_number("teacher_temperature", teacher_temperature, above=0)
    _check_teacher("teacher", teacher, len(hidden), head)
    (teacher,) = cast_heads(teacher)

    def rows(part: slice, log_q: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        log_p = teacher.over_vocabulary(part, temperature * teacher_temperature)
        p = log_p.exp()
        entropies = -dot(p, log_p), -dot(q, log_q)
        return *DIVERGENCES[divergence](log_p, p, log_q, q, mix), *entropies

    total, *by_row = sum_rows(hidden, head, rows, chunk, temperature)
    return temperature**2 * total / _count(items, len(hidden)), KdInfo(*by_row)


def dpo(
    hidden: Tensor, head: Tensor, labels: Tensor, response: Tensor, reference_log_probs: Tensor,
    beta: float, items: Items = None, chunk: int | None = None,
):  # fmt: skip
    """-(1/items) Σ log σ(β [Δ_θ - Δ_ref]), Δ = log pi(chosen) - log pi(rejected), summed over tokens.

    hidden [N, d], head [V, d], labels [N]; `response` [N] says which response a token belongs to; responses
    alternate chosen, rejected, chosen, ...; reference_log_probs [R] are sums over tokens. `items` defaults to the
    number of pairs. Source: Rafailov et al. 2023, equation 7.
    """
    check_number("beta", beta, above=0)
    _check_rows(len(hidden), labels=len(labels), response=len(response))
    if len(reference_log_probs) % 2:
        raise BadInput(
            f"reference_log_probs: {len(reference_log_probs)} responses make no pairs; give chosen and rejected in turn"
        )
    log_probs = token_log_probs(hidden, head, labels, chunk)
    sums = log_probs.new_zeros(len(reference_log_probs)).index_add(0, response, log_probs)
    rewards = beta * (sums - reference_log_probs)
    chosen, rejected = rewards[0::2], rewards[1::2]
    margin = chosen - rejected
    losses = -F.logsigmoid(margin)
    with torch.no_grad():
        weight, accuracy = torch.sigmoid(-margin), (margin > 0).float()
        info = DpoInfo(log_probs.detach(), chosen.detach(), rejected.detach(), weight, accuracy)
    return losses.sum() / _count(items, len(losses)), info


def dckd(
    hidden: Tensor, head: Tensor, labels: Tensor, teacher: Full, chosen: Tensor, *,
    alpha: float = 0.2, items: Pair = None, chunk: int | None = None,
):  # fmt: skip
    """NLL(y_w) + α [mean KL(p || q; y_w) + mean KL(p || q; y_l)]: likelihood and forward KL, each a mean over tokens.

    hidden [N, d], head [V, d], labels [N], `teacher` (DPO) of N rows; `chosen` bool [N] is True on the tokens of y_w
    and False on those of y_l. `items` are the counts of chosen and of rejected tokens. Source: ADPA, DCKD.
    """
    check_number("alpha", alpha, least=0)
    _check_rows(len(hidden), labels=len(labels), chosen=len(chosen))
    _check_teacher("teacher", teacher, len(hidden), head)
    (teacher,) = cast_heads(teacher)
    winners, losers = _counts(items, chosen)
    won = chosen.to(torch.promote_types(head.dtype, torch.float32))
    likelihood = won / winners
    weight = alpha * (likelihood + (1 - won) / losers)

    def rows(part: slice, log_q: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        log_p = teacher.over_vocabulary(part)
        p, label = log_p.exp(), labels[part, None]
        log_label = log_q.gather(1, label).squeeze(1)
        entropies = -dot(p, log_p), -dot(q, log_q)
        kl = dot(p, log_p.sub_(log_q))
        by_kl, by_likelihood = weight[part, None], likelihood[part, None]
        slope = q.mul_(by_kl + by_likelihood).sub_(p.mul_(by_kl)).scatter_add_(1, label, -by_likelihood)
        return weight[part] * kl - likelihood[part] * log_label, slope, log_label, kl, *entropies

    total, _, *by_row = sum_rows(hidden, head, rows, chunk)
    return total, DckdInfo(*by_row)


def adpa(
    hidden: Tensor, head: Tensor, labels: Tensor, teacher: Full, reference: Full, chosen: Tensor, *,
    gamma: float = 1.5, regulariser: str | None = None, regulariser_weight: float = 0.0,
    as_released: bool = False, end_token: int | None = None, response: Tensor | None = None,
    items: Pair = None, chunk: int | None = None,
):  # fmt: skip
    """NLL(y_w) - γ mean_t <q_t, A_t>, A = log p_dpo - log p_ref over the whole vocabulary. Source: ADPA.

    hidden [N, d], head [V, d], labels [N]; `chosen` bool [N] is True on the tokens of y_w, which have the NLL, and
    False on those that the initial student wrote, which have the advantage: `teacher` (DPO) and `reference` have a row
    for each of the latter, in order. `items` are the counts of the two. The slope is -γ q (A - <q, A>).
    Not in the paper: `regulariser` adds `regulariser_weight` <q, log q> ("entropy") or KL(q || p_ref) ("kl").
    `as_released` takes the published code's A (`released_advantage`), 0 where the label is
    `end_token`, and both means over the tokens of a response first, then over responses: `response` [N] says which one
    a token belongs to (one response unless given), and `items` count responses.
    """
    check_number("gamma", gamma, least=0)
    check_number("regulariser_weight", regulariser_weight, least=0)
    sampled = ~chosen
    _check_rows(len(hidden), labels=len(labels), chosen=len(chosen))
    written = hidden[sampled]
    _check_teacher("teacher", teacher, len(written), head)
    _check_teacher("reference", reference, len(written), head)
    if regulariser not in (None, "entropy", "kl"):
        raise UnknownName("regulariser", regulariser, ("None", "entropy", "kl"))
    if (regulariser is None) != (not regulariser_weight):
        raise BadInput("regulariser_weight: a regulariser and its weight above 0 go together; give both or neither")
    if as_released and end_token is None:
        raise BadInput("end_token: as_released leaves the end token out, so say which id it has")
    teacher, reference = cast_heads(teacher, reference)
    unsupervised = labels[sampled] == end_token if as_released else None

    def rows(part: slice, log_q: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        entropy = -dot(q, log_q)
        if as_released:
            a = released_advantage(teacher, reference, part).masked_fill_(unsupervised[part, None], 0)
        else:
            a = advantage(teacher, reference, part)
        expected, largest = dot(q, a), a.max(dim=-1)
        values, g = -gamma * expected, a.mul_(-gamma)
        if regulariser is not None:
            held = log_q if regulariser == "entropy" else log_q.sub_(reference.over_vocabulary(part))
            values, g = values + regulariser_weight * dot(q, held), g.add_(held, alpha=regulariser_weight)
        return values, tilt(q, g, values), expected, *largest, entropy

    by_label = nll_rows(labels[chosen])
    if as_released:
        weights = _one_a_response(chosen.long() if response is None else response, head)
        by_label, rows = _weighted(by_label, weights[chosen]), _weighted(rows, weights[sampled])
        items = items or tuple(weights[part].sum().round() for part in (chosen, sampled))
    winners, others = _counts(items, chosen)
    likelihood, *_, by_chosen = sum_rows(hidden[chosen], head, by_label, chunk)
    total, *by_sampled = sum_rows(written, head, rows, chunk)
    return likelihood / winners + total / others, AdpaInfo(-by_chosen, *by_sampled[-4:])


def _one_a_response(response: Tensor, head: Tensor) -> Tensor:
    """Weights of tokens that sum to 1 in each response, [N]."""
    _, place, counts = torch.unique(response, return_inverse=True, return_counts=True)
    return 1 / counts.to(torch.promote_types(head.dtype, torch.float32))[place]


def _weighted(rows: Rows, weights: Tensor) -> Rows:
    """The loss of each row times its weight, and as a further diagnostic without it."""

    def scaled(part: slice, log_q: Tensor, q: Tensor) -> tuple[Tensor, ...]:
        values, slope, *rest = rows(part, log_q, q)
        weight = weights[part]
        return weight * values, slope.mul_(weight[:, None]), values, *rest

    return scaled


def _count(items: Items, here: int) -> Tensor | int:
    """What a sum is divided by; the mean of nothing is 0."""
    return max(1, here if items is None else items)


def _counts(items: Pair, chosen: Tensor) -> tuple[Tensor | int, Tensor | int]:
    winners, others = items or (chosen.sum(), (~chosen).sum())
    return max(1, winners), max(1, others)


def _check_rows(tokens: int, **rows: int) -> None:
    for name, count in rows.items():
        if count != tokens:
            raise BadInput(f"{name}: {count} rows for {tokens} hidden states; give one for each response token")


def _check_teacher(name: str, teacher: Full, tokens: int, head: Tensor) -> None:
    if teacher.rows != tokens:
        raise BadInput(f"{name}: {teacher.rows} rows for the {tokens} tokens that it is asked about; give one for each")
    if len(teacher.head) != len(head):
        raise BadInput(
            f"{name}: its vocabulary has {len(teacher.head)} tokens and the student's {len(head)}; choose a teacher "
            "with the student's tokenizer, or, where they share one and a head is padded, cut the padding with "
            "model.resize_token_embeddings(len(tokenizer)), as lm.weights.load does"
        )
