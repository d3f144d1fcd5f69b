"""`alignkd reproduce`: the same figures on the same machine, a verdict elsewhere, and one clear error for a bad ask."""

import dataclasses
import json
import math
import shlex

import numpy as np
import pytest
import torch
from scipy import stats
from tiny_lm import small

from alignkd_lab.cli import main, parse_setting
from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_experiment
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.presets import PRESETS
from alignkd_lab.reproduce import _reproduced, chosen_run, compare, predicted, render, reproduce
from alignkd_lab.study.boundary import Grid, sweep

ORDERS = ("kd_then_align", "align_then_kd")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A file with two runs of three seeds: sharpening 1 and 2."""
    return run_experiment(
        world="mog", preset="tiny", pipelines=ORDERS, algorithm="rlhf", out=tmp_path_factory.mktemp("recorded")
    )


def changed(path, tmp_path, change):
    """A copy of the records after `change(record)`."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    copy = tmp_path / path.name
    copy.write_text("".join(json.dumps(record) + "\n" for record in records))
    return copy


def test_the_same_machine_gives_the_same_figures(recorded, tmp_path, capsys):
    argv = ["reproduce", str(recorded), "--set", "sharpening=2", "--seeds", "1", "--out", str(tmp_path)]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert said.endswith("Reproduced: every figure is the same.\n")
    assert "0 outside" in said
    found = reproduce(recorded, out=tmp_path, settings={"sharpening": 2.0}, seeds=(1,))
    assert {row["verdict"] for row in found["rows"]} == {"same"}
    assert {row["pipeline"] for row in found["rows"]} == {*ORDERS, "base", "base_aligned", "kd_only"}
    assert found["provenance"] == []


def test_a_figure_that_the_record_does_not_foretell_is_named(recorded, tmp_path, capsys):
    def shift(record):
        record["pipelines"]["align_then_kd"]["metrics"]["reward"] += 50.0
        record["provenance"]["torch"] = "1.0"

    argv = ["reproduce", str(changed(recorded, tmp_path, shift)), "--set", "sharpening=1"]
    argv += ["--out", str(tmp_path / "again")]
    assert main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    outside = [row for row in found["rows"] if "outside" in row["verdict"]]
    assert {row["verdict"] for row in outside} == {"far outside"}
    assert [(row["pipeline"], row["metric"]) for row in outside] == [("align_then_kd", "reward")]
    assert outside[0]["recorded"] - outside[0]["here"] == pytest.approx(50)
    assert [entry["name"] for entry in found["provenance"]] == ["torch"]
    assert main(argv) == 1
    said = capsys.readouterr().out
    assert "0 outside of it and 1 far outside" in said
    assert "torch: recorded 1.0" in said
    assert said.endswith("Not reproduced.\n")


def test_it_runs_on_the_threads_and_in_the_dtype_that_the_record_was_made_with(recorded, tmp_path, monkeypatch):
    here = torch.get_num_threads()

    def made_otherwise(record):
        record["provenance"].update(threads=here + 1, weights={"products": "torch.bfloat16"})

    used = []

    def run(**arguments):
        used.append((torch.get_num_threads(), arguments["overrides"]["dtype"]))
        raise RuntimeError

    monkeypatch.setattr("alignkd_lab.reproduce.run_experiment", run)
    with pytest.raises(RuntimeError):
        reproduce(changed(recorded, tmp_path, made_otherwise), out=tmp_path / "again", settings={"sharpening": 2.0})
    assert used == [(here + 1, "bfloat16")]
    assert torch.get_num_threads() == here


def test_an_old_record_in_another_dtype_is_compared_with_a_run_in_that_dtype(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(PRESETS["tiny"], lm=small()))
    made = run_experiment(
        world="lm", preset="tiny", pipelines=("base",), yardsticks=(), seeds=(0,), out=tmp_path / "first", device="cpu",
        overrides={"dtype": "bfloat16"},
    )  # fmt: skip
    record = json.loads(made.read_text())
    del record["settings"]["dtype"]
    record["provenance"]["weights"]["products"] = f"torch.{record['provenance']['weights'].pop('dtype')}"
    made.write_text(json.dumps(record) + "\n")
    found = reproduce(made, out=tmp_path / "again", device="cpu")
    assert {row["verdict"] for row in found["rows"]} == {"same"}


def test_only_a_record_of_the_device_that_was_asked_for_is_compared(recorded, tmp_path):
    def elsewhere(record):
        record["provenance"].update(device="cuda", created="2999-01-01T00:00:00")
        record["pipelines"]["base"]["metrics"]["reward"] += 50

    out = tmp_path / "again"
    out.mkdir()
    changed(recorded, out, elsewhere)
    found = reproduce(recorded, out=out, settings={"sharpening": 2.0}, device="cpu")
    assert {row["verdict"] for row in found["rows"]} == {"same"}


