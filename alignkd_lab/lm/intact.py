"""Whether weights on disk are whole: what was made here has its checksums; the hub names its files by theirs."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from alignkd_lab.errors import CannotContinue
from alignkd_lab.store import damage, file_sha256


def is_whole(folder: Path) -> bool:
    """Whether no file is missing, of a download that may have been cut off: the hub's cache gives back what it has.

    Raises:
        CannotContinue: a file of weights is damaged.
    """
    index, words = folder / "model.safetensors.index.json", ("tokenizer.json", "tokenizer.model", "vocab.json")
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    has = {path.name for path in folder.iterdir() if path.exists()}  # a link to nothing is a file that is missing
    if not ({"config.json", *shards} <= has and any(name in has for name in words)):
        return False
    for name in shards:
        # The hub's cache links to its blobs, which are named by the checksum of what they hold.
        blob = (folder / name).resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob, *_stamp(blob)) != blob.name:
            raise CannotContinue(f"weights: {blob} does not have its checksum; delete it and run again")
    return True


def is_sound(folder: Path) -> bool:
    """Whether a folder that was sealed here is as it was then; looked at once a process while its files stay."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return bool(files) and _damage(folder, tuple(_stamp(path) for path in files)) is None


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


@functools.cache
def _sha256(path: Path, *stamp: int) -> str:
    return file_sha256(path)


@functools.cache
def _damage(folder: Path, stamps: tuple) -> str | None:
    return damage(folder)
