"""`alignkd sample`: a model's answers to the prompts of a file, in the format that a judge reads."""

from __future__ import annotations

from pathlib import Path

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.answer_formats import FORMATS
from alignkd_lab.lm.engines import Vllm, check_engine
from alignkd_lab.lm.own_prompts import read_prompts
from alignkd_lab.lm.request import check_policy
from alignkd_lab.paths import make_folder
from alignkd_lab.ranges import check_choice, check_number


def sample_to(
    model: str, *, prompts: str | Path, out: str | Path, format: str = "jsonl", temperature: float = 1.0,
    max_tokens: int = 512, seed: int = 0, device: str | None = None, dtype: str = "default", engine: str = "own",
) -> int:  # fmt: skip
    """Writes one answer of `model` to each prompt of a file, and returns how many there are.

    Args:
        model: a source as `alignkd train --student` takes.
        format: `jsonl` (`prompt`, `response`, `ended`), `mt-bench` (all turns are asked) or `alpaca-eval` (one JSON
            list); the last two name the model as its folder is called.
        engine: what writes, `own` or `vllm` (`lm.engines`), whose draws are others.

    Raises:
        BadInput: an option, the file or the model cannot be used.
        CannotContinue: network, disk or memory.
    """
    check_policy("model", model)
    check_engine(engine, model)
    check_choice("format", format, tuple(FORMATS))
    check_number("temperature", temperature, above=0)
    check_number("max_tokens", max_tokens, least=1, whole=True)
    check_number("seed", seed, least=0, whole=True)
    out, name = Path(out), Path(model).resolve().name if Path(model).is_dir() else model
    if out.exists():
        raise BadInput(f"out: {out} is there already; name another file")
    rows = read_prompts(prompts, strict=True).rows
    FORMATS[format].check(rows)
    make_folder(out.parent)
    import torch

    from alignkd_lab.dtypes import resolve_dtype
    from alignkd_lab.lm import models, weights
    from alignkd_lab.lm.answers import converse, encode_prompts
    from alignkd_lab.lm.settings import base_of_student
    from alignkd_lab.provenance import best_device

    device = best_device(device)
    dtype = getattr(torch, resolve_dtype(dtype, device))
    tokenizer = weights.load_tokenizer(base_of_student(model))
    encode_prompts(tokenizer, rows)  # what the chat template refuses is refused before weights are read
    policy = Vllm(weights.resolve(model), dtype) if engine == "vllm" else models.read(model, device)
    answers = converse(policy, tokenizer, model, rows, max_tokens=max_tokens, seed=seed, temperature=temperature,
                       dtype=dtype)  # fmt: skip
    out.write_text(FORMATS[format].write(rows, answers, name), encoding="utf-8")
    return len(rows)
