"""Checkpoints of one training: each is there whole with all that the steps told, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import torch

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.batch import Example, plain
from alignkd_lab.store import damage, seal

_TOLD, _OF = "told.pt", "training.json"


class Checkpoints:
    """The newest checkpoint of a training in `folder`; `training` are the settings and data that it belongs to."""

    def __init__(self, folder: Path, training: dict) -> None:
        self.folder, self._training = Path(folder), training

    def take(self, made: Path, infos: list) -> None:
        """Moves a checkpoint into place, together with `(loss, info)` of every step; the older one goes."""
        told = [(value, type(info).__name__, info._asdict()) for value, info in infos]
        torch.save(told, made / _TOLD)
        (made / _OF).write_text(json.dumps(self._training))
        seal(made)
        older = list(self.folder.glob("checkpoint-*"))
        if self.folder / made.name in older:  # a damaged one, or training would have gone on from it
            shutil.rmtree(self.folder / made.name)
        os.replace(made, self.folder / made.name)
        for path in older:
            if path.name != made.name:
                shutil.rmtree(path, ignore_errors=True)

    def newest(self) -> tuple[str | None, list]:
        """The newest whole checkpoint, None where there is none, and what its steps told.

        Raises:
            BadInput: it is that of another training.
        """
        for path in sorted(self.folder.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
            if wrong := damage(path) or ("" if (path / _TOLD).is_file() else f"it holds no {_TOLD}"):
                print(f"{path} is damaged ({wrong}) and not used", file=sys.stderr)
                continue
            held = json.loads((path / _OF).read_text())
            if other := [name for name in self._training if held.get(name) != self._training[name]]:
                raise BadInput(
                    f"checkpoints: {self.folder} holds those of another training ({', '.join(other)} differ); name "
                    "another folder, or delete it to start anew"
                )
            return str(path), [_info(*told) for told in torch.load(path / _TOLD, weights_only=True)]
        return None, []


def _info(value: float, name: str, fields: dict):
    return value, namedtuple(name, fields)(**fields)


def describe(model, examples: list[Example]) -> dict:
    """Checksums of the examples and of the weights that are not trained, of each of them the first 4096 numbers."""
    read, frozen = hashlib.sha256(), hashlib.sha256()
    for row in examples:
        ids = [list(tokens) for tokens in (row.prompt, *row.responses)]  # which may be arrays
        read.update(json.dumps([ids, row.roles, row.reference_log_probs]).encode())
    for name, weight in plain(model).named_parameters():
        known = [] if weight.requires_grad else weight.detach().flatten()[:4096].float().tolist()
        frozen.update(json.dumps([name, list(weight.shape), known]).encode())
    return {"examples": read.hexdigest(), "model": frozen.hexdigest()}
