"""The same losses written straight down: float32 logits at every position, kept only to be compared with.

This is how they look in most released code: a row for each response, prompt and all, no chunks, every tensor
[rows, time, V], and autograd keeping what it needs of each. Values and gradients are those of `lm.losses`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from alignkd_lab.bench.batch import ALPHA, BETA, GAMMA
from alignkd_lab.lm.batch import is_chosen


def loss(method: str, teacher_head: Tensor) -> Callable:
    """The loss of `method` as `LossTrainer` wants it: (model, collated batch, counts) -> (loss, None).

    The batch has one response a row, all of one length, so causal attention needs no mask.
    """

    def with_full_logits(model, inputs: dict, items: dict[str, int]):
        inputs = _on(teacher_head.device, inputs)
        log_probs = model(input_ids=inputs["input_ids"], use_cache=False).logits.float().log_softmax(-1)
        labels = _everywhere(inputs["shift_labels"], inputs["predict_at"], log_probs)
        label_log_probs = log_probs.gather(-1, labels[..., None]).squeeze(-1)
        chosen = _everywhere(is_chosen(inputs), inputs["predict_at"], log_probs)
        other = _everywhere(~is_chosen(inputs), inputs["predict_at"], log_probs)
        if method == "dpo":
            rewards = BETA * ((label_log_probs * (chosen | other)).sum(1) - inputs["reference_log_probs"])
            return -F.logsigmoid(rewards[0::2] - rewards[1::2]).sum() / items["pairs"], None
        teacher = _teacher("teacher", method, teacher_head, inputs, log_probs)
        if method == "adpa":
            advantage = teacher - _teacher("reference", method, teacher_head, inputs, log_probs)
            expected = (log_probs.exp() * advantage).sum(-1)
            nll = -_mean(label_log_probs, chosen, items["chosen"])
            return nll - GAMMA * _mean(expected, other, items["sampled"]), None
        kl = (teacher.exp() * (teacher - log_probs)).sum(-1)
        if method == "kd":
            return _mean(kl, chosen | other, items["tokens"]), None
        both = _mean(kl, chosen, items["chosen"]) + _mean(kl, other, items["rejected"])
        return -_mean(label_log_probs, chosen, items["chosen"]) + ALPHA * both, None

    return with_full_logits


def _on(device, inputs: dict) -> dict:
    signals = {name: kept["hidden"].to(device) for name, kept in inputs["signals"].items()}
    return {key: value.to(device) for key, value in inputs.items() if key != "signals"} | {"signals": signals}


def _everywhere(rows: Tensor, at: Tensor, log_probs: Tensor) -> Tensor:
    """[N, ...] at response positions -> [rows, time, ...], zero elsewhere."""
    places = rows.new_zeros(log_probs.shape[0] * log_probs.shape[1], *rows.shape[1:])
    places[at] = rows
    return places.view(*log_probs.shape[:2], *rows.shape[1:])


def _teacher(name: str, method: str, head: Tensor, inputs: dict, log_probs: Tensor) -> Tensor:
    """A cached teacher's log-probabilities at every position, [rows, time, V]."""
    at = inputs["predict_at"][~is_chosen(inputs)] if method == "adpa" else inputs["predict_at"]
    states = _everywhere(inputs["signals"][name], at, log_probs)
    return F.linear(states, head).float().log_softmax(-1)


def _mean(values: Tensor, mask: Tensor, count: int) -> Tensor:
    return (values * mask).sum() / count
