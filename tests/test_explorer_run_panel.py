"""The run panel: fields to a command line, buttons, what it says while a run goes on, and what it shows at its end."""

import re
import shlex
import sys
import textwrap
import types

import pytest
from ipywidgets import BoundedFloatText, Dropdown
from synthetic_records import mog_record

from alignkd_lab import claims, cli, recording
from alignkd_lab.course.explorers import run_panel, run_picture, runs
from alignkd_lab.course.explorers.runs import STATUSES, Request
from alignkd_lab.course.notebooks import WIDGET_VIEW
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.rewards import TARGETS
from alignkd_lab.plots.verdicts import in_short
from alignkd_lab.presets import PRESETS

CELL = {"sharpening": 2.0, "beta": 0.5}

# A run on text in small: its events, and in the end a record of the shipped run's shape.
STORY = """
    import shutil, sys, time
    from alignkd_lab.progress import tell
    tell("seed", seed=0, number=1, seeds=1, units=9)
    tell("unit", pipeline="base_aligned", stage="base_aligned")
    for step in (0, 2, 4):
        tell("curve", stage="base_aligned", step=step, reward=0.1 * step, kl=float(step), target_rate=0.1)
    {end}
"""


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path / "learner"))
    monkeypatch.setattr(run_panel, "POLL", 0.02)
    yield
    runs.end_all()


@pytest.fixture
def story(tmp_path, monkeypatch):
    """Lets the child end as it is told to."""

    def ends(end):
        path = tmp_path / "story.py"
        path.write_text(textwrap.dedent(STORY).format(end=end))
        monkeypatch.setattr(runs, "CHILD", (sys.executable, str(path)))

    return ends


def status(panel):
    """The one status word that the status line holds."""
    text = re.sub("<[^>]*>", " ", panel.status.value)
    (found,) = [word for word in STATUSES if word in text]
    return found


def command(panel):
    return panel.request().command


# The fields


def test_a_panel_is_ready_and_says_what_it_would_run(tmp_path):
    panel = run_panel.show(out=tmp_path)
    assert status(panel) == "ready"
    assert command(panel) == f"alignkd run --world lm --preset tiny --pipelines orders --out {tmp_path}"
    assert "well under a minute" in panel.line.value
    assert [button.description for button in (panel.start_button, panel.stop_button)] == ["Start", "Stop"]
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (False, True)
    assert run_panel.show().request().out == tmp_path / "learner" / "runs"  # apart from the project


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("world", "mog", "--world mog"),
        ("preset", "laptop", "--preset laptop"),
        ("pipelines", "orders,controls", "--pipelines orders,controls"),
        ("algorithm", "rlhf", "--algorithm rlhf"),
        ("target", "simile", "--target simile"),
        ("kd_temperature", 0.9, "--set kd_temperature=0.9"),
        ("beta", 0.3, "--set beta=0.3"),
        ("seeds", " 0-2 ", "--seeds 0-2"),
        ("settings", "align_steps=8 reward=rule", "--set align_steps=8 reward=rule"),
        ("out", "elsewhere", "--out elsewhere"),
    ],
)
def test_every_field_reaches_the_command_line(tmp_path, field, value, words):
    panel = run_panel.show(out=tmp_path)
    panel.controls[field].value = value
    assert words in command(panel)
    assert words in panel.line.value
    cli.build_parser().parse_args(shlex.split(command(panel))[1:])


def test_one_cell_of_the_gaussian_world_has_two_numbers():
    panel = run_panel.show("mog", "laptop")
    assert "--set" not in command(panel)
    panel.controls["cells"].value = "one"
    panel.controls["sharpening"].value = 3.0
    assert command(panel).count("sharpening=3.0 beta=0.5") == 1
    assert panel.request().cells() == 2  # both algorithms


def test_numbers_follow_the_preset_and_the_algorithm_and_what_is_written_by_hand_goes_before():
    assert "--set rlhf_beta=0.4" in command(run_panel.show(algorithm="rlhf", beta=0.4))
    assert run_panel.show(settings="beta=0.7", beta=0.3).request().settings == {"beta": 0.7}
    panel = run_panel.show(beta=0.3)
    panel.controls["preset"].value = "laptop"
    assert panel.controls["beta"].value == PRESETS["laptop"].lm.beta
    assert "--set" not in command(panel)
    panel.controls["settings"].value = "align_steps"
    with pytest.raises(BadInput, match="other settings"):
        panel.request()


