"""Results kept in folders that are named by what they depend on: a second run picks up where the first one stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def key_of(depends: dict) -> str:
    """A short hash of all that a result depends on."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True, default=str).encode()).hexdigest()[:16]


def part(kind: type[Settings], settings: Any, **given: Any) -> Settings:
    """The settings of one stage out of those of a run: every field of `kind` that `settings` has, and what is given."""
    names = [field.name for field in dataclasses.fields(kind) if hasattr(settings, field.name)]
    return kind(**{name: getattr(settings, name) for name in names} | given)


def changed(settings: Any) -> dict[str, Any]:
    """What a result's key holds of the settings (a dataclass) that it depends on: all that are not at their default.

    So a new setting, whose default does what the code did before, orphans nothing. But a default that is changed would
    find results of the old one: whoever changes it raises the code version of each stage that reads it
    (`tests/test_stage_settings.py` holds the defaults of every version).
    """
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != defaults[name]}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def written_aside(folder: Path, mark: str) -> Iterator[Path]:
    """A scratch folder, moved to `folder` whole at the end, unless another process put its file `mark` there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="writing-") as scratch:
        made = Path(scratch) / "result"
        made.mkdir()
        yield made
        try:
            os.replace(made, folder)
        except OSError:
            if not (folder / mark).is_file():
                raise


def write_json(value: Any, folder: Path) -> None:
    (folder / "value.json").write_text(json.dumps(value))


def read_json(folder: Path) -> Any:
    return json.loads((folder / "value.json").read_text())


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
        with written_aside(folder, "depends.json") as made:
            save(result, made)
            (made / "depends.json").write_text(json.dumps(depends, indent=1, sort_keys=True, default=str))
        return result

    def keep_json(self, kind: str, depends: dict, make: Callable[[], dict]) -> dict:
        return self.keep(kind, depends, make, write_json, read_json)