def test_runs_of_several_devices_in_one_file_are_told_apart(recorded, tmp_path):
    def elsewhere(record):
        record["provenance"]["device"] = "cuda"

    path = changed(recorded, tmp_path, elsewhere)
    path.write_text(path.read_text() + recorded.read_text())
    with pytest.raises(BadInput, match=r"choose one by\n  --set device=cpu\n  --set device=cuda$"):
        chosen_run(path, None, {"sharpening": 2})
    assert chosen_run(path, None, {"sharpening": 2, "device": "cuda"})["device"] == "cuda"


def test_every_machine_that_a_seed_was_recorded_on_is_named(recorded, tmp_path):
    def first(record):
        record["provenance"].update(commit="0ld", created="2000-01-01T00:00:00")
        del record["pipelines"]["align_then_kd"]

    path = changed(recorded, tmp_path, first)
    path.write_text(path.read_text() + recorded.read_text())
    found = reproduce(path, out=tmp_path / "again", settings={"sharpening": 2.0})
    (commit,) = [entry for entry in found["provenance"] if entry["name"] == "commit"]
    assert commit["recorded"] == f"0ld and {commit['here']}"


def test_each_figure_is_held_against_the_interval_for_one_more_seed_and_the_family_s():
    def records(rewards, here=()):
        return {seed: {"seed": seed, "pipelines": {"base": {"metrics": {"reward": reward, **dict(here)}}}}
                for seed, reward in enumerate(rewards)}  # fmt: skip

    others = {f"metric {place}": 0.0 for place in range(19)}
    run = {"records": [*records((1.0, 2.0, 3.0, 4.0, 5.0), others).values()]}
    half = stats.t.ppf(0.975, 4) * math.sqrt(2.5 * 1.2)
    most = stats.t.ppf(1 - 0.025 / 20, 4) * math.sqrt(2.5 * 1.2)
    for here, verdict in ((3 + half - 0.01, "within"), (3 + half + 0.01, "outside"), (3 + most + 0.01, "far outside")):
        (row,) = [row for row in compare(run, records((here,), others), (0,), ("base",)) if row["metric"] == "reward"]
        assert (row["verdict"], row["low"], row["high"]) == (verdict, *(pytest.approx(3 + s * half) for s in (-1, 1)))


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["same"] * 10, "Reproduced: every figure is the same."),
        (["same"] * 7 + ["within"] + ["outside"] * 2, "Compatible: it could be one more seed of this run."),
        (["same"] * 7 + ["outside"] * 3, "Not reproduced."),  # more than 20 %
        (["within"] * 99 + ["far outside"], "Not reproduced."),
        (["same"] * 99 + ["no interval"], "Not reproduced."),
    ],
)
def test_a_rerun_is_the_same_compatible_or_another_run(verdicts, said):
    row = {"pipeline": "base", "metric": "reward", "seed": 0, "recorded": 1.0, "here": 1.1, "low": 0.0, "high": 2.0}
    rows = [{**row, "verdict": verdict} for verdict in verdicts]
    found = {"rows": rows, "provenance": [], "reproduced": _reproduced(verdicts)}
    assert render(found).splitlines()[-1] == said


def test_one_recorded_seed_foretells_no_interval(recorded, tmp_path):
    lines = recorded.read_text().splitlines()
    record = next(found for found in map(json.loads, lines) if found["settings"]["sharpening"] == 2.0)
    record["pipelines"]["base"]["metrics"]["reward"] += 1e-3
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(record) + "\n")
    found = reproduce(path, out=tmp_path / "again", pipelines=("base",))
    verdicts = {row["metric"]: row["verdict"] for row in found["rows"]}
    assert verdicts.pop("reward") == "no interval"
    assert set(verdicts.values()) == {"same"}
    assert not found["reproduced"]
    assert "no verdict on them" in render(found)


def test_the_interval_for_one_more_seed_holds_as_many_as_it_says():
    draws = np.random.default_rng(0).normal(3, 2, (4000, 6))
    spans = [predicted(row[:5].tolist(), 0.9) for row in draws]
    held = np.mean([span.low <= value <= span.high for span, value in zip(spans, draws[:, 5], strict=True)])
    assert held == pytest.approx(0.9, abs=0.02)
    t = stats.t.ppf(0.95, 1)
    assert predicted([1.0, 3.0], 0.9).high == pytest.approx(2 + t * math.sqrt(2) * math.sqrt(1.5))
    assert math.isnan(predicted([1.0], 0.9).low)


def test_several_runs_that_fit_are_told_apart_by_their_settings(recorded):
    with pytest.raises(
        BadInput, match=r"2 runs that fit; choose one by\n  --set sharpening=1.0\n  --set sharpening=2.0$"
    ):
        chosen_run(recorded, None, {})
    assert chosen_run(recorded, "rlhf", {"sharpening": 1})["settings"]["sharpening"] == 1.0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"settings": {"sharpening": 7}}, "no run with sharpening=7"),
        ({"algorithm": "dpo"}, "no run with dpo"),
        ({"settings": {"sharpening": 2}, "seeds": (0, 9)}, "no seed 9"),
        ({"settings": {"sharpening": 2}, "pipelines": ("adpa",)}, "holds no 'adpa'"),
    ],
)
def test_what_the_record_does_not_hold_is_refused_before_anything_runs(recorded, tmp_path, asked, said):
    with pytest.raises(BadInput, match=said):
        reproduce(recorded, out=tmp_path / "never", **asked)
    assert not (tmp_path / "never").exists()


