"""A run as a child process: its command line, start, stop and resume, and that nothing outlives its page."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from alignkd_lab import cli, progress, records
from alignkd_lab.course.explorers import runs
from alignkd_lab.course.explorers.run_picture import curves, standing, timed
from alignkd_lab.course.explorers.runs import Request, Run
from alignkd_lab.errors import BadInput, UnknownName

SMALL = {"sharpening": 2.0, "beta": 0.5}

SLEEPER = """
    from alignkd_lab.course.explorers import runs
    from alignkd_lab.progress import tell
    import sys, time

    def work(name, run_name):
        tell("cell", text="mog 1/2: rlhf", number=1, cells=2)
        time.sleep(60)

    runs.runpy.run_module = work
    runs.main(sys.argv[1:])
"""


def script(folder, text):
    path = folder / "child.py"
    path.write_text(textwrap.dedent(text))
    return (sys.executable, str(path))


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    """In place of `alignkd run` a child that tells one event and then sleeps."""
    monkeypatch.setattr(runs, "CHILD", script(tmp_path, SLEEPER))


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    runs.end_all()


def small(out, **changes):
    return Request(**{"world": "mog", "seeds": "0", "algorithm": "rlhf", "settings": SMALL, "out": out, **changes})


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


# What is asked for


def test_the_command_line_is_read_back_as_it_was_meant(monkeypatch):
    settings = {"beta": 0.25, "align_learning_rates": [0.001], "reward": "rule"}
    request = Request("lm", "laptop", "orders,controls", "0,2-3", "dpo", "digit", settings, Path("here"))
    read = cli.build_parser().parse_args(request.arguments)
    assert (read.world, read.preset, read.algorithm, read.target) == ("lm", "laptop", "dpo", "digit")
    assert (read.seeds, read.out) == ((0, 2, 3), Path("here"))
    assert dict(read.set) == settings
    assert read.pipelines == request.pipeline_names()
    assert request.seed_numbers() == read.seeds
    assert Request().command == "alignkd run --world lm --preset tiny --out out"
    assert Request(out=Path("my runs")).command.endswith("--out 'my runs'")


def test_without_a_choice_the_preset_s_own_are_meant():
    assert Request("mog", "laptop").seed_numbers() == tuple(range(20))
    assert Request("mog", "laptop").cells() == 20
    assert Request("mog", "laptop", settings=SMALL, algorithm="dpo").cells() == 1
    assert Request("lm").algorithms() == ("dpo",)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"world": "moon"}, UnknownName, "moon"),
        ({"preset": "huge"}, UnknownName, "huge"),
        ({"algorithm": "ppo"}, UnknownName, "ppo"),
        ({"seeds": "3-1"}, BadInput, "runs backwards"),
        ({"seeds": "1000003"}, BadInput, "learning-rate trials"),
        ({"pipelines": "orders,dckx"}, BadInput, "dckx"),
        ({"world": "mog", "pipelines": "adpa"}, BadInput, "next-token"),
        ({"pipelines": "adpa", "algorithm": "rlhf"}, BadInput, "under DPO"),
        ({"settings": {"betta": 1}}, BadInput, "betta"),
        ({"settings": {"beta": -1.0}}, BadInput, "beta"),
        ({"target": "smile"}, BadInput, "smile"),
        ({"out": Path(__file__)}, BadInput, "name a folder"),
    ],
)
def test_what_the_command_line_would_refuse_is_refused_before_the_start(changes, error, words):
    with pytest.raises(error, match=words):
        Request(**changes).check()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        Run(small(tmp_path / "file" / "below")).start()


# A real run


def test_a_run_leaves_its_record_and_a_second_start_has_nothing_to_do(tmp_path):
    run = Run(small(tmp_path))
    assert run.status == "ready"
    run.start()
    with pytest.raises(BadInput, match="under way"):
        run.start()
    assert run.wait() == "finished"
    assert not run.resumed
    held = records.load(tmp_path)
    assert (held.seeds, held.the_run()["algorithm"], held.settings["sharpening"]) == ([0], "rlhf", 2.0)
    assert [event["what"] for event in run.events()] == ["cell"]
    again = Run(small(tmp_path))
    again.start()
    assert again.resumed
    assert again.wait() == "finished"
    assert again.events(earlier=False) == []
    assert records.load(tmp_path).seeds == [0]


def test_the_error_of_a_run_is_the_command_line_s_one_sentence(tmp_path):
    run = Run(small(tmp_path, target="moon"))
    run.start()
    assert run.wait() == "failed"
    assert run.error == "target: these settings have 'rare_mode', not 'moon'; choose modes with --set targets=[3]"


# Start and stop


def test_stop_ends_the_whole_group_soon_and_start_goes_on(tmp_path, sleeper):
    run = Run(small(tmp_path))
    run.start()
    assert until(run.events)
    child = psutil.Process(run._process.pid)
    run.stop()
    assert run.wait(10) == "stopped"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    run.start()
    assert run.resumed
    assert until(lambda: run.events(earlier=False))
    assert len(run.events()) == 2


def test_a_child_that_did_not_hear_the_first_request_is_asked_again(tmp_path, monkeypatch):
    late = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('here', flush=True)\n"
        "time.sleep(0.4)\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ntime.sleep(60)"
    )
    monkeypatch.setattr(runs, "CHILD", script(tmp_path, late))
    monkeypatch.setattr(runs, "AGAIN", 0.2)
    run = Run(small(tmp_path))
    run.start()
    assert until(lambda: run.log.read_text())
    run.stop()
    assert run.wait(4) == "stopped"  # sooner than by force
    assert "KeyboardInterrupt" in run.log.read_text()


def test_a_child_that_does_not_listen_is_ended_by_force(tmp_path, monkeypatch):
    deaf = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('here', flush=True)\ntime.sleep(60)"
    )
    monkeypatch.setattr(runs, "CHILD", script(tmp_path, deaf))
    monkeypatch.setattr(runs, "GRACE", 0.3)
    run = Run(small(tmp_path))
    run.start()
    assert until(lambda: run.log.read_text())
    run.stop()
    assert run.wait(5) == "stopped"


def test_two_runs_at_once_do_not_write_into_one_folder(tmp_path, sleeper):
    first, second = Run(small(tmp_path)), Run(small(tmp_path, seeds="1"))
    first.start()
    assert runs.under_way(tmp_path) is first
    with pytest.raises(BadInput, match="another run writes into"):
        second.start()
    assert second.status == "ready"
    first.stop()
    assert first.wait(10) == "stopped"
    assert runs.under_way(tmp_path) is None
    second.start()
    assert second.status == "running"


def test_all_runs_end_with_the_kernel(tmp_path, sleeper):
    run = Run(small(tmp_path))
    run.start()
    assert until(run.events)
    runs.end_all()
    assert run.status == "stopped"
    assert not psutil.pid_exists(run._process.pid)


def test_a_run_whose_kernel_was_killed_ends_by_itself(tmp_path):
    told = tmp_path / "told"
    kernel = f"""
        import os, signal, subprocess, sys, time
        child = subprocess.Popen({script(tmp_path, SLEEPER)!r}, start_new_session=True)
        print(child.pid, flush=True)
        while not os.path.exists({str(told)!r}):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, progress.VARIABLE: str(told)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(kernel)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 15)


