"""The rows of the bench: each step of each length timed in turn, then its memory, in one process."""

from __future__ import annotations

import copy
import gc
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from alignkd_lab.bench import trl_steps
from alignkd_lab.bench.batch import PROMPT, Batch, make_batch
from alignkd_lab.bench.meters import Seconds, peak_memory, seconds, top_operators
from alignkd_lab.bench.operations import ProductRate, step_operations
from alignkd_lab.bench.steps import Step, checkpoint_blocks, our_steps
from alignkd_lab.lm.batch import plain, token_counts
from alignkd_lab.lm.trainer import with_lora


class Measured(NamedTuple):
    loss: float
    times: list[Seconds]
    memory: int


class Table:
    """The steps on one student, trained through a LoRA of `lora_rank` or, where that is None, with all weights.

    `base` is copied, never trained. A reason why TRL's rows are left out goes into `notes`.
    """

    def __init__(self, base, tokenizer, lora_rank: int | None, checkpointing: bool, scratch: Path, notes: list[str],
                 *, longest: int, dtype: torch.dtype) -> None:  # fmt: skip
        self._lora_rank, self._checkpointing, self._scratch = lora_rank, checkpointing, scratch
        self._device, self._dtype = base.device.type, dtype
        model = copy.deepcopy(base)
        self._model = model if lora_rank is None else with_lora(model, lora_rank)
        if checkpointing:
            checkpoint_blocks(self._model)
        self._profiles: dict[tuple, list[dict]] = {}
        self._trl = None
        lacking = trl_steps.missing() or ("a tokenizer" if tokenizer is None else None)
        if lacking:
            notes.append(f"rows of TRL are left out: {lacking} is not installed here")
            return
        self._trl = trl_steps.TrlSteps(
            base, tokenizer, scratch, checkpointing=checkpointing, longest=longest, dtype=dtype,
            lora_config=None if lora_rank is None else copy.deepcopy(self._model.peft_config["default"]),
        )  # fmt: skip

    def steps(self, batch: Batch) -> list[Step]:
        ours = our_steps(self._model, batch, self._scratch, self._dtype)
        return ours + (self._trl.steps(batch) if self._trl else [])

    def measure(self, lengths: Sequence[int], repeats: int, rate: ProductRate) -> list[dict]:
        """A row for every step of every length; the rate of matrix products is measured again in every round."""
        rows = []
        # Nine steps are ours and two TRL's; each also runs once to warm up and once for its memory.
        total = (11 if self._trl else 9) * (repeats + 2) * sum(lengths)
        with tqdm(total=total, desc="bench", unit="tokens", leave=False) as bar:
            for length in lengths:
                bar.set_description(f"bench, {length} tokens")
                batch = make_batch(self._model, length, self._dtype)
                steps = self.steps(batch)
                measured = self._in_turn(steps, repeats, rate, lambda done=length: bar.update(done))
                rows += [self._row(step, batch, found) for step, found in zip(steps, measured, strict=True)]
        for row in rows:
            row["ceiling_share"] = row["operations"] / rate.median / row["seconds"]
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

    def _in_turn(
        self, steps: list[Step], repeats: int, rate: ProductRate, done: Callable[[], object]
    ) -> list[Measured]:
        losses = []
        for step in steps:  # also leaves every gradient in its place, so that memory above them can be told
            losses.append(step.run())
            done()
        times: list[list[Seconds]] = [[] for _ in steps]
        for _ in range(repeats):
            gc.collect()
            rate.measure()
            for step, found in zip(steps, times, strict=True):
                _fresh(step)
                found.append(seconds(step.run, self._device))
                done()
        memory = []
        for step in steps:
            _fresh(step)
            memory.append(peak_memory(step.run, self._device))
            done()
        return [Measured(*found) for found in zip(losses, times, memory, strict=True)]

    def _row(self, step: Step, batch: Batch, found: Measured) -> dict:
        examples = batch.examples(step.method)
        operations = step_operations(
            plain(self._model).config, examples, step.method, self._lora_rank, self._checkpointing
        )
        wall = [time.wall for time in found.times]
        return {
            "method": step.method,
            "variant": step.variant,
            "length": len(examples[0].responses[0]),
            "seconds": statistics.median(wall),
            "seconds_least": min(wall),
            "seconds_most": max(wall),
            "cpu_seconds": statistics.median(time.cpu for time in found.times),
            "memory_bytes": found.memory,
            "tokens": token_counts(examples)["tokens"],
            "prompt_tokens": PROMPT * len(examples),
            "repeats": len(wall),
            "operations": operations.counted,
            "operations_needed": operations.needed,
            "loss": found.loss,
        }


def _fresh(step: Step) -> None:
    """Gradients back to zero but kept in memory."""
    step.model.zero_grad(set_to_none=False)
