"""Our training steps: `lm.losses` behind `lm.trainer`, exactly as a pipeline runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import TrainingArguments

from alignkd_lab.bench import full_logits, liger
from alignkd_lab.bench.batch import ALPHA, BETA, GAMMA, Batch, one_response_a_row
from alignkd_lab.errors import CannotContinue
from alignkd_lab.lm import training_losses
from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.lm.trainer import LossTrainer

METHODS = {"dpo": {"beta": BETA}, "dckd": {"alpha": ALPHA}, "adpa": {"gamma": GAMMA}, "kd": {}}


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
