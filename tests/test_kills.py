"""Five kills, by a process of its own (`tests/kills.py`, which says how to run fifty)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.kills
def test_a_run_that_is_killed_anywhere_is_resumed_to_the_record_of_an_undisturbed_one():
    command = [
        sys.executable,
        Path(__file__).with_name("kills.py"),
        "--kills",
        *os.environ.get("KILLS", "2 2 1").split(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")][2:] == [
        "gaussians", "language", "training"
    ]  # fmt: skip
