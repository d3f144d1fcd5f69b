"""Results kept in folders that are named by what they depend on: a second run picks up where the first one stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from alignkd_lab.errors import CannotContinue

_MARK, _SUMS, _ALIVE = "depends.json", "checksums.json", "alive.lock"
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
def scratch_folder(parent: Path, prefix: str = "writing-") -> Iterator[Path]:
    """A folder below `parent` that goes at the end; so do those that killed processes left there."""
    from filelock import FileLock, Timeout

    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{prefix}*/{_ALIVE}"):
        # A living process holds its lock. One that is about to take it made its folder a moment ago.
        with contextlib.suppress(OSError, Timeout):
            if time.time() - left.stat().st_mtime > 3600:
                with FileLock(left, timeout=0):
                    shutil.rmtree(left.parent, ignore_errors=True)
    folder = tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True)
    with folder as scratch, FileLock(Path(scratch) / _ALIVE):
        yield Path(scratch)


@contextlib.contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A scratch folder, sealed and moved to `folder` at the end, unless another process put a whole one there.

    Raises:
        CannotContinue: the disk is full, read-only or broken; nothing is left in `folder` then.
    """
    try:
        with scratch_folder(folder.parent) as scratch:
            made = scratch / "result"
            made.mkdir()
            yield made
            seal(made)
            try:
                os.replace(made, folder)
            except OSError:
                if not folder.is_dir():
                    raise
                if damage(folder):
                    os.replace(folder, scratch / "damaged")
                    os.replace(made, folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise CannotContinue(
            f"{folder} cannot be written ({error}); free some space and run again, or name another folder"
        ) from error


def seal(folder: Path) -> None:
    """Notes the checksum of every file in the folder, as the last thing that is written there."""
    sums = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / _SUMS).write_text(json.dumps(sums, indent=1))


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that should be sealed, in words; None where nothing is."""
    try:
        sums = dict(json.loads((folder / _SUMS).read_text()))
        wrong = [name for name, found in sums.items() if file_sha256(folder / name) != found]
    except (OSError, ValueError, TypeError) as error:
        return str(error)
    return f"{wrong[0]} does not have its checksum" if wrong else None


def need_room(folder: Path, needed: float, way_out: str) -> None:
    """Raises CannotContinue where the disk of a folder has less room than so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"{needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free"
        raise CannotContinue(f"{folder}: {sizes}; {way_out}")


def safe_name(text: object) -> str:
    """The text as one part of a file's name, whatever it holds; a name may have 255 bytes."""
    return re.sub(r"[^\w.,=+@()\[\] -]", "_", str(text)).encode()[:120].decode(errors="ignore")


def write_whole(path: Path, text: str) -> None:
    """Written aside, each process for itself, and moved into place: whoever is killed on the way tears nothing."""
    scratch = path.with_suffix(f".{os.getpid()}.writing")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def write_json(value: Any, folder: Path) -> None:
    (folder / "value.json").write_text(json.dumps(value))


def read_json(folder: Path) -> Any:
    return json.loads((folder / "value.json").read_text())


class Store:
    """Results kept in folders named by what they depend on, written aside and moved into place, with checksums."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def keep(self, kind: str, depends: dict, make: Callable, save: Callable, load: Callable):
        """The kept result of `depends`, or `make()` saved with `save(result, folder)`; a damaged one is made anew.

        Raises:
            CannotContinue: the result cannot be written.
        """
        folder = self._folder(kind, depends)
        if (folder / _MARK).is_file():
            wrong = damage(folder)
            if not wrong:
                return load(folder)
            print(f"{folder} is damaged ({wrong}) and is made anew", file=sys.stderr)
        result = make()
        with written_aside(folder) as made:
            save(result, made)
            (made / _MARK).write_text(json.dumps(depends, indent=1, sort_keys=True, default=str))
        return result

    def keep_json(self, kind: str, depends: dict, make: Callable[[], Any]) -> Any:
        return self.keep(kind, depends, make, write_json, read_json)

    def keep_folder(self, kind: str, depends: dict, write: Callable[[Path], None]) -> Path:
        """The folder of what is kept, for what is not to be read whole; `write` makes it in the folder that it gets."""
        self.keep(kind, depends, lambda: None, lambda _, made: write(made), lambda folder: None)
        return self._folder(kind, depends)

    def _folder(self, kind: str, depends: dict) -> Path:
        return self.root / f"{kind}-{key_of(depends)}"
