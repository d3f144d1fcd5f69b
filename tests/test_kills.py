"""Five kills and the other mishaps, in a process of its own (`tests/kills.py`, which says how to run fifty)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.kills
def test_what_is_killed_or_meets_a_mishap_is_resumed_to_the_record_of_an_undisturbed_run():
    kills = ["--kills", *os.environ.get("KILLS", "2 2 1").split(), "--scenes", "gaussians", "training"]
    command = [sys.executable, Path(__file__).with_name("kills.py"), *kills]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["world"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert list(rows) == ["gaussians", "language", "training"]
    assert rows["gaussians"]["scenes"] >= 6
    assert rows["training"]["scenes"] >= 2
