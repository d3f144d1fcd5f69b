"""Progress: a run tells what happens, where somebody watches."""

import time

import pytest

from alignkd_lab import progress


def test_events_are_told_only_where_somebody_watches(tmp_path, monkeypatch):
    path = tmp_path / "told"
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    progress.tell("seed", seed=1)
    assert progress.read_events(path) == []
    monkeypatch.setenv(progress.VARIABLE, str(path))
    progress.tell("seed", seed=1)
    with path.open("a") as file:
        file.write('{"what": "un')  # a line that is being written
    (only,) = progress.read_events(path)
    assert (only["what"], only["seed"]) == ("seed", 1)
    assert only["at"] == pytest.approx(time.time(), abs=60)
