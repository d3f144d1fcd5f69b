"""`alignkd bench`: every step on one batch, in one process, in turn; the table, its bars, and the record of both."""

from __future__ import annotations

import copy
import gc
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from alignkd_lab.bench import trl_steps
from alignkd_lab.bench.bars import check_bars, render
from alignkd_lab.bench.meters import Seconds, peak_memory, seconds
from alignkd_lab.bench.sampling import sampling_rows
from alignkd_lab.bench.steps import (
    LIGER_TIMED,
    PAIRS,
    PROMPT,
    Batch,
    Step,
    checkpoint_blocks,
    liger_version,
    make_batch,
    our_steps,
)
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights
from alignkd_lab.lm.admission import admit, check_reach
from alignkd_lab.lm.batch import token_counts
from alignkd_lab.lm.sampling import in_dtype
from alignkd_lab.lm.shapes import smollm2
from alignkd_lab.lm.tiny import tiny_tokenizer
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.paths import make_folder
from alignkd_lab.provenance import best_device, provenance, resolve_dtype

LENGTHS, REPEATS, SAMPLED, LORA_RANK = (128, 512), 5, 64, 16
QUICK_LENGTHS, QUICK_REPEATS, QUICK_SAMPLED, QUICK_STUDENT = (8, 16), 2, 4, "tiny-student"
HEAD_WIDTH, LAYERS = 64, {"cpu": 6, "cuda": 30}  # of a random student; a few layers tell the speed of all
VERSION = 2


def run_bench(
    *,
    lengths: Sequence[int] | None = None,
    repeats: int | None = None,
    device: str | None = None,
    dtype: str = "default",
    out: Path | None = None,
    train: str = "lora",
    checkpointing: bool = True,
    student: str | None = None,
    width: int | None = None,
    quick: bool = False,
) -> dict:
    """Measures, prints the table and the bars, writes both as JSON, and returns them.

    Args:
        lengths: tokens of each of the four responses; 128 and 512 unless given.
        repeats: timed rounds, in each of which every step runs once; the median counts.
        device: "cpu" or "cuda"; cuda where there is one unless given.
        dtype: of matrix products: "float32", "bfloat16", or what is usual on the device.
        out: the file; unless given `bench-<device>.json` in the current folder, and none with `quick`, whose numbers
            mean nothing.
        train: "lora", as a pipeline trains, or "full" for all weights, the tied head among them.
        checkpointing: whether blocks compute their activations again in the backward pass, on every side alike.
        student: a source of weights; `quick` is a tiny random model and two short lengths, to see that all works.
        width: of a random model in place of one with weights, a multiple of 64: SmolLM2's proportions, six layers on a
            CPU and thirty on a GPU.

    Raises:
        BadInput: a length, a width, a device, a file or a model (`lm.admission`) that cannot be used.
        CannotContinue: a step does not fit into memory.
    """
    if out is not None:
        make_folder(out.parent)
        if out.is_dir():
            raise BadInput(f"out: {out} is a folder; name a file")
    lengths = sorted(set(lengths or (QUICK_LENGTHS if quick else LENGTHS)))
    repeats = repeats or (QUICK_REPEATS if quick else REPEATS)
    if width is not None and (width < HEAD_WIDTH or width % HEAD_WIDTH):
        raise BadInput(f"width must be a multiple of {HEAD_WIDTH}, not {width}")
    if width is not None and student is not None:
        raise BadInput(f"width: {student} has its own; give one of width and student")
    device = best_device(device)
    dtype = resolve_dtype(dtype, device)
    if width:
        base, tokenizer, name = random_student(width, device)
    else:
        source = student or (QUICK_STUDENT if quick else weights.BUILT_IN)
        base, tokenizer, name = *weights.load(source, device=device), weights.checksum(source)
        admit(base, source, adapted=train == "lora")
    if lengths[-1] > (room := check_reach(base.config, name, 0) - PROMPT):
        raise BadInput(f"lengths: this model has room for responses of {room} tokens, not of {lengths[-1]}")
    lacking = "Liger's rows are left out: liger-kernel is not installed here (the extra `bench`)"
    notes = [] if liger_version() else [lacking]
    lora_rank = LORA_RANK if train == "lora" else None
    sampling = sampling_rows(
        in_dtype(base, getattr(torch, dtype)), PROMPT, QUICK_SAMPLED if quick else SAMPLED, repeats
    )
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(base, tokenizer, lengths, repeats, lora_rank=lora_rank, checkpointing=checkpointing,
                       scratch=Path(scratch), dtype=getattr(torch, dtype))  # fmt: skip
    record = {
        "version": VERSION,
        "settings": {
            "student": name,
            "train": train,
            "lora_rank": lora_rank,
            "checkpointing": checkpointing,
            "dtype": dtype,
            "threads": torch.get_num_threads(),
            "pairs": PAIRS,
            "prompt_tokens": PROMPT,
            "repeats": repeats,
            "quick": quick,
        },
        "provenance": provenance(device),
        "notes": notes,
        "trl": {"version": trl_steps.version(), "timed": trl_steps.TIMED},
        "liger": {"version": liger_version(), "timed": LIGER_TIMED},
        "rows": rows,
        "sampling": sampling,
        "bars": check_bars(rows, device),
    }
    print(render(record))
    if out is None and not quick:
        out = Path(f"bench-{device}.json")
    if out is not None:
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"\nWritten: {out}")
    return record


def random_student(width: int, device: str):
    """Model, tokenizer and name; its weights are random in SmolLM2's proportions, and no cost depends on them."""
    from transformers import LlamaForCausalLM

    heads, layers = width // HEAD_WIDTH, LAYERS[device]
    config = smollm2(
        "135M", hidden_size=width, intermediate_size=8 * width // 3, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 3 if heads % 3 == 0 else heads,
    )  # fmt: skip
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    return model.eval(), tiny_tokenizer(), f"random, width {width}, {layers} layers"


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
    trl = trl_steps.TrlSteps(
        base, tokenizer, scratch, checkpointing=checkpointing, longest=max(lengths), dtype=dtype,
        lora_config=None if lora_rank is None else copy.deepcopy(model.peft_config["default"]),
    )  # fmt: skip
    rows = []
    for length in lengths:
        batch = make_batch(model, length)
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
