"""Results kept in folders that are named by what they depend on: a second run picks up where the first one stopped."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def key_of(depends: dict) -> str:
    """A short hash of all that a result depends on."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:16]


class Store:
    """Results kept in folders named by what they depend on, written aside and moved into place."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def keep(self, kind: str, depends: dict, make: Callable, save: Callable, load: Callable):
        """The kept result of `depends`, or `make()` saved with `save(result, folder)`."""
        folder = self.root / f"{kind}-{key_of(depends)}"
        if (folder / "depends.json").is_file():
            return load(folder)
        result = make()
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix="writing-") as scratch:
            made = Path(scratch) / "result"
            made.mkdir()
            save(result, made)
            (made / "depends.json").write_text(json.dumps(depends, indent=1, sort_keys=True, default=str))
            try:
                os.replace(made, folder)
            except OSError:  # another process finished the same result first
                if not (folder / "depends.json").is_file():
                    raise
        return result
