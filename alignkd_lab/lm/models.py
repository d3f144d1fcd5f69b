"""Policies as models: the starting weights are read or made once, and a policy's adapters merged into a copy."""

from __future__ import annotations

import copy

import torch

from alignkd_lab.lm import weights
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.engines import Vllm
from alignkd_lab.lm.settings import HEALED, base_of_student
from alignkd_lab.lm.student import healed_student, student_identity
from alignkd_lab.lm.trainer import merge_adapter


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

    def for_sampling(self, model: torch.nn.Module) -> torch.nn.Module:
        return in_dtype(model, self.dtype)

    @staticmethod
    def identity(policy: Policy) -> str:
        """What a record names the policy's starting weights by."""
        return identity(policy.start)
