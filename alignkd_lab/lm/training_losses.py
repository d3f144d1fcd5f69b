"""The losses as `lm.trainer` calls them: (model, collated batch, counts of the step) -> (loss, info).

Each takes the hidden states, the head and the labels from model and batch, and hands them to its namesake in
`lm.losses`. Options go in by `functools.partial`, what teachers say by `asking`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import losses
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import has_role, hidden_states, is_chosen
from alignkd_lab.lm.chunked import default_chunk
from alignkd_lab.lm.teachers import Full


def nll(model, batch: dict, items: dict):
    """Of all response tokens."""
    hidden, head, labels = _states(model, batch)
    return losses.nll(hidden, head, labels, items=items["tokens"], chunk=default_chunk(head))


def kd(model, batch: dict, items: dict, *, teacher: Full, temperature: float = 1.0, divergence: str = "forward"):
    """`divergence` from the teacher at `temperature`, which says what it says of every token."""
    hidden, head, _ = _states(model, batch)
    return losses.kd(
        hidden, head, teacher, teacher_temperature=temperature, divergence=divergence, items=items["tokens"],
        chunk=default_chunk(head),
    )  # fmt: skip


def rloo(model, batch: dict, items: dict):
    """Of responses with their advantages, which the batch carries; the value says nothing, the gradient does."""
    hidden, head, labels = _states(model, batch)
    weights = batch["advantages"].to(head.device)[batch["response"].to(head.device)]
    return losses.nll(
        hidden, head, labels, items=items["sampled_responses"], chunk=default_chunk(head), weights=weights
    )


def dpo(model, batch: dict, items: dict, *, beta: float = 0.1):
    """Against the reference log-probabilities that the batch carries."""
    hidden, head, labels = _states(model, batch, "chosen", "rejected")
    if not torch.equal(is_chosen(batch), batch["response"] % 2 == 0):
        raise BadInput("roles: DPO reads the responses of an example in turn, chosen, rejected, chosen, ...")
    if len(batch.get("reference_log_probs", ())) <= batch["response"][-1]:
        raise BadInput("reference_log_probs: an example has none; DPO needs one for each of its responses")
    response, reference = (batch[name].to(head.device) for name in ("response", "reference_log_probs"))
    return losses.dpo(hidden, head, labels, response, reference, beta, items=items["pairs"], chunk=default_chunk(head))


def dckd(model, batch: dict, items: dict, *, teacher: Full, alpha: float = 0.2):
    """`teacher` says what it says of every token."""
    hidden, head, labels = _states(model, batch, "chosen", "rejected")
    return losses.dckd(
        hidden, head, labels, teacher=teacher, chosen=is_chosen(batch).to(head.device),
        alpha=alpha, items=(items["chosen"], items["rejected"]), chunk=default_chunk(head),
    )  # fmt: skip


def adpa(
    model, batch: dict, items: dict, *, teacher: Full, reference: Full, gamma: float = 1.5, end_token: int | None = None
):  # fmt: skip
    """`teacher` and `reference` say what they say of the tokens that are not chosen ones.

    With an `end_token` it is the published code's, which counts responses and not tokens.
    """
    hidden, head, labels = _states(model, batch, "chosen", "sampled")
    counted, released = ("chosen", "sampled"), {}
    if end_token is not None:
        counted = ("chosen_responses", "sampled_responses")
        released = {"as_released": True, "end_token": end_token, "response": batch["response"].to(head.device)}
    return losses.adpa(
        hidden, head, labels, teacher=teacher, reference=reference, chosen=is_chosen(batch).to(head.device),
        gamma=gamma, items=tuple(items[name] for name in counted), chunk=default_chunk(head), **released,
    )  # fmt: skip


LOSSES = {"sft": nll, "dpo": dpo, "kd": kd, "gkd": kd, "dckd": dckd, "adpa": adpa, "rloo": rloo}


def asking(method: str, ask: Callable[[dict], dict[str, Full]], **options: Any) -> Callable:
    """The loss of a method with its options and, by its role, what `ask(batch)` says for each teacher."""

    def loss(model, batch: dict, items: dict):
        return LOSSES[method](model, batch, items, **ask(batch), **options)

    return loss


def carried(head) -> Callable[[dict], dict[str, Full]]:
    """For `asking`: teachers of that head, whose hidden states the batch carries."""

    def ask(batch: dict) -> dict[str, Full]:
        return {
            name: Full(rows["hidden"].to(head.device, head.dtype), head,
                       rows["log_norm"].to(head.device) if "log_norm" in rows else None)
            for name, rows in batch["signals"].items()
        }  # fmt: skip

    return ask


def _states(model, batch: dict, *roles: str) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, d] and labels [N] of the response tokens, and the head [V, d] between them.

    Raises BadInput for a response that is none of `roles`, where they are named: what a loss divides by goes by them.
    """
    if roles and not has_role(batch, roles).all():
        raise BadInput(f"roles: this loss reads responses that are {' or '.join(roles)}; say so of each in its example")
    hidden, head = hidden_states(model, batch), head_of(model)  # in this order: FSDP2 gathers the head on the way
    return hidden, head, batch["shift_labels"].to(head.device)
