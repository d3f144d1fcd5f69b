"""A policy of the language world: a starting model and the adapters that stages have added to it."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from alignkd_lab.lm import weights
from alignkd_lab.lm.settings import HEALED
from alignkd_lab.lm.student import healed_student, student_identity
from alignkd_lab.lm.trainer import load_adapter, merge_adapter, save_adapter


@dataclass
class Policy:
    """Adapters on a start; each is `W += B A` on the layers that it names.

    `start` is a source of weights, or `<name>:<source>` for its healed student of that name (`lm.student`).
    """

    start: str
    adapters: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def weights(self) -> str:
        """What a record names the starting weights by."""
        name, _, base = self.start.partition(":")
        return student_identity(base, name) if HEALED.fullmatch(name) else weights.checksum(self.start)

    @property
    def digest(self) -> str:
        """A hash of what the policy is, whatever made it."""
        made = hashlib.sha256(self.start.encode())
        for adapter in self.adapters:
            for name in sorted(adapter):
                made.update(name.encode() + adapter[name].numpy().tobytes())
        return made.hexdigest()[:16]

    def with_adapter(self, adapter: dict[str, Tensor]) -> Policy:
        return Policy(self.start, [*self.adapters, adapter])

    def save(self, folder: Path) -> None:
        for index, adapter in enumerate(self.adapters):
            save_adapter(folder / f"adapter-{index}.safetensors", adapter)
        (folder / "policy.json").write_text(json.dumps({"start": self.start, "adapters": len(self.adapters)}))

    @staticmethod
    def read(folder: Path) -> Policy:
        written = json.loads((folder / "policy.json").read_text())
        adapters = [load_adapter(folder / f"adapter-{index}.safetensors") for index in range(written["adapters"])]
        return Policy(written["start"], adapters)


class Models:
    """Policies as models on one device; the starting weights are read once. `dtype` is that of matrix products."""

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = device, dtype
        self._starts: dict[str, torch.nn.Module] = {}

    def of(self, policy: Policy) -> torch.nn.Module:
        """A fresh float32 model with the policy's adapters merged; the caller may train it."""
        if policy.start not in self._starts:
            name, _, base = policy.start.partition(":")
            healed = HEALED.fullmatch(name)
            self._starts[policy.start] = healed_student(base, name) if healed else weights.load(policy.start)[0]
        model = copy.deepcopy(self._starts[policy.start]).to(self.device)
        for adapter in policy.adapters:
            merge_adapter(model, adapter)
        return model.eval()

    def for_sampling(self, model: torch.nn.Module) -> torch.nn.Module:
        """A copy of the model in `dtype`; the model itself where that is float32."""
        return model if self.dtype == torch.float32 else copy.deepcopy(model).to(self.dtype)