# What a run tells


def event(what, at, **told):
    return {"what": what, "at": at, **told}


def on_text(*later):
    """Two seeds of ten units each; two units of the first are done."""
    units = [
        event("unit", at, pipeline=name, stage=stage)
        for at, name, stage in (
            (10.0, "base", "evaluation"),
            (14.0, "base_aligned", "base_aligned"),
            (26.0, "kd_then_align", "kd_aligned"),
        )
    ]
    return [event("seed", 9.0, seed=3, number=1, seeds=2, units=10), *units, *later]


def test_the_time_left_is_the_mean_of_what_was_done_for_all_that_waits():
    assert standing([], 5.0) == standing([], 99.0)
    assert standing([], 5.0).left is None
    where = standing(on_text(), 28.0)
    assert where.share == pytest.approx(2 / 20)
    assert where.left == pytest.approx(17 * 8.0 + 6.0)
    assert where.text.startswith("seed 3 (1 of 2), K-A: distil, then align: kd aligned; about")


def test_what_was_kept_from_an_earlier_start_teaches_nothing_about_time():
    kept = [event("seed", 0.0, seed=0, number=1, seeds=1, units=4)]
    kept += [event("unit", at, pipeline="base", stage="evaluation") for at in (0.0, 0.1, 0.2)]
    assert standing(kept, 1.0).left is None
    assert standing(kept, 1.0).share == pytest.approx(0.5)


def test_steps_of_training_move_the_share_and_those_of_trials_do_not():
    trained = standing(on_text(event("step", 30.0, stage="kd_aligned", step=12, steps=24)), 30.0)
    tried = standing(on_text(event("step", 30.0, stage="trial 0.0003", step=12, steps=24)), 30.0)
    assert trained.share == pytest.approx(2.5 / 20)
    assert tried.share == pytest.approx(2 / 20)
    assert "step 12 of 24" in trained.text
    assert "trial 0.0003, step 12 of 24" in tried.text


def test_a_sweep_counts_its_cells():
    cells = [event("cell", at, text=f"mog {n}/5: dpo", number=n, cells=5) for n, at in ((3, 1.0), (4, 3.0))]
    where = standing(cells, 4.0)
    assert where.share == pytest.approx(3 / 5)
    assert where.left == pytest.approx(2.0 + 1.0)
    assert where.text.startswith("cell 4/5: dpo")


def test_units_of_the_current_seed_are_timed():
    later = [event("seed", 40.0, seed=4, number=2, seeds=2, units=10)]
    later += [event("unit", at, pipeline="base", stage="evaluation") for at in (41.0, 44.0)]
    assert [(unit.stage, unit.seconds) for unit in timed(on_text(), 30.0)] == [
        ("evaluation", 4.0),
        ("base_aligned", 12.0),
        ("kd_aligned", 4.0),
    ]
    assert [unit.seconds for unit in timed(on_text(*later), 46.0)] == [3.0, 2.0]


def test_curves_are_told_by_seed_and_stage_and_begin_again_at_step_nought():
    def point(step, reward, stage="kd_aligned"):
        return event("curve", 0.0, stage=stage, step=step, reward=reward, kl=0.1 * step, target_rate=0.0)

    found = curves(on_text(point(0, 9.0, "trial 0.001"), point(0, 0.5), point(2, 0.6), point(0, 0.1), point(2, 0.2)))
    assert [(curve.seed, curve.pipeline, curve.stage) for curve in found] == [(3, "kd_then_align", "kd_aligned")]
    assert [point["reward"] for point in found[0].points] == [0.1, 0.2]
