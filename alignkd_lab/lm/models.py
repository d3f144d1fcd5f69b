"""Models of sources: of weights, or healed students."""

from __future__ import annotations

import copy

import torch

from alignkd_lab.lm import weights
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.settings import HEALED, base_of_student
from alignkd_lab.lm.student import healed_student, student_identity


def read(source: str, device: str | torch.device = "cpu") -> torch.nn.Module:
    """The model of a source of `lm.weights`, or a healed student (`healed`, `healed-16`, `healed:BASE`), in float32."""
    name, _, _ = source.partition(":")
    if HEALED.fullmatch(name):
        return healed_student(base_of_student(source), name).to(device)
    return weights.load(source, device=str(device))[0]


def identity(source: str) -> str:
    """What a record names the weights of such a source by."""
    name, _, _ = source.partition(":")
    return student_identity(base_of_student(source), name) if HEALED.fullmatch(name) else weights.checksum(source)


def in_dtype(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of the model in `dtype`, to sample from; the model itself where that is float32, or an engine's."""
    return model if dtype == torch.float32 or isinstance(model, Vllm) else copy.deepcopy(model).to(dtype)
