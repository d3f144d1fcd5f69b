"""A policy of the language world: a starting model and the adapters that stages have added to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass
class Policy:
    """Adapters on a start; each is `W += B A` on the layers that it names.

    `start` is a source of weights, or `<name>:<source>` for its healed student of that name (`lm.student`).
    """

    start: str
    adapters: list[dict[str, Tensor]] = field(default_factory=list)

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
            save_file(adapter, folder / f"adapter-{index}.safetensors")
        (folder / "policy.json").write_text(json.dumps({"start": self.start, "adapters": len(self.adapters)}))

    @staticmethod
    def read(folder: Path) -> Policy:
        written = json.loads((folder / "policy.json").read_text())
        adapters = [load_file(folder / f"adapter-{index}.safetensors") for index in range(written["adapters"])]
        return Policy(written["start"], adapters)
