"""The page on many runs: its commands are read by the programs that they name."""

import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignkd_lab.cli import build_parser

PAGE = (Path(__file__).parent.parent / "notebooks" / "SCALE.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]


def test_the_commands_of_the_page_are_read_and_its_options_exist():
    run, gaussians, report = (build_parser().parse_args(line[1:]) for line in COMMANDS if line[0] == "alignkd")
    assert (run.engine, run.seeds, run.num_cpus) == ("ray", tuple(range(20)), 8)
    assert (gaussians.engine, gaussians.num_gpus) == ("ray", 0)
    assert run.address == gaussians.address
    assert report.folder == run.out == gaussians.out
    asked = build_parser().parse_args(["run"])
    names = re.findall(r"^\| `--([a-z-]+)`", PAGE, re.MULTILINE)
    assert all(hasattr(asked, name.replace("-", "_")) for name in names)


def test_a_job_of_the_array_runs_its_seed(tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    told = tmp_path / "alignkd"
    told.write_text('#!/bin/sh\nprintf "%s\\n" "$OMP_NUM_THREADS" "$@"\n')
    told.chmod(0o755)
    given = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_SUBMIT_DIR": "/some where"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash"], input=script, env={"PATH": path, **given}, capture_output=True, text=True, check=True
    )
    threads, *argv = done.stdout.splitlines()
    asked = build_parser().parse_args(argv)
    assert threads == "8"
    assert (asked.world, asked.seeds, asked.out) == ("lm", (7,), Path("/some where/out"))


@pytest.mark.ray
def test_ray_knows_the_commands_of_the_page():
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'alignkd-lab[ray]'")
    from ray.scripts.scripts import cli

    asked = [line[1:] for line in COMMANDS if line[0] == "ray"]
    auth, head, worker = (
        cli.commands[name].make_context(name, [word for word in argv if word not in (">", "/dev/null")]).params
        for name, *argv in asked
    )
    assert auth["generate"]
    assert (head["head"], head["port"], worker["address"]) == (True, 6379, "head:6379")
