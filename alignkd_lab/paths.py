"""Where the shipped data lies, and where this machine keeps what is made once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from alignkd_lab.errors import BadInput, refusing

_PACKAGE = Path(__file__).resolve().parent


def checkout_folder() -> Path | None:
    """The source checkout that this package runs from, or None for an installed wheel."""
    root = _PACKAGE.parent
    # pyproject.toml tells a checkout from a site-packages that happens to hold a folder called data.
    return root if (root / "pyproject.toml").is_file() and (root / "data").is_dir() else None


def data_folder() -> Path:
    """Prompts, the student's adapter and the recorded runs: the checkout's `data`, else the wheel's copy."""
    root = checkout_folder()
    return root / "data" if root else _PACKAGE / "_data"


def cache_folder() -> Path:
    """The user's cache, not yet created; `ALIGNKD_CACHE` names another place."""
    return _of_user("ALIGNKD_CACHE", "user_cache_dir")


def learner_folder() -> Path:
    """What a learner writes, apart from the project and the cache; `ALIGNKD_ANSWERS` names another place."""
    return _of_user("ALIGNKD_ANSWERS", "user_data_dir")


def _of_user(variable: str, kind: str) -> Path:
    if chosen := os.environ.get(variable):
        return Path(chosen).expanduser().resolve()
    import platformdirs

    return Path(getattr(platformdirs, kind)("alignkd", appauthor=False))


def make_folder(folder: Path) -> None:
    """Makes a folder that something is to be written to. Raises BadInput where that cannot be."""
    with refusing(f"out: {folder} cannot be made a folder", OSError, way_out="name another"):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"out: {folder} cannot be written to; name another folder, or change its rights")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Raises BadInput where another command on this machine is writing to the folder."""
    from filelock import FileLock, Timeout

    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"alignkd-{os.getuid()}-{digest}.lock"
    try:
        lock = FileLock(place).acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"out: another command is writing to {folder}; wait for it, or name another folder") from error
    with lock:
        yield
