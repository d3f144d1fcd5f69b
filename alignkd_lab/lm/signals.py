"""What a teacher says of each response token: its whole distribution, or its k likeliest tokens and the rest.

Shapes: N response tokens, V vocabulary, d width of the teacher, n rows of a chunk. Both kinds answer
`over_vocabulary(part, student_log_probs, temperature)`; no gradient reaches a teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST = -87.0  # about the log of float32's smallest normal number: what an empty tail gets instead of -inf

RELEASED_SUPPORT = 50  # tokens that ADPA's published code keeps of each teacher


class Full(NamedTuple):
    """A teacher's final hidden states and its head: the whole distribution at d / V of its size."""

    hidden: Tensor  # [N, d]
    head: Tensor  # [V, d]
    log_norm: Tensor | None = None  # float32 [N]: log-sum-exp of the logits of these states at temperature 1

    @property
    def rows(self) -> int:
        return len(self.hidden)

    def over_vocabulary(self, part: slice, student_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
        """log softmax(logits / temperature) of the rows `part`, [n, V] float32; it needs nothing of the student."""
        # Normalised afresh: under bfloat16 products a stored norm would not be that of these logits.
        scaled = logits(self.hidden[part], self.head)
        return torch.log_softmax(scaled if temperature == 1 else scaled.div_(temperature), dim=-1)


class TopK(NamedTuple):
    """A teacher's k likeliest tokens, and its tail: all others as one mass, spread as the student spreads its own.

    A divergence from the student is then exactly the one over k tokens and one bucket. Its gradient may hold the spread
    fixed, because the student's own is the one of least divergence.
    """

    ids: Tensor  # int64 [N, k]
    log_probs: Tensor  # float32 [N, k], at temperature 1
    log_tail: Tensor  # float32 [N]: log of the mass of every other token, -inf allowed

    @property
    def rows(self) -> int:
        return len(self.ids)

    def over_vocabulary(self, part: slice, student_log_probs: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities at `temperature` of the rows `part`, [n, V], given the student's on the same rows.

        At another temperature than 1 the tail's mass is an estimate, held fixed in gradients: that of a tail which
        spreads as `student_log_probs` do there, and has the mass exp(log_tail) at temperature 1.
        """
        ids, top = self.ids[part], self.log_probs[part].to(student_log_probs.dtype)
        mass = self.log_tail[part].to(top.dtype).clamp(min=LEAST)[:, None]
        tail = student_log_probs.scatter(1, ids, -torch.inf)
        tail -= tail.logsumexp(dim=-1, keepdim=True)
        if temperature == 1:
            return tail.add_(mass).scatter_(1, ids, top)
        mass = (mass - (tail * temperature).logsumexp(dim=-1, keepdim=True)) / temperature
        return torch.log_softmax(tail.add_(mass).scatter_(1, ids, top / temperature), dim=-1)


Signal = Full | TopK


def advantage(teacher: Signal, reference: Signal, part: slice, student_log_probs: Tensor) -> Tensor:
    """A = log pi_dpo - log pi_ref of every token after the rows `part`, [n, V]. ADPA, with its beta taken as 1.

    Where both teachers are `Full`, share one head and bring their norms, it is one product, (h_dpo - h_ref) W.
    """
    if _share_a_head(teacher, reference) and teacher.log_norm is not None and reference.log_norm is not None:
        wide = student_log_probs.dtype
        moved = logits(teacher.hidden[part].to(wide) - reference.hidden[part].to(wide), teacher.head)
        return moved.sub_((teacher.log_norm[part] - reference.log_norm[part])[:, None])
    found = teacher.over_vocabulary(part, student_log_probs)
    return found.sub_(reference.over_vocabulary(part, student_log_probs))


def released_advantage(teacher: Signal, reference: Signal, part: slice, student_log_probs: Tensor) -> Tensor:
    """A as ADPA's published code has it, [n, V]: on the DPO teacher's top 50, clamped to [1e-8, 1 - 1e-8], else 0.

    A token that is not among the reference teacher's top 50 gets the DPO teacher's own 50th probability there.
    """
    support = min(RELEASED_SUPPORT, student_log_probs.shape[1])
    found = teacher.over_vocabulary(part, student_log_probs)
    top, ids = found.topk(support)
    known = reference.over_vocabulary(part, student_log_probs)
    least = known.topk(support).values[:, -1:]
    known = known.gather(1, ids)
    known = torch.where(known < least, top[:, -1:], known)
    return found.zero_().scatter_(1, ids, (top - known).clamp_(1e-8, 1 - 1e-8))


def _share_a_head(teacher: Signal, reference: Signal) -> bool:
    return isinstance(teacher, Full) and isinstance(reference, Full) and teacher.head is reference.head


def logits(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden headᵀ, [n, V], multiplied in the head's dtype, given in float32 (float64 stays)."""
    hidden = hidden.to(head.dtype)
    if head.is_cuda and head.dtype.itemsize == 2:  # the sums are float32 there anyway, and need not be rounded
        return torch.mm(hidden, head.T, out_dtype=torch.float32)
    return F.linear(hidden, head).to(torch.promote_types(head.dtype, torch.float32))


def for_products(head: Tensor) -> Tensor:
    """The head in the dtype that autocast multiplies in, where that is on."""
    kind = head.device.type
    if torch.is_autocast_enabled(kind) and head.dtype != torch.float64:
        return head.to(torch.get_autocast_dtype(kind))
    return head


def prepared(*signals: Signal) -> list[Signal]:
    """The signals with each head made `for_products` once; a head that they share stays shared."""
    heads = {id(signal.head): for_products(signal.head) for signal in signals if isinstance(signal, Full)}
    return [signal._replace(head=heads[id(signal.head)]) if isinstance(signal, Full) else signal for signal in signals]