@pytest.mark.parametrize("world", ["lm", "mog"])
def test_every_control_over_its_whole_range_leaves_a_request_or_a_clear_sentence(world, monkeypatch):
    monkeypatch.setattr(run_panel.RunPanel, "_measure", lambda panel: None)
    panel = run_panel.show(world, "tiny")
    seen = 0
    for control in panel.controls.values():
        kept = control.value
        if isinstance(control, Dropdown):
            values = [value for _, value in control.options]
        elif isinstance(control, BoundedFloatText):
            values = [control.min, kept, control.max]
        else:
            values = ["", "0", "nonsense"]
        for value in values:
            control.value = value
            assert "In a terminal" in panel.line.value or "cannot run" in panel.line.value
            assert status(panel) == "ready"
            seen += 1
        control.value = kept
    assert seen > 40
    assert len(panel.controls["target"].options) == len(TARGETS) + 1


def test_wrong_input_is_refused_in_the_panel_and_nothing_starts(tmp_path):
    panel = run_panel.show(out=tmp_path, seeds="5-1")
    assert "runs backwards" in panel.line.value
    panel.start_button.click()
    assert "Not started. the range '5-1' runs backwards" in panel.message.value.replace("&#x27;", "'")
    assert status(panel) == "ready"
    assert panel.run is None


def test_unknown_names_are_refused():
    with pytest.raises(UnknownName, match="moon"):
        run_panel.show("moon")
    with pytest.raises(UnknownName, match="huge"):
        run_panel.show("lm", "huge")
    with pytest.raises(UnknownName, match="colour"):
        run_panel.show(colour="red")


# A run


def test_start_and_stop_of_a_real_run_and_its_going_on(tmp_path):
    panel = run_panel.show("mog", "tiny", out=tmp_path, seeds="0", algorithm="rlhf", cells="one")
    panel.start_button.click()
    assert status(panel) == "running"
    assert (panel.start_button.disabled, panel.stop_button.disabled) == (True, False)
    assert panel.controls["world"].disabled
    panel.stop_button.click()
    assert panel.wait(15) == "stopped"
    assert status(panel) == "stopped"
    assert not panel.start_button.disabled
    panel.start_button.click()
    assert panel.wait() == "finished"
    assert status(panel) == "finished"
    assert panel.picture.value.count("<img") == 1
    assert "Your run." in panel.picture.value


def test_curves_are_drawn_while_the_run_goes_on_and_a_new_panel_shows_the_same_run(tmp_path, story):
    story("time.sleep(60)")
    first = run_panel.show(out=tmp_path)
    first.start_button.click()
    for _ in range(500):
        if first.picture.value:
            break
        first._thread.join(0.02)
    assert 'alt="Seconds of each stage, and reward and KL along every alignment so far. ' in first.picture.value
    assert "seed 0, Base, aligned: base aligned" in first.status.value
    assert status(first) == "running"
    first.close()
    second = run_panel.show(out=tmp_path)
    assert second.run is first.run
    assert status(second) == "running"
    second.stop_button.click()
    assert second.wait(15) == "stopped"
    assert status(second) == "stopped"
    assert "reward and KL" in second.picture.value


@pytest.mark.parametrize(("kls", "lowest"), [((0.0, 3.0, 8.0), 0.0), ((2.0, 8.0), 0.0), ((-0.5, 8.0), -0.5)])
def test_the_axis_of_the_kl_begins_at_0_or_at_the_least_estimate(kls, lowest):
    points = tuple({"step": step, "reward": 0.1, "kl": kl} for step, kl in enumerate(kls))
    curve = run_picture.Curve(0, "align_then_kd", "align", points)
    drawn = run_picture.progress([run_picture.Unit("align_then_kd", "align", 2.0)], [curve], tiny=True)
    (axis,) = [axis for axis in drawn.axes if axis.get_ylabel().startswith("KL")]
    assert axis.get_ylim()[0] == pytest.approx(lowest)
    assert axis.get_ylim()[1] > 8


def test_a_child_s_error_is_shown_as_its_one_sentence(tmp_path, story):
    story("sys.exit('noise\\nalignkd: weights: the disk is <full>')")
    panel = run_panel.show(out=tmp_path)
    panel.start_button.click()
    assert panel.wait() == "failed"
    assert status(panel) == "failed"
    assert "weights: the disk is &lt;full&gt;" in panel.message.value
    assert "noise" not in panel.message.value


def test_the_record_joins_the_shipped_one_of_the_same_settings(tmp_path, story):
    (shipped,) = run_picture.shipped_runs(Request("mog", "laptop", algorithm="rlhf", settings=CELL))
    ours, out = tmp_path / "ours", tmp_path / "out"
    for seed in (0, 1):
        recording.write(ours, mog_record(seed, **shipped.settings))
    story(f"shutil.copytree({str(ours)!r}, {str(out)!r}, dirs_exist_ok=True)")
    panel = run_panel.show("mog", "laptop", out=out, seeds="0-1", algorithm="rlhf", cells="one", **CELL)
    panel.start_button.click()
    assert panel.wait() == "finished"
    mine, theirs = panel.picture.value.split("The recorded run of the same settings, for comparison.")
    assert "Your run." in mine
    assert mine.count("<img") == theirs.count("<img") == 1
    assert in_short(shipped) in theirs
    assert in_short(shipped) not in mine


