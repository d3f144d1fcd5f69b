"""`make gpu` runs its parts apart from one another, within its time, and says what became of each."""

import json
import sys

import pytest
import torch

from alignkd_lab.bench import gpu
from alignkd_lab.errors import BadInput
from alignkd_lab.options import METHODS
from alignkd_lab.paths import checkout_folder

LAST = "bench-2048"
BARS = '{"bars": [{"bar": "DPO: time", "passed": false}]}'


def script(text):
    return [sys.executable, "-I", "-c", text]


@pytest.fixture
def short(monkeypatch):
    """Stands in for the parts: the seed's run, one that fails, one that leaves a mark in a folder, and one more."""

    def replace(folder, middle="print(1)"):
        monkeypatch.setattr(gpu, "parts", lambda *_: {
            "seed": script("print('run')"),
            "bench-576": script("import sys; sys.exit('no kernel image')"),
            "marks": script(f"open({str(folder / 'marks')!r}, 'a').write('x')"),
            "middle": script(middle),
            LAST: script(f"open({str(folder / 'gpu-rehearsal/bench-2048/bench.json')!r}, 'w').write({BARS!r})"),
        })  # fmt: skip

    return replace


def statuses(record):
    return {name: entry["status"] for name, entry in record["parts"].items()}


def test_without_a_gpu_nothing_begins_and_a_checkout_is_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path)]) == 2
    assert "REHEARSE=1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(gpu, "checkout_folder", lambda: None)
    with pytest.raises(BadInput, match="checkout"):
        gpu.run_parts(tmp_path, rehearse=True)


def test_the_tests_that_it_runs_are_there(tmp_path):
    assert all((checkout_folder() / gpu.parts(tmp_path, on)["tests"][-1]).exists() for on in ("cpu", "cuda"))


def test_a_part_that_fails_is_told_with_its_error_and_the_others_run(tmp_path, short, capsys):
    short(tmp_path)
    assert gpu.main([str(tmp_path), "--rehearse"]) == 1
    record = json.loads((tmp_path / "gpu-rehearsal" / "record.json").read_text())
    failed = record["parts"]["bench-576"]
    assert (failed["status"], failed["error"]) == ("failed", "no kernel image")
    assert [name for name, status in statuses(record).items() if status != "done"] == ["bench-576"]
    assert record["seconds"] == pytest.approx(sum(entry["seconds"] for entry in record["parts"].values()))
    assert {"torch", "device_name", "commit"} <= record["provenance"].keys()
    seed, bench = record["bars"]  # the bench that failed has none
    assert (seed["passed"], seed["limit"]) == (True, 180)
    assert bench == {"bar": "bench-2048, DPO: time", "passed": False}
    assert "failed" in capsys.readouterr().out


def test_what_the_time_does_not_reach_is_stopped_or_named_as_not_run(tmp_path, short):
    short(tmp_path, middle="import time; time.sleep(60)")
    record = gpu.run_parts(tmp_path, rehearse=True, budget=8)
    assert (statuses(record)["middle"], statuses(record)[LAST]) == ("failed", "not run")
    assert "time for all parts was over" in record["parts"]["middle"]["error"]


def test_what_is_done_is_not_run_again_unless_code_or_card_changed(tmp_path, short, monkeypatch):
    short(tmp_path)
    made = {"commit": "a1", "dirty": False, "device_name": "a card"}
    monkeypatch.setattr(gpu, "provenance", lambda device: dict(made))
    for changes, marks in (({}, "x"), ({}, "x"), ({"commit": "b2"}, "xx"), ({"dirty": True}, "xxx")):
        made.update(changes)
        gpu.run_parts(tmp_path, rehearse=True)
        assert (tmp_path / "marks").read_text() == marks


def test_a_method_that_cannot_be_trained_is_told_and_the_others_are_trained(tmp_path, monkeypatch):
    def refuse(method, **options):
        if method == "kd":
            raise BadInput("teacher: none")

    monkeypatch.setattr(gpu, "train", refuse)
    assert gpu.main([str(tmp_path), "--train", "cpu"]) == 1
    told = json.loads((tmp_path / "told.json").read_text())
    assert told.pop("kd") == {"error": "BadInput: teacher: none"}
    assert told.keys() == METHODS.keys() - {"kd"}
    assert all(entry["seconds"] >= 0 for entry in told.values())
