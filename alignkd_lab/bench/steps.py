"""Our training steps: `lm.losses` behind `lm.trainer`, exactly as a pipeline runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import TrainingArguments

from alignkd_lab.bench import full_logits, liger
from alignkd_lab.bench.batch import ALPHA, BETA, GAMMA, Batch, one_response_a_row
from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.lm.teachers import Full
from alignkd_lab.lm.trainer import LossTrainer

METHODS = ("dpo", "dckd", "adpa", "kd")


class Step(NamedTuple):
    """One row of the table before it is measured; `run` does forward and backward and returns the loss."""

    method: str
    variant: str
    model: torch.nn.Module
    run: Callable[[], float]


def our_steps(model, batch: Batch, folder: Path, dtype: torch.dtype = torch.float32) -> list[Step]:
    """NLL alone, then each method as we compute it, with logits at every position, and by Liger, all on one model."""
    step = partial(_step, model=model, folder=folder, dtype=dtype)
    made = [step("nll", "nll", examples=batch.pairs, loss=our_loss("nll", batch.head))]
    for method in METHODS:
        examples = batch.examples(method)
        made.append(step(method, "ours", examples=examples, loss=our_loss(method, batch.head)))
        naive = full_logits.loss(method, batch.head)
        made.append(step(method, "full_logits", examples=one_response_a_row(examples), loss=naive))
        if method in liger.METHODS and liger.version():
            made.append(step(method, "liger", examples=examples, loss=liger.loss(method, batch.head)))
    return made


def checkpoint_blocks(model) -> None:
    """The backward pass computes each block's activations again, as `TrainingArguments.gradient_checkpointing` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # renamed in transformers 5.20, and older ones are welcome
        plain(model).gradient_checkpointing_enable({"use_reentrant": False})


def our_loss(method: str, teacher_head: Tensor) -> Callable:
    """The loss of `method` as `LossTrainer` wants it: (model, collated batch, counts) -> (loss, info)."""

    if method == "nll":
        return training_losses.nll
    if method == "dpo":
        return partial(training_losses.dpo, beta=BETA)
    if method == "kd":
        return partial(training_losses.kd, teacher_head=teacher_head)

    def loss(model, batch: dict, items: dict[str, int]):
        signals = {
            name: Full(kept["hidden"].to(teacher_head.device), teacher_head, kept["log_norm"].to(teacher_head.device))
            for name, kept in batch["signals"].items()
        }
        if method == "dckd":
            return training_losses.dckd(model, batch, items, **signals, alpha=ALPHA)
        return training_losses.adpa(model, batch, items, **signals, gamma=GAMMA)

    return loss


def _step(
    method: str, variant: str, *, model, examples: list[Example], loss: Callable, folder: Path, dtype: torch.dtype
) -> Step:
    trainer = LossTrainer(loss, dtype=dtype, model=model, args=_arguments(model, len(examples), folder))

    def run() -> float:
        value = trainer.training_step(model, {"examples": examples})
        trainer.infos.clear()
        _check_whole(trainer, examples, method, variant)
        return value.item()

    return Step(method, variant, model, run)


def _arguments(model, size: int, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=plain(model).device.type == "cpu",
    )


def _check_whole(trainer: LossTrainer, examples: list[Example], method: str, variant: str) -> None:
    # The trainer would go on with half the batch, and the row would compare unlike with unlike.
    if trainer.micro_batch < len(examples):
        raise CannotContinue(
            f"memory: the {variant} step of {method} does not fit at this length; bench shorter ones with --lengths"
        )
