"""Teachers, and what they say of each response token: the whole distribution, and the advantage between two of them.

A live teacher is a model that is asked for every batch. `lm.teacher_cache` has the same teachers asked once and read
from disk afterwards; both answer `signal(batch)`. No gradient reaches a teacher.

Shapes: N response tokens, V vocabulary, d width of the teacher, n rows of a chunk.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import ranks
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import CappedHead, cast_head, head_of, logits, parts_of, plain
from alignkd_lab.lm.batch import autocast, has_role, hidden_states
from alignkd_lab.lm.vocabulary import same_vocabulary

RELEASED_SUPPORT = 50  # tokens that ADPA's published code keeps of each teacher
RELEASED_FLOOR = math.log(1e-7)  # of the probabilities that it keeps
HEAD_ROWS = 1024  # rows that go through a head at a time


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
        scaled = logits(self.hidden[part], *parts_of(self.head))
        return torch.log_softmax(scaled if temperature == 1 else scaled.div_(temperature), dim=-1)


def advantage(teacher: Full, reference: Full, part: slice) -> Tensor:
    """A = log pi_dpo - log pi_ref of every token after the rows `part`, [n, V]. ADPA, with its beta taken as 1.

    Where both teachers share one head and bring their norms, it is one product, (h_dpo - h_ref) W.
    """
    linear = teacher.head is reference.head and not isinstance(teacher.head, CappedHead)
    if linear and teacher.log_norm is not None and reference.log_norm is not None:
        wide = torch.promote_types(teacher.head.dtype, torch.float32)
        moved = logits(teacher.hidden[part].to(wide) - reference.hidden[part].to(wide), teacher.head)
        return moved.sub_((teacher.log_norm[part] - reference.log_norm[part])[:, None])
    return teacher.over_vocabulary(part).sub_(reference.over_vocabulary(part))


def released_advantage(teacher: Full, reference: Full, part: slice) -> Tensor:
    """A as ADPA's published code has it, [n, V]: on the DPO teacher's top 50, clamped to [1e-8, 1 - 1e-8], else 0.

    A token that is not among the reference teacher's top 50 gets the DPO teacher's own 50th probability there, and no
    probability is taken as less than 1e-7.
    """
    support = min(RELEASED_SUPPORT, len(teacher.head))
    found = teacher.over_vocabulary(part)
    top, ids = found.topk(support)
    known = reference.over_vocabulary(part)
    least = known.topk(support).values[:, -1:]
    known = known.gather(1, ids)
    known = torch.where(known < least, top[:, -1:], known)
    a = top.clamp(min=RELEASED_FLOOR) - known.clamp(min=RELEASED_FLOOR)
    return found.zero_().scatter_(1, ids, a.clamp_(1e-8, 1 - 1e-8))


def cast_heads(*signals: Full) -> list[Full]:
    """The signals, each head cast once; a head that they share stays shared."""
    heads = {id(signal.head): cast_head(signal.head) for signal in signals}
    return [signal._replace(head=heads[id(signal.head)]) for signal in signals]


class LiveTeacher:
    """A model that is asked anew for every batch; it stays in eval mode and gets no gradient while it is asked.

    Its matrix products are in `dtype`, which should be that of training. With `without_adapter` a PEFT model answers as
    if it had no adapter, so one set of weights is both pi_dpo and pi_ref. `digest` names the weights for a cache's key
    where they are known by a checksum already.

    Raises:
        BadInput: there is no adapter to leave out, there is one on the head, or the model is refused (`lm.admission`).
    """

    def __init__(
        self,
        model,
        *,
        dtype: torch.dtype = torch.float32,
        without_adapter: bool = False,
        digest: str | None = None,
    ) -> None:
        if without_adapter and not hasattr(model, "disable_adapter"):
            raise BadInput("teacher: without_adapter needs a PEFT model; this one has no adapter, so leave it False")
        self.model, self.without_adapter = model, without_adapter
        self.dtype, self._digest = dtype, digest
        weight = head_of(admit(model, "teacher"))
        # A frozen head stays the very tensor, so that two teachers on one LoRA model are seen to share it.
        self.head = weight.detach() if weight.requires_grad else weight

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Eval mode, no gradient, products in `dtype`, and the adapter out if it is to be."""
        training = self.model.training
        adapter = self.model.disable_adapter() if self.without_adapter else contextlib.nullcontext()
        self.model.eval()
        try:
            with torch.no_grad(), autocast(plain(self.model).device, self.dtype), adapter:
                yield
        finally:
            self.model.train(training)

    def signal(self, batch: dict, *, roles: tuple[str, ...] | None = None) -> Full:
        """Of the response tokens of a collated batch, or only of responses of these roles."""
        same_vocabulary(self.model, batch)

        def ask(model) -> Full:
            hidden = self.hidden(batch, roles)
            head = head_of(model).detach() if self.head is None else self.head
            return Full(hidden, head)

        with self.reading():
            return ranks.inside(self.model, ask) if self.head is None else ask(self.model)

    def shard(self) -> LiveTeacher:
        """Spreads the weights over the processes (FSDP2), which from then on ask together; the head is None."""
        ranks.shard(self.model)
        self.head = None
        return self

    def hidden(self, batch: dict, roles: tuple[str, ...] | None = None) -> Tensor:
        """Final hidden states that predict those tokens, [N, d]; to be called while `reading`."""
        wanted = batch["predict_at"][has_role(batch, roles)].long()
        return hidden_states(self.model, {**batch, "predict_at": wanted})

    def checksum(self) -> str:
        """The given digest, or a sha256 of the weights that answer, with what is done with their adapter.

        Those of a model in training change, so nothing is remembered.
        """
        if self._digest:
            return f"{self._digest} without adapter" if self.without_adapter else self._digest
        made, model = hashlib.sha256(), plain(self.model)
        for name, tensor in sorted(model.state_dict().items()):
            made.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            made.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        adapters = [one for module in model.modules() if isinstance(one := getattr(module, "scaling", None), dict)]
        made.update(repr((getattr(self.model, "active_adapters", None), self.without_adapter, adapters)).encode())
        return f"sha256:{made.hexdigest()}"


def share_head(first, second) -> bool:
    """Lets two teachers, live or cached, hold one tensor where their heads are equal; returns whether they do.

    An advantage then costs one product and not two.
    """
    if first.head is None or second.head is None or first.head.shape != second.head.shape:
        return False
    (own, cap), (other, its_cap) = parts_of(first.head), parts_of(second.head)
    equal = own.device == other.device and cap == its_cap and torch.equal(own, other)
    if equal:
        second.head = first.head
    return equal


def log_norm(hidden: Tensor, head: Tensor) -> Tensor:
    """Log-sum-exp of the logits at temperature 1. hidden [N, d], head [V, d] -> float32 [N]."""
    parts = [logits(part, *parts_of(head)).logsumexp(-1) for part in hidden.split(HEAD_ROWS)]
    return torch.cat(parts) if len(hidden) else hidden.new_zeros(0, dtype=torch.float32)
