"""One run of a TRL trainer, under the terms of `lm.trainer.train`: its schedule, its dtype, its progress bar.

Nothing of TRL is subclassed and nothing private of it is used, since its trainers change often: what is relied on are
arguments of constructors and names of metrics. Nothing is saved, downloaded or reported to anyone.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator

import torch
from transformers import GenerationConfig, PrinterCallback, Trainer

from alignkd_lab.lm.batch import plain
from alignkd_lab.lm.context import Context, telling
from alignkd_lab.lm.trainer import Watch, stop_at
from alignkd_lab.memory import halve
from alignkd_lab.results import Result


def prompt_rows(texts: list[str], repeats: int = 1):
    """A `datasets.Dataset` of prompts: `prompt` as a chat turn, and its `index`."""
    from datasets import Dataset

    rows = [{"prompt": [{"role": "user", "content": text}], "index": index} for index, text in enumerate(texts)]
    return Dataset.from_list(rows * repeats)


def run_trl(
    context: Context,
    build: Callable[[dict], Trainer],
    model,
    name: str,
    kind: str,
    *,
    max_tokens: int,
    learning_rate: float,
    steps: int,
    batch: int,
    micro_batch: int,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    """Trains `model` in place for `steps` steps of `batch` responses that it writes itself, at temperature 1.

    `build(arguments)` makes the trainer from the arguments of its configuration that both TRL arms share. Returns the
    metrics that TRL logged, a dict a step. All responses of a step are drawn at once, and learnt in parts of
    `micro_batch`, a divisor of `batch`, on which only rounding depends.

    Raises:
        CannotContinue: a loss or gradient that is not finite, its batch kept in `Context.aside`.
    """
    device, tokenizer = plain(model).device.type, context.tokenizer
    # A model's own defaults (top-p, penalties, a second end token) would sample from another distribution than we do.
    plain(model).generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with (
        tempfile.TemporaryDirectory() as scratch,
        telling(name, steps, on_step) as end_step,
        quiet(),
    ):
        watch = _LoggedWatch(end_step)
        trainer = build(
            {
                "output_dir": scratch,
                "per_device_train_batch_size": micro_batch,
                "gradient_accumulation_steps": batch // micro_batch,
                "max_steps": steps,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "linear",
                "warmup_steps": round(0.1 * steps),
                "weight_decay": 0.0,
                "max_grad_norm": 1.0,
                "seed": context.seed_for("train", kind),
                "max_completion_length": max_tokens,
                "temperature": 1.0,
                "top_p": 1.0,
                "top_k": 0,
                "gradient_checkpointing": False,
                "bf16": context.models.dtype == torch.bfloat16,
                "use_cpu": device == "cpu",
                "save_strategy": "no",
                "logging_strategy": "steps",
                "logging_steps": 1,
                "report_to": "none",
                "disable_tqdm": True,
                "remove_unused_columns": False,
                "dataloader_pin_memory": False,
            }
        )
        trainer.remove_callback(PrinterCallback)  # the bar above is the progress
        trainer.add_callback(watch)
        inner = trainer.training_step

        def training_step(model, inputs, *rest, **options):
            loss = inner(model, inputs, *rest, **options)
            grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            if not (loss.isfinite().all() and torch.nn.utils.get_total_norm(grads).isfinite()):
                stop_at(trainer.state.global_step + 1, float(loss), inputs, context.aside(name))
            return loss

        trainer.training_step = training_step
        trainer.train()
    return watch.logs


def in_parts(stage: Callable[[int], Result], name: str, batch: int) -> Result:
    """`stage(micro_batch)`, of `batch` responses a step: where memory runs out it starts again, with smaller parts.

    Raises:
        CannotContinue: a step does not fit in parts of one response; TRL draws them all at once.
    """
    way_out = f"a step of {name} with {batch} responses does not fit; lower max_tokens, or its prompts and responses"

    def smaller(size: int) -> int:
        return max(part for part in range(1, size // 2 + 1) if batch % part == 0)

    return halve(stage, batch, "micro_batch", way_out, smaller=smaller)[0]


class _LoggedWatch(Watch):
    def __init__(self, on_step: Callable[[int], None]) -> None:
        super().__init__(on_step)
        self.logs: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:  # the last log sums the run up and holds no step
            self.logs.append(dict(logs))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No telemetry, no warnings and nothing below an error from the libraries' loggers; all as before afterwards."""
    from huggingface_hub import constants

    loggers = [logging.getLogger(name) for name in ("trl", "transformers", "accelerate")]
    levels, telemetry = [logger.level for logger in loggers], constants.HF_HUB_DISABLE_TELEMETRY
    # The variable of the same name is read when the library is imported, which is long past.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
