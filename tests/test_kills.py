"""Five kills and the other mishaps, in a process of its own (`tests/kills.py`, which says how to run fifty)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def table(*options):
    """Rows by world, of columns by their heads."""
    command = [sys.executable, Path(__file__).with_name("kills.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    heads, _, *rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


@pytest.mark.kills
def test_what_is_killed_or_meets_a_mishap_is_resumed_to_the_record_of_an_undisturbed_run():
    rows = table("--kills", *os.environ.get("KILLS", "2 2 1").split(), "--scenes", "gaussians")
    assert list(rows) == ["gaussians", "language", "training"]
    assert {row["lost"] for row in rows.values()} == {"0"}
    assert int(rows["gaussians"]["scenes"]) >= 6
