"""The rows of the bench: each step of each length timed in turn, then its memory, in one process."""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from alignkd_lab.bench.batch import PROMPT, Batch, make_batch
from alignkd_lab.bench.meters import Seconds, peak_memory, seconds
from alignkd_lab.bench.steps import Step, checkpoint_blocks, our_steps
from alignkd_lab.bench.trl_steps import TrlSteps
from alignkd_lab.lm.batch import token_counts
from alignkd_lab.lm.trainer import with_lora


def measure(
    base, tokenizer, lengths: Sequence[int], repeats: int, *, lora_rank: int | None, checkpointing: bool,
    scratch: Path, dtype: torch.dtype,
) -> list[dict]:  # fmt: skip
    """A row for every step of every length, on copies of `base`.

    They are trained through a LoRA of `lora_rank` or, where that is None, with all weights.
    """
    model = copy.deepcopy(base)
    model = model if lora_rank is None else with_lora(model, lora_rank)
    if checkpointing:
        checkpoint_blocks(model)
    trl = TrlSteps(
        base, tokenizer, scratch, checkpointing=checkpointing, longest=max(lengths), dtype=dtype,
        lora_config=None if lora_rank is None else copy.deepcopy(model.peft_config["default"]),
    )  # fmt: skip
    rows = []
    for length in lengths:
        batch = make_batch(model, length, dtype)
        steps = our_steps(model, batch, scratch, dtype) + trl.steps(batch)
        # Each also runs once to warm up and once for its memory.
        total = len(steps) * (repeats + 2)
        with tqdm(total=total, desc=f"bench, {length} tokens", unit="steps", leave=False) as bar:
            rows += _in_turn(steps, batch, repeats, base.device.type, bar)
    return rows


def _in_turn(steps: list[Step], batch: Batch, repeats: int, device: str, bar: tqdm) -> list[dict]:
    losses = []
    for step in steps:  # also leaves every gradient in its place, so that memory above them can be told
        losses.append(step.run())
        bar.update()
    times: list[list[Seconds]] = [[] for _ in steps]
    for _ in range(repeats):
        gc.collect()
        for step, found in zip(steps, times, strict=True):
            _fresh(step)
            found.append(seconds(step.run, device))
            bar.update()
    rows = []
    for step, loss, found in zip(steps, losses, times, strict=True):
        _fresh(step)
        rows.append(_row(step, batch, loss, found, peak_memory(step.run, device)))
        bar.update()
    return rows


def _row(step: Step, batch: Batch, loss: float, times: list[Seconds], memory: int) -> dict:
    examples = batch.examples(step.method)
    wall = [time.wall for time in times]
    return {
        "method": step.method,
        "variant": step.variant,
        "length": len(examples[0].responses[0]),
        "seconds": statistics.median(wall),
        "seconds_least": min(wall),
        "seconds_most": max(wall),
        "cpu_seconds": statistics.median(time.cpu for time in times),
        "memory_bytes": memory,
        "tokens": token_counts(examples)["tokens"],
        "prompt_tokens": PROMPT * len(examples),
        "repeats": len(wall),
        "loss": loss,
    }


def _fresh(step: Step) -> None:
    """Gradients back to zero but kept in memory."""
    step.model.zero_grad(set_to_none=False)
