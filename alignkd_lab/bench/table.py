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
from alignkd_lab.bench.meters import Seconds, peak_memory, seconds, top_operators
from alignkd_lab.bench.steps import Step, checkpoint_blocks, our_steps
from alignkd_lab.bench.trl_steps import TrlSteps
from alignkd_lab.lm.batch import token_counts
from alignkd_lab.lm.trainer import with_lora


class Table:
    """The steps on one student, trained through a LoRA of `lora_rank` or, where that is None, with all weights.

    `base` is copied, never trained.
    """

    def __init__(self, base, tokenizer, lora_rank: int | None, checkpointing: bool, scratch: Path,
                 *, longest: int, dtype: torch.dtype) -> None:  # fmt: skip
        self._scratch, self._device, self._dtype = scratch, base.device.type, dtype
        model = copy.deepcopy(base)
        self._model = model if lora_rank is None else with_lora(model, lora_rank)
        if checkpointing:
            checkpoint_blocks(self._model)
        self._trl = TrlSteps(
            base, tokenizer, scratch, checkpointing=checkpointing, longest=longest, dtype=dtype,
            lora_config=None if lora_rank is None else copy.deepcopy(self._model.peft_config["default"]),
        )  # fmt: skip
        self._profiles: dict[tuple, list[dict]] = {}

    def steps(self, batch: Batch) -> list[Step]:
        return our_steps(self._model, batch, self._scratch, self._dtype) + self._trl.steps(batch)

    def measure(self, lengths: Sequence[int], repeats: int) -> list[dict]:
        """A row for every step of every length."""
        rows = []
        for length in lengths:
            batch = make_batch(self._model, length, self._dtype)
            steps = self.steps(batch)
            # Each also runs once to warm up and once for its memory.
            with tqdm(
                total=len(steps) * (repeats + 2), desc=f"bench, {length} tokens", unit="steps", leave=False
            ) as bar:
                rows += self._in_turn(steps, batch, repeats, bar)
        return rows

    def profile(self, bar: dict) -> dict[str, list[dict]]:
        """The operators that took most of the steps that a bar compares, by "method variant"."""
        found = {}
        for method, variant in bar["rows"]:
            key = method, variant, bar["length"]
            if key not in self._profiles:
                steps = self.steps(make_batch(self._model, bar["length"], self._dtype))
                step = next(step for step in steps if (step.method, step.variant) == (method, variant))
                step.run()
                self._profiles[key] = top_operators(step.run, self._device)
            found[f"{method} {variant}"] = self._profiles[key]
        return found

    def _in_turn(self, steps: list[Step], batch: Batch, repeats: int, bar: tqdm) -> list[dict]:
        losses = []
        for step in steps:  # also leaves every gradient in its place, so that memory above them can be told
            losses.append(step.run())
            bar.update()
        times: list[list[Seconds]] = [[] for _ in steps]
        for _ in range(repeats):
            gc.collect()
            for step, found in zip(steps, times, strict=True):
                _fresh(step)
                found.append(seconds(step.run, self._device))
                bar.update()
        rows = []
        for step, loss, found in zip(steps, losses, times, strict=True):
            _fresh(step)
            rows.append(_row(step, batch, loss, found, peak_memory(step.run, self._device)))
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
