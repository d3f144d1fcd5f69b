"""From hidden states to a loss of the next-token distribution, with the head's products done a chunk of rows at a time.

The derivative of every loss here by the logits, its slope, has a closed form that is at hand as soon as the value is.
So the head's backward product follows at once: nothing of width V outlives its chunk, and nothing is computed twice.
Sums are float32 (float64 stays); products are in the head's dtype, or in autocast's where that is on.

Shapes: N rows, V vocabulary, d width, n rows of a chunk. `chunk=None` is one chunk of the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignkd_lab.errors import check_number
from alignkd_lab.lm.architecture import cast_head, logits, parts_of

# rows(part, log_probs, probs) -> (values [n], slope [n, V], *diagnostics [n]); both [n, V] are its to write over.
Rows = Callable[[slice, Tensor, Tensor], tuple[Tensor, ...]]


def sum_rows(
    hidden: Tensor, head: Tensor, rows: Rows, chunk: int | None = None, temperature: float = 1.0
) -> tuple[Tensor, ...]:
    """Σ_t of a loss of softmax(logits_t / temperature), then that loss and the diagnostics of every row, each [N].

    hidden [N, d], head [V, d], which may have a cap. `rows` gets the log-probabilities and the probabilities of a slice
    of the rows, and returns the loss of each, its slope by logits / temperature, and the diagnostics. The sum's
    gradient reaches `hidden` and `head`.
    """
    weight, cap = parts_of(head)
    return _SumRows.apply(hidden, weight, cap, rows, chunk, temperature, torch.is_grad_enabled())


def token_log_probs(hidden: Tensor, head: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """log pi(label) of each token. hidden [N, d], head [V, d], labels [N] -> float32 [N]."""
    weight, cap = parts_of(head)
    return _TokenLogProbs.apply(hidden, weight, cap, labels, chunk, torch.is_grad_enabled())


def default_chunk(head: Tensor) -> int:
    """Rows whose float32 logits fill 48 MiB on a CPU, 256 MiB on a GPU; 256 and 1365 at a vocabulary of 49152.

    Larger chunks are hardly faster on a CPU. Nor are smaller ones, and they can take more memory: the C library may
    keep freed tensors of up to 32 MiB on the process's heap, in pieces that fit nothing else.
    """
    return max(1, (2**28 if head.is_cuda else 3 * 2**24) // (4 * len(head)))


def nll_rows(labels: Tensor) -> Rows:
    """-log pi(label) of each row, whose slope is softmax - onehot."""

    def rows(part: slice, log_probs: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        at = labels[part, None]
        values = -log_probs.gather(1, at)
        return values.squeeze(1), probs.scatter_add_(1, at, -torch.ones_like(values))

    return rows


class _SumRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, cap, rows, chunk, temperature, attached):
        weight = cast_head(head)
        grad, grad_head = (_buffer(tensor, attached) for tensor in (hidden, head))
        found = []
        with torch.autocast(head.device.type, enabled=False):
            for part in _parts(len(hidden), chunk):
                log_probs, probs, damp = _distribution(hidden[part], weight, cap, temperature)
                values, slope, *diagnostics = rows(part, log_probs, probs)
                found.append((values, *diagnostics))
                slope = _damped(slope, damp).to(weight.dtype)
                if grad is not None:
                    grad[part] = slope @ weight
                if grad_head is not None:
                    _add_product(grad_head, slope, hidden[part])
                del slope
        by_row = [torch.cat(pieces) for pieces in zip(*found, strict=True)]
        ctx.save_for_backward(grad, grad_head)
        ctx.temperature, ctx.dtypes = temperature, (hidden.dtype, head.dtype)
        ctx.mark_non_differentiable(*by_row)
        return by_row[0].sum(), *by_row

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        upstream = upstream / ctx.temperature
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        of_both = (None if grad is None else (upstream * grad).to(dtype) for grad, dtype in grads)
        return *of_both, None, None, None, None, None


class _TokenLogProbs(torch.autograd.Function):
    """A row's gradient by its hidden state is a vector, known in the forward pass, times the row's upstream.

    The head's gradient mixes rows before their upstream is known, so a trainable head has its logits computed again,
    except for the last chunk, whose slope is still at hand.
    """

    @staticmethod
    def forward(ctx, hidden, head, cap, labels, chunk, attached):
        weight, rows = cast_head(head), nll_rows(labels)
        grad, ctx.slope, found = _buffer(hidden, attached), None, []
        with torch.autocast(head.device.type, enabled=False):
            for part in _parts(len(hidden), chunk):
                log_probs, probs, damp = _distribution(hidden[part], weight, cap)
                values, slope = rows(part, log_probs, probs)
                found.append(-values)
                slope = _damped(slope, damp).to(weight.dtype)
                if grad is not None:
                    grad[part] = slope @ weight
                ctx.slope = slope if attached and head.requires_grad else None
                del slope
        ctx.save_for_backward(grad, labels, hidden, *([weight] if head.requires_grad else []))
        ctx.cap, ctx.chunk, ctx.head_dtype = cap, chunk, head.dtype
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        grad, labels, hidden, *weights = ctx.saved_tensors
        down, grad_head = -upstream[:, None], None
        if weights:
            (weight,), rows = weights, nll_rows(labels)
            grad_head = torch.zeros_like(weight, dtype=_wide(weight))
            for part in reversed(list(_parts(len(hidden), ctx.chunk))):
                slope, ctx.slope = ctx.slope, None
                if slope is None:
                    log_probs, probs, damp = _distribution(hidden[part], weight, ctx.cap)
                    slope = _damped(rows(part, log_probs, probs)[1], damp).to(weight.dtype)
                _add_product(grad_head, slope, down[part] * hidden[part])
                del slope
            grad_head = grad_head.to(ctx.head_dtype)
        return None if grad is None else (down * grad).to(hidden.dtype), grad_head, None, None, None, None


def _parts(count: int, chunk: int | None) -> Iterator[slice]:
    """Slices of `chunk` rows; no rows are one empty slice, so that results have their shapes."""
    if chunk is not None:
        check_number("chunk", chunk, least=1, whole=True)
    size = chunk or max(1, count)
    return (slice(start, min(start + size, count)) for start in range(0, max(1, count), size))


def _distribution(
    hidden: Tensor, weight: Tensor, cap: float | None, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities and probabilities of the next token, and the cap's derivative where there is one; [n, V]."""
    scaled = logits(hidden, weight, cap)
    damp = None if cap is None else 1 - (scaled / cap).square()  # of cap tanh(z / cap) by z
    log_probs = torch.log_softmax(scaled if temperature == 1 else scaled.div_(temperature), dim=-1)
    return log_probs, torch.exp(log_probs, out=scaled), damp


def _damped(slope: Tensor, damp: Tensor | None) -> Tensor:
    return slope if damp is None else slope.mul_(damp)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _buffer(tensor: Tensor, attached: bool) -> Tensor | None:
    """Where the gradient of `tensor` is summed, or None if nobody wants it."""
    return torch.zeros_like(tensor, dtype=_wide(tensor)) if attached and tensor.requires_grad else None


def _add_product(total: Tensor, slope: Tensor, hidden: Tensor) -> None:
    """total += slopeᵀ hidden, [V, d], without a second [V, d] where the dtypes allow."""
    hidden = hidden.to(slope.dtype)
    if total.dtype == slope.dtype:
        total.addmm_(slope.T, hidden)
    else:
        total += slope.T @ hidden
