"""Runs as tasks of a Ray cluster. What needs Ray is skipped where it is not installed (the extra `ray`)."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest

from alignkd_lab import cluster
from alignkd_lab.experiment import parts, run_experiment
from alignkd_lab.progress import VARIABLE, read_events
from alignkd_lab.recording import read_json

GAUSSIANS = "--world mog --algorithm dpo --seeds 0-1 --pipelines kd_then_align"  # ten cells
GAUSSIANS += " --set dpo_steps=20 dpo_pairs=500 em_iterations=50"
LANGUAGE = "--world lm --preset tiny --seeds 0-1 --pipelines orders"


# Parts


def test_the_parts_of_a_run_leave_the_records_of_the_whole(tmp_path):
    request = {"world": "mog", "preset": "tiny", "seeds": (0, 1), "pipelines": ("kd_then_align",)}
    request["overrides"] = {"beta": 2}  # of both algorithms, at every sharpening of the preset
    whole = run_experiment(**request, out=tmp_path / "whole")
    apart = [path for part in parts(request) for path in run_experiment(**part, out=tmp_path / "apart")]
    assert sorted(path.name for path in apart) == sorted(path.name for path in whole)
    for path in apart:
        assert figures(path) == figures(tmp_path / "whole" / "runs" / path.name)


def test_the_parts_of_a_run_of_the_language_world_are_its_seeds():
    assert [part.pop("seeds") for part in parts({"world": "lm", "preset": "gpu"})] == [(0,), (1,), (2,)]
    request = {"world": "lm", "preset": "tiny", "seeds": (4, 5), "pipelines": ("gkd",), "overrides": {"beta": 0.2}}
    assert parts(request) == [{**request, "seeds": (4,)}, {**request, "seeds": (5,)}]


def figures(path):
    return {name: entry["metrics"] for name, entry in read_json(path)["pipelines"].items()}


# A cluster


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """A cluster of three nodes with a CPU each, whose runs tell what they begin in `events`."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'alignkd-lab[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.DEFAULTS.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
        # Ray imports jsonschema. Where JupyterLab is installed, that builds a grammar of web addresses each time, 1.5 s
        # in each of thirty processes; without this package it leaves the one format unchecked.
        hidden = tmp_path_factory.mktemp("hidden")
        (hidden / "rfc3987_syntax.py").write_text("raise ImportError")
        patch.setenv("PYTHONPATH", f"{hidden}{os.pathsep}{Path(cluster.__file__).parent.parent}")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
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

    def start(options):
        command = [sys.executable, "-m", "alignkd_lab", "run", "--engine", "ray", "--address", nodes.address]
        command += [*options.split(), "--device", "cpu", "--out", str(tmp_path / "out")]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    return start


def ended(process):
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.ray
def test_a_node_killed_in_the_middle_loses_nothing_and_no_record_is_computed_twice(alignkd, nodes, tmp_path):
    process, started = alignkd(GAUSSIANS), time.monotonic()

    def begun():
        events = read_events(tmp_path / "events")
        return [(event["name"], event["at"]) for event in events if event["what"] == "part"]

    while not (done := cells(tmp_path / "out")) or len(begun()) - len(done) < 3:  # then all three nodes compute
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() - started < 90
        time.sleep(0.02)
    assert len(done) < 8, "too late to be the middle"
    nodes.remove_node(nodes.workers.pop(), allow_graceful=False)
    code, said = ended(process)
    assert code == 0, said
    held, starts = cells(tmp_path / "out"), begun()
    assert len(held) == 10
    assert {name for name, _ in starts} == set(held)
    assert max(Counter(name for name, _ in starts).values()) == 2, "no task was hit"
    assert all(at < held[name] for name, at in starts)

    next((tmp_path / "out" / "runs").glob("*.json")).write_text("{")
    code, said = ended(alignkd(GAUSSIANS))
    assert code == 2
    assert "1 of 10 tasks failed" in said
    assert "not a record" in said
    assert begun() == starts, "what is recorded was computed again"


def cells(out):
    """Of the Gaussian cells whose two seeds are recorded: as an event names them, and when the second was written."""
    written = defaultdict(list)
    for path in (out / "runs").glob("*.json"):
        record = read_json(path)
        settings = record["settings"]
        name = f"{record['algorithm']}, beta {settings['beta']:g}, sharpening {settings['sharpening']:g}"
        written[name].append(path.stat().st_mtime)
    return {name: max(times) for name, times in written.items() if len(times) == 2}


@pytest.mark.ray
def test_seeds_of_the_language_world_are_the_same_on_a_cluster(alignkd, tmp_path):
    code, said = ended(alignkd(LANGUAGE))
    assert code == 0, said
    names = ("kd_then_align", "align_then_kd")
    (alone,) = run_experiment(world="lm", preset="tiny", seeds=(1,), pipelines=names, device="cpu", out=tmp_path)
    runs = {read_json(path)["seed"]: path for path in (tmp_path / "out" / "runs").glob("*.json")}
    assert set(runs) == {0, 1}
    assert figures(runs[1]) == figures(alone)


@pytest.mark.ray
def test_ctrl_c_ends_the_tasks_and_says_how_to_go_on(alignkd, tmp_path):
    process, started = alignkd(GAUSSIANS), time.monotonic()
    while not read_events(tmp_path / "events"):
        assert time.monotonic() - started < 90
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    assert "to resume: alignkd run --engine ray --address" in said
    begun = read_events(tmp_path / "events")
    time.sleep(3)
    assert read_events(tmp_path / "events") == begun


@pytest.mark.ray
def test_without_its_token_a_cluster_lets_nobody_in(alignkd, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
    code, said = ended(alignkd(GAUSSIANS))
    assert code == 1
    assert "no cluster lets us in" in said
    assert "ray get-auth-token" in said