def test_an_error_of_the_drawing_stands_in_the_panel(tmp_path, story, monkeypatch):
    story("")

    def broken(run):
        raise RuntimeError("no ink")

    panel = run_panel.show(out=tmp_path)
    monkeypatch.setattr(panel, "_show_standing", broken)
    with pytest.raises(RuntimeError, match="no ink"):
        panel.start()
    assert "cannot show it: no ink" in panel.message.value


# What it will take, and what stands without a kernel


def test_minutes_are_those_of_the_calibration_times_seeds_and_pipelines(monkeypatch):
    rates = run_picture.Rates(sampled=1e9, trained=1e9, scored=1e9, dtype="float32")
    one = run_picture.expected_seconds(Request("lm", "laptop", pipelines="orders", seeds="0"), rates)
    assert one == pytest.approx(run_picture.LOADING + run_picture.estimate(run_picture.planned_work("laptop"), rates))
    three = run_picture.expected_seconds(Request("lm", "laptop", pipelines="orders", seeds="0-2"), rates)
    assert three - run_picture.LOADING == pytest.approx(3 * (one - run_picture.LOADING))
    more = run_picture.expected_seconds(Request("lm", "laptop", pipelines="orders,controls", seeds="0"), rates)
    assert 1.5 * one < more < 3 * one
    assert run_picture.expected_seconds(Request("lm", "laptop"), None) is None
    monkeypatch.setattr(run_picture, "machine_rates", lambda: rates)
    words = run_picture.cost_in_words(Request("lm", "laptop", settings={"base": "me/mine"}))
    assert words.startswith("No estimate: parameters: the size of 'me/mine'")


def test_the_gaussian_study_is_estimated_from_its_record():
    seconds = run_picture.expected_seconds(Request("mog", "laptop"), None)
    held = [run.provenance["seconds"].sum() for run in run_picture.recorded_runs("mog")]
    assert seconds - run_picture.LOADING == pytest.approx(sum(held), rel=0.01)


def test_a_panel_measures_the_machine_once_and_then_says_what_the_run_will_take(monkeypatch):
    rates = run_picture.Rates(sampled=1e9, trained=1e9, scored=1e9, dtype="float32")
    run_picture.machine_rates.cache_clear()
    monkeypatch.setattr(run_picture, "Rates", lambda **held: rates)
    asked = []

    def doctor(command, **options):
        asked.append(command)
        return types.SimpleNamespace(stdout='{"rates": {}}')

    monkeypatch.setattr(run_picture.subprocess, "run", doctor)
    panel = run_panel.show("lm", "laptop")
    panel.controls["seeds"].value = "0-1"
    panel._measuring.join(60)
    assert "will take about" in panel.line.value
    assert len(asked) == 1
    run_picture.machine_rates.cache_clear()


@pytest.mark.parametrize("world", ["lm", "mog"])
def test_without_a_kernel_a_recorded_run_and_the_command_line_stand_there(world):
    bundle, size = run_panel.show(world)._repr_mimebundle_()
    assert WIDGET_VIEW in bundle
    assert "With a running kernel" in bundle["text/plain"]
    assert f"alignkd run --world {world} --preset tiny --pipelines orders --out out" in bundle["text/plain"]
    assert len(bundle["image/png"]) < 400_000
    assert size["image/png"]["alt"] == bundle["text/plain"]
    assert "/learner" not in bundle["text/plain"]


def test_a_request_agrees_with_records_of_its_own_settings_alone():
    request = Request("mog", "laptop", algorithm="rlhf", settings={"sharpening": 2.0, "beta": 0.5})
    (run,) = run_picture.shipped_runs(request)
    assert (run.the_run()["algorithm"], run.settings["sharpening"], run.settings["beta"]) == ("rlhf", 2.0, 0.5)
    assert len(run_picture.shipped_runs(Request("mog", "laptop"))) == 20
    assert run_picture.shipped_runs(Request("mog", "laptop", settings={"beta": 0.123})) == []
    assert run_picture.shipped_runs(Request("lm", "tiny")) == []


def test_the_counted_verdict_of_a_sweep_is_that_of_its_runs():
    _, words = run_picture.outcome(run_picture.recorded_runs("mog"), "record")
    holding = sum(claims.decide(run)["verdict"].iloc[0] == "holds" for run in run_picture.recorded_runs("mog"))
    assert words.startswith("20 settings.")
    assert f"holds {holding}" in words
