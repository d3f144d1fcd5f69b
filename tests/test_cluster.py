"""Runs as tasks of a Ray cluster. What needs Ray is skipped where it is not installed (the extra `ray`)."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from alignkd_lab import cli, cluster
from alignkd_lab.experiment import parts, run_experiment
from alignkd_lab.progress import VARIABLE, read_events
from alignkd_lab.recording import read_json

GAUSSIANS = ["--world", "mog", "--preset", "tiny", "--seeds", "0-2"]
LANGUAGE = ["--world", "lm", "--preset", "tiny", "--seeds", "0-7", "--pipelines", "orders"]


# Parts


@pytest.mark.parametrize(
    "request_",
    [
        {"world": "mog", "preset": "tiny", "seeds": (0, 1), "pipelines": ("kd_then_align",), "algorithm": "dpo"},
        {"world": "mog", "preset": "tiny", "seeds": (3,), "pipelines": ("kd_then_align",), "overrides": {"beta": 2}},
        {"world": "lm", "preset": "tiny", "seeds": (0, 1), "pipelines": ("kd_then_align",)},
    ],
)
def test_the_parts_of_a_run_leave_the_records_of_the_whole(tmp_path, request_):
    whole = run_experiment(**request_, out=tmp_path / "whole")
    apart = [path for part in parts(request_) for path in run_experiment(**part, out=tmp_path / "apart")]
    assert sorted(path.name for path in apart) == sorted(path.name for path in whole)
    for path in apart:
        assert figures(path) == figures(tmp_path / "whole" / "runs" / path.name)


def figures(path):
    return {name: entry["metrics"] for name, entry in read_json(path)["pipelines"].items()}


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    {
        "--set nosuch=1": "setting 'nosuch' is unknown",
        "--world lm --target nosuch": "target 'nosuch' is unknown",
        "--world lm --seeds 1000003": "is the seed of the learning-rate trials",
        "--pipelines adpa": "'adpa' teaches by next-token distributions",
        "--num-cpus 0": "num_cpus must be a finite number above 0, not 0",
        "--num-cpus nan": "num_cpus must be a finite number",
        "--num-gpus -1": "num_gpus must be",
        "--num-gpus 1.5": "num_gpus must be a whole number",
        "--max-retries -1": "max_retries must be a whole number of at least 0",
        "--num-gpus 1 --device cpu": "num_gpus: 1 and device 'cpu' do not go together",
        "--num-gpus 0 --device cuda": "num_gpus: 0 and device 'cuda' do not go together",
        "": "engine: Ray is not installed; pip install 'alignkd-lab[ray]' brings it",
    }.items(),
)
def test_what_cannot_be_is_refused_before_a_cluster_is_asked(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["run", "--engine", "ray", "--world", "mog", "--preset", "tiny", "--out", str(tmp_path), *options.split()]
    assert cli.main(command) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--address auto", "--num-gpus 1 --engine local", "--engine ray --from x.json"])
def test_an_option_of_ray_without_ray_is_refused(options, capsys):
    assert cli.main(["run", "--world", "mog", *options.split()]) == 2
    assert "--engine ray" in capsys.readouterr().err


# A cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of three nodes with a CPU each, whose runs tell what they begin in `events`."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'alignkd-lab[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.DEFAULTS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
        patch.setenv("PYTHONPATH", str(Path(cluster.__file__).parent.parent))
        from ray.cluster_utils import Cluster

        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000}  # the dead are noticed sooner
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            made.workers = [made.add_node(num_cpus=1, wait=False) for _ in range(2)]
            made.wait_for_nodes()
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def alignkd(nodes, tmp_path, monkeypatch):
    """Starts `alignkd run` on the cluster."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "events"))

    def start(*arguments):
        command = [sys.executable, "-m", "alignkd_lab.cli", "run", "--engine", "ray", "--address", nodes.address]
        command += [*arguments, "--device", "cpu", "--out", str(tmp_path / "out")]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    return start


def ended(process):
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def records(out):
    return {path.name: path for path in (out / "runs").glob("*.json")}


@pytest.mark.ray
def test_a_node_killed_in_the_middle_loses_nothing_and_no_record_is_computed_twice(alignkd, nodes, tmp_path):
    started = time.monotonic()
    process = alignkd(*LANGUAGE)

    def begun():
        return [event for event in read_events(tmp_path / "events") if event["what"] == "seed"]

    while not (held := records(tmp_path / "out")) or len(begun()) - len(held) < 3:  # then all three are at work
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - started < 90
        time.sleep(0.02)
    nodes.remove_node(nodes.workers[0], allow_graceful=False)
    code, said = ended(process)
    assert code == 0, said
    held = records(tmp_path / "out")
    assert {read_json(path)["seed"] for path in held.values()} == set(range(8))
    assert max(Counter(event["seed"] for event in begun()).values()) == 2, "no task was hit"
    for path in held.values():
        starts = [event["at"] for event in begun() if event["seed"] == read_json(path)["seed"]]
        assert max(starts) < path.stat().st_mtime
    one = run_experiment(world="lm", preset="tiny", seeds=(3,), pipelines=("kd_then_align", "align_then_kd"),
                         device="cpu", out=tmp_path / "alone")  # fmt: skip
    assert figures(one[0]) == figures(held[one[0].name])

    events = len(read_events(tmp_path / "events"))
    assert ended(alignkd(*LANGUAGE))[0] == 0
    assert len(read_events(tmp_path / "events")) == events, "what is recorded was computed again"