def test_many_runs_that_fit_are_told_apart_by_the_names_of_their_settings():
    with pytest.raises(BadInput, match=r"runs that fit; choose one by --algorithm rlhf and --set .*sharpening=…"):
        chosen_run(data_folder() / "records" / "study" / "mog-study.json", None, {})


@pytest.mark.parametrize("line", ["gamma=0.15 align_learning_rates=[0.0003,0.0006]", "align_learning_rates=[0.0006]"])
def test_what_the_error_offers_chooses_a_run_of_the_study(line):
    path = data_folder() / "records" / "study" / "lm-laptop-dpo-exclamation.jsonl.gz"
    with pytest.raises(BadInput) as error:
        chosen_run(path, None, {})
    asked = set(map(str, map(parse_setting, line.split())))
    lines = [dict(map(parse_setting, shlex.split(found)[1:])) for found in str(error.value).splitlines()[1:]]
    offered = next(found for found in lines if asked <= set(map(str, found.items())))
    run = chosen_run(path, None, offered)
    assert all(run["settings"][name] == value for name, value in map(parse_setting, line.split()))


def test_settings_that_this_version_does_not_know_are_named(recorded, tmp_path):
    def add(record):
        record["settings"]["moon_phase"] = 1

    path = changed(recorded, tmp_path, add)
    with pytest.raises(BadInput, match="moon_phase"):
        reproduce(path, out=tmp_path / "again", settings={"sharpening": 2.0})


def test_the_record_s_own_folder_is_refused_since_its_seeds_are_done_there(recorded):
    with pytest.raises(BadInput, match="name another folder"):
        reproduce(recorded, out=recorded.parent, settings={"sharpening": 2.0})


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """A record of arrays: two target shares, two orders, three seeds."""
    quick = MogSettings(rlhf_steps=4, em_iterations=10, restarts=2, evaluation_draws=200, teacher_samples=200)
    grid = Grid(("rlhf",), (2.0,), (0.5,), (0.04, 0.1), (3, 4, 5), ())
    return sweep(tmp_path_factory.mktemp("arrays"), grid, quick)


def test_a_cell_of_a_record_of_arrays_comes_out_to_the_digits_that_it_keeps(arrays, tmp_path):
    found = reproduce(arrays, out=tmp_path / "again", settings={"target_weight": 0.1}, seeds=(4,))
    assert {row["verdict"] for row in found["rows"]} == {"same"}
    assert {row["pipeline"] for row in found["rows"]} == set(ORDERS)
    assert any(row["recorded"] != row["here"] for row in found["rows"])


def test_cells_of_a_record_of_arrays_are_named_by_what_the_sweep_moves(arrays, tmp_path):
    with pytest.raises(
        BadInput, match=r"2 runs that fit; choose one by\n  --set target_weight=0.04\n  --set target_weight=0.1$"
    ):
        chosen_run(arrays, None, {})
    with pytest.raises(BadInput, match=r"no run with target_weight=0.3; it holds target_weight 0.04, 0.1$"):
        chosen_run(arrays, None, {"target_weight": 0.3})
    other = tmp_path / "bench.json"
    other.write_text('{"schema": 1}')
    with pytest.raises(BadInput, match="holds no runs"):
        chosen_run(other, None, {})
    other.write_text("torn")
    with pytest.raises(BadInput, match="not JSON"):
        chosen_run(other, None, {})


def test_a_setting_younger_than_the_record_is_not_held_against_it(recorded, tmp_path):
    path = changed(recorded, tmp_path, lambda record: record["settings"].pop("reward_clip"))
    found = reproduce(path, out=tmp_path / "again", settings={"sharpening": 2.0}, pipelines=("base",))
    assert {row["verdict"] for row in found["rows"]} == {"same"}


def test_every_reproduce_command_of_the_readme_names_one_recorded_run():
    readme = (data_folder().parent / "README.md").read_text(encoding="utf-8")
    asked = [
        shlex.split(line, comments=True)[2:] for line in readme.splitlines() if line.startswith("alignkd reproduce")
    ]
    assert len(asked) == 3
    for path, *options in asked:
        given = dict(zip(options[::2], options[1::2], strict=True))
        settings = dict([parse_setting(given["--set"])] if "--set" in given else [])
        run = chosen_run(data_folder().parent / path, given.get("--algorithm"), settings)
        first = int(given.get("--seeds", str(run["records"][0]["seed"])).partition("-")[0])
        assert first in {record["seed"] for record in run["records"]}
