"""What the learner answered, on the learner's own disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from alignkd_lab.paths import learner_folder
from alignkd_lab.store import write_whole


def kept_answers() -> dict[str, dict]:
    """`{id: {"answer": value or None, "sure": words or None}}`; an answer of None was skipped by "Show me".

    A damaged file is set aside, so that one bad day on the disk does not lock the course; what the disk refuses to
    give counts as none, but nothing is written over it.
    """
    try:
        return _read()
    except OSError:
        return {}


def _read() -> dict[str, dict]:
    path = _answers_file()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        kept = None
    if isinstance(kept, dict) and all(isinstance(entry, dict) for entry in kept.values()):
        return kept
    os.replace(path, path.with_suffix(".damaged"))
    return {}


def keep_answer(id: str, answer: Any, sure: str | None = None) -> None:
    """Write an answer to the learner's disk, whole or not at all. Raises OSError where that cannot be done."""
    _write({**_read(), id: {"answer": answer, "sure": sure}})


def forget_answer(id: str) -> None:
    """As if the question had never been answered. Raises OSError where that cannot be done."""
    kept = _read()
    if kept.pop(id, None) is not None:
        _write(kept)


def _write(kept: dict[str, dict]) -> None:
    path = _answers_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(kept, indent=1))


def _answers_file() -> Path:
    return learner_folder() / "answers.json"
