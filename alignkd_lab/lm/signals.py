"""What a teacher says of each response token, its whole distribution, and the advantage between two teachers.

Shapes: N response tokens, V vocabulary, d width of the teacher, n rows of a chunk. No gradient reaches a teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

RELEASED_SUPPORT = 50  # tokens that ADPA's published code keeps of each teacher


class Full(NamedTuple):
    """A teacher's final hidden states and its head: the whole distribution at d / V of its size."""

    hidden: Tensor  # [N, d]
    head: Tensor  # [V, d]
    log_norm: Tensor | None = None  # float32 [N]: log-sum-exp of the logits of these states at temperature 1

    @property
    def rows(self) -> int:
        return len(self.hidden)

    def over_vocabulary(self, part: slice, temperature: float = 1.0) -> Tensor:
        """log softmax(logits / temperature) of the rows `part`, [n, V] float32 (float64 stays)."""
        # Normalised afresh: under bfloat16 products a stored norm would not be that of these logits.
        scaled = logits(self.hidden[part], self.head)
        return torch.log_softmax(scaled if temperature == 1 else scaled.div_(temperature), dim=-1)


def advantage(teacher: Full, reference: Full, part: slice) -> Tensor:
    """A = log pi_dpo - log pi_ref of every token after the rows `part`, [n, V]. ADPA, with its beta taken as 1.

    Where both teachers share one head and bring their norms, it is one product, (h_dpo - h_ref) W.
    """
    if teacher.head is reference.head and teacher.log_norm is not None and reference.log_norm is not None:
        wide = torch.promote_types(teacher.head.dtype, torch.float32)
        moved = logits(teacher.hidden[part].to(wide) - reference.hidden[part].to(wide), teacher.head)
        return moved.sub_((teacher.log_norm[part] - reference.log_norm[part])[:, None])
    return teacher.over_vocabulary(part).sub_(reference.over_vocabulary(part))


def released_advantage(teacher: Full, reference: Full, part: slice) -> Tensor:
    """A as ADPA's published code has it, [n, V]: on the DPO teacher's top 50, clamped to [1e-8, 1 - 1e-8], else 0.

    A token that is not among the reference teacher's top 50 gets the DPO teacher's own 50th probability there.
    """
    support = min(RELEASED_SUPPORT, len(teacher.head))
    found = teacher.over_vocabulary(part)
    top, ids = found.topk(support)
    known = reference.over_vocabulary(part)
    least = known.topk(support).values[:, -1:]
    known = known.gather(1, ids)
    known = torch.where(known < least, top[:, -1:], known)
    return found.zero_().scatter_(1, ids, (top - known).clamp_(1e-8, 1 - 1e-8))


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


def prepared(*signals: Full) -> list[Full]:
    """The signals with each head made `for_products` once; a head that they share stays shared."""
    heads = {id(signal.head): for_products(signal.head) for signal in signals}
    return [signal._replace(head=heads[id(signal.head)]) for signal in signals]
