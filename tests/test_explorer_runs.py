"""A run as a child process: its command line, that nothing outlives its page, and how long it takes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from alignkd_lab import cli, progress
from alignkd_lab.clock import Rates
from alignkd_lab.course.explorers import run_picture
from alignkd_lab.course.explorers.run_picture import expected_seconds, planned, standing, weights
from alignkd_lab.course.explorers.runs import Request, Run
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.pipelines import ORDERS, PIPELINES, YARDSTICKS
from alignkd_lab.plan import plan_run

RATES = Rates(1e9, 1e9, 1e9, "cpu", "made up")


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_command_line_means_what_the_run_is_given():
    settings = "beta=0.25 'prompts=my prompts.txt'"
    request = Request("lm", "laptop", "orders,controls", "dpo", "0,2-3", settings, Path("my runs"))
    read = cli.build_parser().parse_args(shlex.split(request.command)[1:])
    given = {name: getattr(read, name) for name in ("world", "preset", "pipelines", "algorithm", "seeds", "out")}
    assert request.keywords == {**given, "overrides": dict(read.set)}
    assert Request().command == "alignkd run --world mog --preset laptop --out out"
    assert len(Request().parts()) == 20
    assert len(Request(algorithm="rlhf", seeds="0", settings="sharpening=2.0 beta=0.5").parts()) == 1


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"algorithm": "ppo"}, UnknownName, "ppo"),
        ({"seeds": "3-1"}, BadInput, "runs backwards"),
        ({"settings": "beta"}, BadInput, "name=value"),
        ({"settings": "'beta=1"}, BadInput, "No closing quotation"),
        ({"out": Path(__file__)}, BadInput, "cannot be made a folder"),
    ],
)
def test_what_the_command_line_would_refuse_is_refused_before_the_start(changes, error, words):
    with pytest.raises(error, match=words):
        Run(Request(**changes)).start()


def test_a_run_whose_kernel_was_killed_ends_by_itself(tmp_path):
    kernel = f"""if True:
        import os, signal, time
        from pathlib import Path
        from alignkd_lab.course.explorers.runs import Request, Run, get_ready
        if __name__ == "__main__":
            get_ready()
            run = Run(Request(out=Path({str(tmp_path)!r})))
            run.start()
            while not run.events():
                time.sleep(0.05)
            print(run._process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    (tmp_path / "kernel.py").write_text(kernel)
    done = subprocess.run(
        [sys.executable, tmp_path / "kernel.py"], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 15
    while not gone(int(done.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert gone(int(done.stdout))


# What it takes, and what it tells


@pytest.fixture
def _rates(monkeypatch):
    monkeypatch.setattr(run_picture, "machine_rates", lambda: RATES)


@pytest.mark.usefixtures("_rates")
def test_minutes_on_text_are_those_of_the_calibration_times_seeds_and_pipelines():
    one, three = (expected_seconds(Request("lm", "laptop", "orders", seeds=seeds)) for seeds in ("0", "0-2"))
    made = plan_run({"world": "lm", "preset": "laptop", "pipelines": ORDERS, "seeds": (0,)}, RATES)
    assert one == made["seconds"]
    assert 1 < one / (sum(made["parameter_tokens"].values()) / 1e9) < 1.3  # prompts are read, too
    assert three == pytest.approx(3 * one, rel=0.01)  # a process starts once
    assert 1.5 * one < expected_seconds(Request("lm", "laptop", "orders,controls", seeds="0")) < 3 * one
    assert expected_seconds(Request("lm", "tiny")) is None
    assert run_picture.cost_in_words(Request("lm", "laptop", settings="base=tiny-base")).startswith("This will take")


def test_a_gaussian_cell_takes_what_its_stages_took_in_the_record():
    held = run_picture.recorded_gaussians().stages
    took = [
        held[held["stage"] == name]["seconds"].mean() for name in ("base_aligned", "kd", "kd_aligned", "aligned_kd")
    ]
    one = planned("mog", ORDERS, "rlhf")
    assert one == pytest.approx(sum(took), rel=0.1)
    twenty, forty = (expected_seconds(Request(algorithm="rlhf", seeds=seeds)) for seeds in ("0-19", "0-39"))
    assert forty == pytest.approx(2 * twenty)
    assert twenty / 10 == pytest.approx(one, rel=0.4)  # a cell, of which all pipelines were timed
    assert expected_seconds(Request(settings="rlhf_steps=400")) is None


def story(world, parts, slower):
    """Events of a run of both orders that takes `slower` times the record's seconds, each unit a little off."""
    chance, now, told = np.random.default_rng(0), 3.0, []
    for number in range(1, parts + 1):
        told.append({"what": "part", "at": now, "name": str(number), "number": number, "parts": parts})
        seen = set()
        for pipeline in (*YARDSTICKS, *ORDERS):
            for stage in [*(s.name for s in PIPELINES[pipeline] if s not in seen), "evaluation"]:
                told.append({"what": "unit", "at": now, "pipeline": pipeline, "stage": stage})
                now += slower * weights(world, [stage]).iloc[0] * np.exp(0.2 * chance.standard_normal())
            seen |= set(PIPELINES[pipeline])
    return told, now


@pytest.mark.usefixtures("_rates")
@pytest.mark.parametrize("slower", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    ("request_", "parts"), [(Request("mog", pipelines="orders"), 20), (Request("lm", "laptop", "orders", seeds="0"), 1)]
)
def test_after_ten_seconds_the_time_left_is_within_a_factor_of_two(request_, parts, slower):
    told, end = story(request_.world, parts, slower)
    # On text the machine was measured; Gaussians are expected to go as they went on the recording one.
    expected = planned(request_.world, ORDERS, "dpo") * parts * (1.3 * slower if request_.world == "lm" else 1.0)
    for now in np.linspace(10.0, end - 0.1 * (end - 10.0), 40):
        before = [event for event in told if event["at"] <= now]
        share, left, words = standing(request_, before, now, expected)
        assert (end - now) / 2 < left < 2 * (end - now)
        assert 0 < share < 1
        assert words.endswith(" left")
    assert standing(request_, told, 2 * end, expected)[0] == 1  # the last unit is overdue, and the bar stays full


def test_what_was_kept_from_an_earlier_start_teaches_nothing_about_time():
    request = Request("lm", "laptop", "orders")
    told = [{"what": "part", "at": 0.0, "name": "seed 0", "number": 1, "parts": 1}]
    told += [{"what": "unit", "at": at, "pipeline": "base", "stage": "evaluation"} for at in (0.0, 0.1, 0.2)]
    assert standing(request, told, 0.3, None)[1] is None
    told.append({"what": "step", "at": 0.4, "stage": "kd", "step": 3, "steps": 9})
    assert "step 3 of 9" in standing(request, told, 0.5, None)[2]


def test_curves_are_told_by_seed_and_stage_without_trials():
    def point(step, reward, stage="kd_aligned"):
        return {"what": "curve", "stage": stage, "step": step, "reward": reward, "kl": 0.1 * step}

    told = [{"what": "part", "name": "seed 3"}, {"what": "unit", "pipeline": "kd_then_align", "stage": "kd_aligned"}]
    found = list(run_picture.curves([*told, point(0, 9.0, "trial 0.001"), point(0, 0.1), point(2, 0.2)]))
    ((key, points),) = found
    assert key == ("seed 3", "kd_then_align", "kd_aligned")
    assert points["reward"].tolist() == [0.1, 0.2]
    assert list(run_picture.curves(told)) == []


@pytest.mark.parametrize(("kls", "lowest"), [((0.0, 3.0, 8.0), 0.0), ((2.0, 8.0), 0.0), ((-0.5, 8.0), -0.5)])
def test_the_axis_of_the_kl_begins_at_0_or_at_the_least_estimate(kls, lowest):
    told = [{"what": "part", "name": "seed 0"}, {"what": "unit", "pipeline": "align_then_kd", "stage": "align"}]
    told += [{"what": "curve", "stage": "align", "step": k, "reward": 0.1, "kl": kl} for k, kl in enumerate(kls)]
    axis = run_picture.progress(told, tiny=True).axes[1]
    assert axis.get_ylim()[0] == pytest.approx(lowest)
    assert axis.get_ylim()[1] > 8


def test_events_are_told_only_where_somebody_watches(tmp_path, monkeypatch):
    path = tmp_path / "told"
    monkeypatch.delenv(progress.VARIABLE, raising=False)
    progress.tell("seed", seed=1)
    assert progress.read_events(path) == []
    monkeypatch.setenv(progress.VARIABLE, str(path))
    progress.tell("seed", seed=1)
    with path.open("a") as file:
        file.write('{"what": "un')  # a line that is being written
    (only,) = progress.read_events(path)
    assert (only["what"], only["seed"]) == ("seed", 1)
    assert only["at"] == pytest.approx(time.time(), abs=60)
