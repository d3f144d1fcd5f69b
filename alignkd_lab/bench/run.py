"""`alignkd bench`: every step on one batch, in one process, in turn; the table, its bars, and the record of both."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from alignkd_lab.bench import trl_steps
from alignkd_lab.bench.bars import check_bars
from alignkd_lab.bench.batch import PAIRS, PROMPT
from alignkd_lab.bench.operations import ProductRate
from alignkd_lab.bench.render import render
from alignkd_lab.bench.table import Table
from alignkd_lab.doctor import LORA_RANK, SHAPE
from alignkd_lab.dtypes import resolve_dtype
from alignkd_lab.errors import BadInput, CannotContinue, UnknownName
from alignkd_lab.lm import weights
from alignkd_lab.paths import checkout_folder, data_folder
from alignkd_lab.provenance import provenance

LENGTHS, REPEATS = (32, 128, 512), 5
QUICK_LENGTHS, QUICK_REPEATS, QUICK_STUDENT = (8, 16), 2, "tiny-student"
TRAIN = ("lora", "full")
VERSION = 1


def run_bench(
    *,
    lengths: Sequence[int] | None = None,
    repeats: int | None = None,
    device: str | None = None,
    out: Path | None = None,
    train: str = "lora",
    checkpointing: bool = True,
    student: str | None = None,
    quick: bool = False,
) -> dict:
    """Measures, prints the table and the bars, writes both as JSON, and returns them.

    Args:
        lengths: tokens of each of the four responses; 32, 128 and 512 unless given.
        repeats: timed rounds, in each of which every step runs once; the median counts.
        device: "cpu" or "cuda"; cuda where there is one unless given.
        out: the file; unless given `bench-<device>.json` among the shipped records of a checkout, else in the current
            folder, and none with `quick`, whose numbers mean nothing.
        train: "lora", as a pipeline trains, or "full" for all weights, the tied head among them.
        checkpointing: whether blocks compute their activations again in the backward pass, on every side alike.
        student: a source of weights; `quick` is a tiny random model and two short lengths, to see that all works.

    Raises:
        BadInput: a length, a count, a device or a way of training that cannot be used.
        CannotContinue: a step does not fit into memory.
    """
    lengths = sorted(set(lengths or (QUICK_LENGTHS if quick else LENGTHS)))
    if repeats is None:
        repeats = QUICK_REPEATS if quick else REPEATS
    device = _check(lengths, repeats, device, train)
    notes: list[str] = []
    base, tokenizer, name = load_student(student or (QUICK_STUDENT if quick else weights.BUILT_IN), device, notes)
    _check_fits(base, lengths)
    if train == "lora" and importlib.util.find_spec("peft") is None:
        train = "full"
        notes.append("peft is not installed: all weights are trained instead of a LoRA")
    lora_rank = LORA_RANK if train == "lora" else None
    dtype = resolve_dtype("default", device)
    rate = ProductRate(device, getattr(torch, dtype), quick)
    with tempfile.TemporaryDirectory() as scratch:
        table = Table(base, tokenizer, lora_rank, checkpointing, Path(scratch), notes, longest=lengths[-1],
                      dtype=getattr(torch, dtype))  # fmt: skip
        rows = table.measure(lengths, repeats, rate)
        bars = check_bars(rows, device)
        for bar in bars:
            if bar["passed"] is False:
                bar["profile"] = table.profile(bar)
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
        "products_per_second": rate.median,
        "rows": rows,
        "bars": bars,
    }
    print(render(record))
    if out is None and not quick:
        out = (data_folder() / "records" if checkout_folder() else Path()) / f"bench-{device}.json"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"\nWritten: {out}")
    return record


def _check(lengths: Sequence[int], repeats: int, device: str | None, train: str) -> str:
    """The device, once all else is seen to be usable."""
    if lengths[0] < 2:
        raise BadInput(f"lengths: a response needs at least 2 tokens, not {lengths[0]}")
    if repeats < 1:
        raise BadInput(f"repeats must be at least 1, not {repeats}")
    if train not in TRAIN:
        raise UnknownName("train", train, TRAIN)
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise BadInput("device: this torch finds no GPU; leave --device out, or say --device cpu")
    return device or ("cuda" if found else "cpu")


def load_student(source: str, device: str, notes: list[str]):
    """Model, tokenizer and name; random weights of the same shape where the built-in ones cannot be had."""
    try:
        return *weights.load(source, device=device), weights.checksum(source)
    except (CannotContinue, ImportError) as error:
        if source != weights.BUILT_IN:
            raise
        notes.append(f"random weights of SmolLM2-135M's shape, as time and memory do not depend on values ({error})")
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, attn_implementation="sdpa", **SHAPE)).eval()
    return model, None, "random"


def _check_fits(model, lengths: Sequence[int]) -> None:
    room = model.config.max_position_embeddings - PROMPT
    if lengths[-1] > room:
        raise BadInput(f"lengths: this model has room for responses of {room} tokens, not of {lengths[-1]}")
