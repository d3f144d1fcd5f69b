"""Models of sources: of weights, or healed students."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from alignkd_lab.lm import weights
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.settings import HEALED, base_of_student
from alignkd_lab.lm.student import healed_student, student_identity
from alignkd_lab.lm.trainer import merge_adapter


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


class Models:
    """Policies as models on one device; the starting weights are read once. `dtype` is that of matrix products."""

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype
        self._starts: dict[str, torch.nn.Module] = {}

    def admit(self, start: str, *, reach: int, adapted: bool) -> None:
        """Reads the weights of a start and refuses what the fast path is not exact on (`lm.admission.admit`)."""
        admit(self._start(start), start, reach=reach, adapted=adapted)

    def _start(self, start: str) -> torch.nn.Module:
        if start not in self._starts:
            self._starts[start] = read(start)
        return self._starts[start]

    def of(self, policy: Policy) -> torch.nn.Module:
        """A fresh float32 model with the policy's adapters merged; the caller may train it."""
        model = copy.deepcopy(self._start(policy.start)).to(self.device)
        for adapter in policy.adapters:
            merge_adapter(model, adapter)
        return model.eval()

    def identity(self, start: str) -> str:
        """What a start's weights are named by."""
        return identity(start)
