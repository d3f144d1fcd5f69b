"""The steps that are timed, all on one batch: ours, logits at every position, and Liger's fused losses.

Ours are `lm.losses` behind `lm.trainer`, exactly as a pipeline runs them. Logits at every position are how the losses
look in most released code: a row for each response, prompt and all, no chunks, every tensor [rows, time, V], and
autograd keeping what it needs of each; values and gradients are ours. `liger_kernel.chunked_loss` gets the hidden
states that ours get. It is torch code, compiled on a GPU as its trainers run it, and as it stands on a CPU; its DPO
takes hidden states of a reference and no log-probabilities that were kept, so here it has none, which costs it less.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainingArguments

from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm import training_losses
from alignkd_lab.lm.architecture import head_of
from alignkd_lab.lm.batch import Example, hidden_states, is_chosen, plain
from alignkd_lab.lm.teachers import log_norm
from alignkd_lab.lm.trainer import LossTrainer

PAIRS = 2
PROMPT = 32  # tokens of each prompt
ALPHA, GAMMA, BETA = 0.2, 1.5, 0.1
METHODS = {"dpo": {"beta": BETA}, "dckd": {"alpha": ALPHA}, "adpa": {"gamma": GAMMA}, "kd": {}}
LIGER_TIMED = {
    "dpo": "LigerFusedLinearDPOLoss without a reference, a pair at a time",
    "kd": "LigerFusedLinearJSDLoss with beta 0, which is forward KL, 1024 rows at a time",
}


class Batch(NamedTuple):
    """Two prompts with two responses each, `length` tokens long, read beforehand by the teachers and the reference."""

    pairs: list[Example]  # chosen and rejected; the teacher has read both
    written: list[Example]  # the same tokens as chosen and sampled; both teachers have read the sampled ones, for ADPA
    head: Tensor  # [V, d], frozen: the head that both teachers share

    def examples(self, method: str) -> list[Example]:
        return self.written if method == "adpa" else self.pairs


@torch.no_grad()
def make_batch(model, length: int) -> Batch:
    """Random tokens, hidden states of teachers and reference log-probabilities: no cost depends on which."""
    draw, config = torch.Generator().manual_seed(0), plain(model).config
    head = plain(model).get_output_embeddings().weight.detach().clone()

    def tokens(count: int) -> list[int]:
        return torch.randint(config.vocab_size, (count,), generator=draw).tolist()

    def read() -> dict[str, Tensor]:
        hidden = torch.randn(length, config.hidden_size, generator=draw)
        return {"hidden": hidden, "log_norm": log_norm(hidden.to(head), head).cpu()}

    pairs, written = [], []
    for _ in range(PAIRS):
        prompt, responses = tokens(PROMPT), [tokens(length), tokens(length)]
        reference = (5 * torch.randn(2, generator=draw) - length * math.log(config.vocab_size)).tolist()
        pairs.append(Example(prompt, responses, ["chosen", "rejected"], {"teacher": [read(), read()]}, reference))
        # ADPA's teachers read only what the student wrote.
        signals = {name: [{}, read()] for name in ("teacher", "reference")}
        written.append(Example(prompt, responses, ["chosen", "sampled"], signals))
    return Batch(pairs, written, head)


def one_response_a_row(examples: list[Example]) -> list[Example]:
    """The same responses as examples of their own, each with its prompt: the usual form, not packed."""
    return [
        Example(
            example.prompt,
            [response],
            [example.roles[index]],
            {name: [kept[index]] for name, kept in example.signals.items()},
            example.reference_log_probs[index : index + 1],
        )
        for example in examples
        for index, response in enumerate(example.responses)
    ]


class Step(NamedTuple):
    """One row of the table before it is measured; `run` does forward and backward and returns the loss."""

    method: str
    variant: str
    model: torch.nn.Module
    run: Callable[[], float]


def our_steps(model, batch: Batch, folder: Path, dtype: torch.dtype = torch.float32) -> list[Step]:
    """NLL alone, then each method as we compute it, with logits at every position, and by Liger, all on one model."""
    step = partial(_step, model=model, folder=folder, dtype=dtype)
    made = [step("nll", "nll", examples=batch.pairs, loss=training_losses.nll)]
    for method, options in METHODS.items():
        examples = batch.examples(method)
        ask = (lambda batch: {}) if method == "dpo" else training_losses.carried(batch.head)
        made.append(step(method, "ours", examples=examples, loss=training_losses.asking(method, ask, **options)))
        naive = full_logits_loss(method, batch.head)
        made.append(step(method, "full_logits", examples=one_response_a_row(examples), loss=naive))
        if method in LIGER_TIMED and liger_version():
            made.append(step(method, "liger", examples=examples, loss=liger_loss(method, batch.head)))
    return made


def checkpoint_blocks(model) -> None:
    """The backward pass computes each block's activations again, as `TrainingArguments.gradient_checkpointing` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed in transformers 5.20, and older ones are welcome
        plain(model).gradient_checkpointing_enable({"use_reentrant": False})


def _step(
    method: str, variant: str, *, model, examples: list[Example], loss: Callable, folder: Path, dtype: torch.dtype
) -> Step:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=len(examples),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=plain(model).device.type == "cpu",
    )
    trainer = LossTrainer(loss, dtype=dtype, model=model, args=arguments)

    def run() -> float:
        value = trainer.training_step(model, {"examples": examples})
        trainer.infos.clear()
        # The trainer would go on with half the batch, and the row would compare unlike with unlike.
        if trainer.micro_batch < len(examples):
            raise CannotContinue(
                f"memory: the {variant} step of {method} does not fit at this length; bench shorter ones with --lengths"
            )
        return value.item()

    return Step(method, variant, model, run)


# Logits at every position


def full_logits_loss(method: str, teacher_head: Tensor) -> Callable:
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


# Liger


def liger_version() -> str | None:
    """Liger's version, None where it is not installed."""
    return importlib.metadata.version("liger-kernel") if importlib.util.find_spec("liger_kernel") else None


def liger_loss(method: str, teacher_head):
    """The loss of `method` as `LossTrainer` wants it; all responses are of one length."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss, LigerFusedLinearJSDLoss

    compiled = teacher_head.is_cuda
    dpo = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=False, compiled=compiled)
    kd = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled)

    def chosen_first(rows):
        """[pairs, 2, length, ...] -> [2 pairs, length, ...]."""
        return rows.unflatten(0, (PAIRS, 2, -1)).transpose(0, 1).flatten(0, 1)

    def fused(model, batch: dict, items: dict[str, int]):
        hidden, head = hidden_states(model, batch), head_of(model)
        labels = batch["shift_labels"].to(head.device)
        if method == "dpo":
            return dpo(head, chosen_first(hidden), chosen_first(labels))[0], None
        teacher = batch["signals"]["teacher"]["hidden"].to(teacher_head)
        return kd(hidden, head, teacher.to(hidden.dtype), teacher_head, labels), None

    return fused
