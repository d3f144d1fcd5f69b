"""Models of sources: of weights, or healed students."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from alignkd_lab.lm import weights
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.settings import HEALED, base_of_student
from alignkd_lab.lm.student import healed_student, student_identity


def load(source: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"):
    """(model, tokenizer) of a source, the model in eval mode and its weights in `dtype`.

    A source is `smollm2-135m-instruct`, which is built in; `owner/name@revision` of the hub; the folder of a model or
    of an adapter; or a healed student (`healed`, `healed-16`, `healed:BASE`). What is read is what `lm.weights.load`
    says, and it raises the same errors.
    """
    source = str(source)
    name, _, _ = source.partition(":")
    if HEALED.fullmatch(name):
        model = healed_student(base_of_student(source), name)
        return model.to(device=device, dtype=dtype), weights.load_tokenizer(source)
    return weights.load(source, dtype=dtype, device=str(device))


def read(source: str, device: str | torch.device = "cpu") -> torch.nn.Module:
    """The model of a source, in float32."""
    return load(source, device=device)[0]


def identity(source: str) -> str:
    """What a record names the weights of such a source by."""
    name, _, _ = source.partition(":")
    return student_identity(base_of_student(source), name) if HEALED.fullmatch(name) else weights.checksum(source)


def in_dtype(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of the model in `dtype`, to sample from; the model itself where that is float32, or an engine's."""
    return model if dtype == torch.float32 or isinstance(model, Vllm) else copy.deepcopy(model).to(dtype)
