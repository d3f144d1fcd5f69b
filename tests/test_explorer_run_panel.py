"""The run panel: fields to a command line, buttons, what it says while a run goes on, and what it shows at its end."""

import time
from pathlib import Path

import pytest
from ipywidgets import Dropdown
from test_explorer_runs import gone

from alignkd_lab import records
from alignkd_lab.course.explorers import run_panel, run_picture, runs
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.errors import BadInput, UnknownName


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path / "learner"))
    monkeypatch.setattr(run_panel, "get_ready", lambda: None)


def ended(panel, seconds=120.0):
    until = time.monotonic() + seconds
    while panel.refresh() == "running" and time.monotonic() < until:
        time.sleep(0.1)
    return panel.run.status


def test_it_would_run_both_orders_on_gaussians_with_seeds_that_nobody_has_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    panel = run_panel.show(out=tmp_path)
    line = "alignkd run --world mog --preset laptop --pipelines orders --algorithm rlhf --seeds 20-39"
    assert panel.request().command == f"{line} --set sharpening=2.0 beta=0.5 --out {tmp_path}"
    # Broken anywhere, or it would be clipped; whole, since a shell takes no quoted ~ for the home folder.
    assert f"overflow-wrap:anywhere'>{panel.request().command}</code>" in panel.line.value
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (False, True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mog-laptop-dpo-x-0-seed41.json").touch()
    assert run_panel.show(out=tmp_path).request().seeds == "42-61"
    panel.controls["world"].value = "lm"
    line = "alignkd run --world lm --preset tiny --pipelines orders --seeds 10"
    assert panel.request().command == f"{line} --out {tmp_path}"
    assert run_panel.show("lm").out == tmp_path / "learner" / "runs"  # apart from the project


@pytest.mark.parametrize("world", ["lm", "mog"])
def test_every_control_over_its_whole_range_leaves_a_command_line_or_a_clear_sentence(world, monkeypatch):
    monkeypatch.setattr(run_picture, "machine_rates", lambda: run_picture.Rates(1e9, 1e9, 1e9, "cpu", "made up"))
    panel = run_panel.show(world)
    for name, control in panel.controls.items():
        assert control.tooltip == control.description != ""
        kept = control.value
        offered = dict(control.options).values() if isinstance(control, Dropdown) else ["", "0", "beta=0.7", "no"]
        for value in offered:
            control.value = value
            assert ("In a terminal" in panel.line.value) != ("cannot run" in panel.line.value)
            assert value in panel.request().command or "cannot run" in panel.line.value
        if name != "world":
            control.value = kept


def test_a_run_is_started_stopped_goes_on_leaves_its_record_and_has_then_nothing_to_do(tmp_path):
    panel = run_panel.show(out=tmp_path, seeds="0")
    panel.start_button.click()
    assert "<strong>running</strong>" in panel.status.value
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (True, False)
    assert panel.controls["world"].disabled
    again, run = run_panel.show(out=tmp_path), panel.run
    assert again.run is run is runs.under_way(tmp_path)
    with pytest.raises(BadInput, match="under way"):
        run.start()
    again.stop_button.click()
    assert ended(again, 15) == ended(panel, 15) == "stopped"
    assert gone(run._process.pid)
    assert runs.under_way(tmp_path) is None
    assert "<strong>stopped</strong>" in panel.status.value
    panel.start_button.click()
    assert ended(panel) == "finished"
    begun, *units, last = panel.run.events()
    assert [event["what"] for event in (begun, *units, last)] == ["part", *["unit"] * begun["units"], "end"]
    held = records.load(*panel.run.files)
    assert (held.seeds, held.the_run()["algorithm"], held.settings["sharpening"]) == ([0], "rlhf", 2.0)
    assert f"<strong>finished</strong>: the records are in {tmp_path}" in panel.status.value
    assert panel.picture.value.count("<img") == 1
    assert panel.controls["seeds"].value == "20-39"  # something new again
    assert not panel.start_button.disabled
    panel.controls["seeds"].value = "0"
    panel.start_button.click()
    assert ended(panel) == "finished"
    assert [event["what"] for event in panel.run.events()] == ["end"]
    Path(panel.run.files[0]).write_text("<torn>")
    panel.controls["seeds"].value = "0"
    panel.start_button.click()
    assert ended(panel) == "failed"
    assert "not a record" in panel.status.value
    assert "remove it and run its seed again" in panel.run.error
    assert "RecordError" in panel.run.log.read_text()


def test_a_run_on_text_draws_its_curves_as_they_grow(tmp_path):
    panel = run_panel.show("lm", out=tmp_path)
    panel.start_button.click()
    seen = set()
    while panel.refresh() == "running":
        seen.add(panel.picture.value)
        time.sleep(0.2)
    assert panel.run.status == "finished"
    grown = [picture for picture in seen if "Reward and KL along every alignment so far." in picture]
    assert len(grown) >= 2
    assert "Tiny preset" in panel.picture.value


def test_wrong_input_and_an_error_of_the_drawing_stand_in_the_panel(tmp_path, monkeypatch):
    panel = run_panel.show(out=tmp_path, seeds="5-1")
    assert "runs backwards" in panel.line.value
    panel.start_button.click()
    assert "<strong>not started</strong>: the range &#x27;5-1&#x27; runs backwards" in panel.status.value
    assert panel.run is None

    def broken(*standing):
        raise RuntimeError("no ink")

    monkeypatch.setattr(run_picture, "standing", broken)
    panel = run_panel.show(out=tmp_path)
    with pytest.raises(RuntimeError, match="no ink"):
        panel.start()
    assert "this panel cannot show the run: no ink" in panel.status.value
    panel.stop_button.click()
    for refused in ({"world": "gaussians"}, {"pipelines": "adpa"}):  # what the panel does not offer
        with pytest.raises(UnknownName, match=str(*refused.values())):
            run_panel.show(out=tmp_path, **refused)


@pytest.mark.parametrize("world", ["lm", "mog"])
def test_without_a_kernel_a_recorded_run_stands_there(world):
    bundle, size = run_panel.show(world)._repr_mimebundle_()
    assert WIDGET_VIEW in bundle
    assert "Recorded run." in bundle["text/plain"]
    assert len(bundle["image/png"]) < 400_000
    assert size["image/png"]["alt"] == bundle["text/plain"]
