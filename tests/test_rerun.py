"""`alignkd run --from RECORD --check`: the same figures on the same machine, a verdict elsewhere, one clear error."""

import json
import math
import re
import shlex

import pandas as pd
import pytest
import torch
from scipy import stats
from synthetic_records import lm_record, mog_record, replaced

from alignkd_lab import recording, records
from alignkd_lab import rerun as again
from alignkd_lab.arguments import parse_setting
from alignkd_lab.cli import main
from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_experiment
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.provenance import provenance

SHIPPED = data_folder() / "records"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A folder with two runs of three seeds: sharpening 1 and 2."""
    out = tmp_path_factory.mktemp("recorded")
    run_experiment(world="mog", preset="tiny", pipelines=ORDERS, algorithm="rlhf", out=out)
    return out


def changed(folder, tmp_path, change):
    """A copy of the records after `change(record)`."""
    for path in folder.glob("runs/*.json"):
        record = json.loads(path.read_text())
        change(record)
        recording.write(tmp_path / "changed", record)
    return tmp_path / "changed"


def check(path, out, *options):
    return main(["run", "--from", str(path), "--check", "--out", str(out), *options])


def counts(said):
    """`figures`, `same`, `within`, … of what a check says."""
    total, parts = re.search(r"^(\d+) figures: (.*)$", said, re.MULTILINE).groups()
    return {"figures": int(total)} | {name: int(n) for n, name in (p.split(" ", 1) for p in parts.split(", "))}


def test_the_same_machine_gives_the_same_figures(recorded, tmp_path, capsys):
    assert check(recorded, tmp_path, "--set", "sharpening=2", "--seeds", "1-2") == 0
    said = capsys.readouterr().out
    assert said.endswith("Reproduced: every figure is the same.\n")
    assert len(said.splitlines()) == 2  # and nothing about the machine
    made = records.load(tmp_path / "again")
    assert (made.seeds, made.settings["sharpening"]) == ([1, 2], 2.0)
    assert set(made.pipelines) == {*ORDERS, "base", "base_aligned", "kd_only"}
    assert counts(said)["same"] == len(made.metrics)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("gaussians-study.zip", "--algorithm dpo --set beta=2.0 --seeds 1002-1003"),
        ("gaussians-pilot.zip", "--algorithm dpo --set beta=1.0 sharpening=4.0 --seeds 0-1"),
        ("gaussians-boundary.zip", "--algorithm rlhf --set beta=1.4 sharpening=2.0 target_weight=0.03 --seeds 3-4"),
    ],
)
def test_cells_of_the_shipped_gaussians_come_out_as_recorded(file, options, tmp_path, capsys):
    assert check(SHIPPED / file, tmp_path, *options.split()) == 0
    found = counts(capsys.readouterr().out)
    # On another processor a rounding may send a fit elsewhere, and most figures are still the same.
    assert found["same"] >= 0.6 * found["figures"] > 0
    assert found["far outside"] == found["no interval"] == 0


def test_a_figure_that_the_record_does_not_foretell_is_named(recorded, tmp_path, capsys):
    def shift(record):
        record["pipelines"]["align_then_kd"]["metrics"]["reward"] += 50.0
        record["provenance"]["torch"] = "1.0"

    assert check(changed(recorded, tmp_path, shift), tmp_path, "--set", "sharpening=1") == 1
    said = capsys.readouterr().out
    (row,) = [line for line in said.splitlines() if line.endswith("far outside")]
    assert row.split()[:2] == ["align_then_kd", "reward"]
    assert "torch: recorded 1.0, here " in said
    assert "0 outside, 1 far outside, 0 no interval" in said
    assert said.endswith("Not reproduced.\n")


def test_every_machine_that_a_seed_was_recorded_on_is_named(recorded, tmp_path):
    def first(record):
        record["provenance"].update(commit="-old", created="2000-01-01T00:00:00")
        del record["pipelines"]["align_then_kd"]

    both = changed(recorded, tmp_path, first)
    changed(recorded, tmp_path, lambda record: None)
    run = again.choose(both, None, {"sharpening": 1})
    here = again.rerun(run, out=tmp_path / "again", pipelines=("base",))
    assert f"commit: recorded -old and {run.provenance['commit'][0]}, here" in again.render(
        run, here, again.compare(run, here)
    )


def test_it_runs_the_record_s_settings_on_its_threads_and_in_its_dtype(tmp_path, monkeypatch, request):
    used, here = [], torch.get_num_threads()

    def run(**options):
        used.append((torch.get_num_threads(), options))
        return [recording.write(tmp_path, lm_record(3))]

    monkeypatch.setattr(again, "run_experiment", run)
    request.addfinalizer(lambda: torch.set_num_threads(here))
    made = [lm_record(seed, beta=0.2) for seed in range(4)]
    for record in made:
        record["provenance"]["threads"] = here + 1
        record["device"] = "cpu, bfloat16"
    held = records.tabulate(made)
    again.rerun(held, out=tmp_path, seeds=(3,), device="cpu")
    again.rerun(held, out=tmp_path, pipelines=("base",), device="cuda")
    (threads, first), (_, second) = used
    assert threads == here + 1
    assert first["overrides"] == {**held.settings, "dtype": "bfloat16"}
    assert (first["seeds"], first["pipelines"], first["yardsticks"]) == ((3,), tuple(held.pipelines), ())
    assert second["overrides"] == held.settings  # on another kind of device it is another draw in any case
    assert (second["seeds"], second["pipelines"]) == ((0,), ("base",))


def rewards(*values):
    """Records of one pipeline with these rewards, beside nineteen metrics that never change."""
    effects = {"base": {f"metric {place}": (0.0, 0.0) for place in range(19)}}
    made = [mog_record(seed, effects=effects) for seed in range(len(values))]
    for record, value in zip(made, values, strict=True):
        del record["pipelines"]["base"]["metrics"]["target_rate"]
        record["pipelines"]["base"]["metrics"]["reward"] = value
    return records.tabulate(made)


def verdict_of(run, here):
    (row,) = again.compare(run, here).query("metric == 'reward'").to_dict("records")
    return row


def test_each_figure_is_held_against_the_interval_for_one_more_seed_and_the_family_s_to_the_digits_that_are_kept():
    run = rewards(1.0, 2.0, 3.0, 4.0, 5.0)
    half, most = (stats.t.ppf(1 - 0.025 / count, 4) * math.sqrt(2.5 * 1.2) for count in (1, 20))
    assert verdict_of(run, rewards(1.0))["verdict"] == "same"
    for here, said in ((3 + half - 0.01, "within"), (3 + half + 0.01, "outside"), (3 + most + 0.01, "far outside")):
        row = verdict_of(run, rewards(here))
        assert (row["verdict"], row["recorded"], row["here"]) == (said, 1.0, here)
        assert (row["low"], row["high"]) == (pytest.approx(3 - half), pytest.approx(3 + half))
    assert verdict_of(rewards(0.1234, 2.0), rewards(0.12344))["verdict"] == "same"
    assert verdict_of(rewards(0.1234, math.nan), rewards(0.12344))["verdict"] == "same"
    assert verdict_of(rewards(0.1234, 0.1234567), rewards(0.12344))["verdict"] == "within"
    assert verdict_of(rewards(0.1234567, 2.0), rewards(0.12345671))["verdict"] == "same"
    assert verdict_of(rewards(math.nan, 2.0), rewards(math.nan))["verdict"] == "same"
    assert verdict_of(rewards(math.nan, 2.0), rewards(1.0))["verdict"] == "no interval"
    for here, said in ((0.99, "no spread"), (0.9, "far outside")):
        assert verdict_of(rewards(1.0, 1.0, 1.0), rewards(here))["verdict"] == said


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["same"] * 10, "Reproduced: every figure is the same."),
        (["same"] * 7 + ["within"] + ["outside"] * 2, "Compatible: it could be one more seed of this run."),
        (["same"] * 7 + ["outside"] * 3, "Not reproduced."),  # more than 20 %
        (["within"] * 99 + ["far outside"], "Not reproduced."),
        (["same"] * 99 + ["no interval"], "Not reproduced."),
        (["same"] * 99 + ["no spread"], "Compatible: it could be one more seed of this run."),
        ([], "Not reproduced."),
    ],
)
def test_a_rerun_is_the_same_compatible_or_another_run(verdicts, said):
    run = records.tabulate([mog_record(0)])
    rows = pd.DataFrame({"pipeline": "base", "recorded": 1.0, "verdict": verdicts})
    assert again.render(run, run, rows).splitlines()[-1] == said
    assert again.is_reproduced(rows) is (said != "Not reproduced.")


def test_several_runs_that_fit_are_told_apart_by_what_the_error_offers(recorded, tmp_path):
    with pytest.raises(
        BadInput, match=r"2 runs that fit; choose one by\n  --set sharpening=1.0\n  --set sharpening=2.0$"
    ):
        again.choose(recorded)
    assert again.choose(recorded, "rlhf", {"sharpening": 1}).settings["sharpening"] == 1.0
    whole = {**mog_record(0), "settings": recording.plain_settings(MogSettings())}
    for record in (whole, replaced(whole, "cuda", "device")):
        recording.write(tmp_path, record)
    with pytest.raises(BadInput, match=r"choose one by\n  --set device=cpu\n  --set device=cuda$"):
        again.choose(tmp_path)
    assert again.choose(tmp_path, settings={"device": "cuda"}).the_run()["device"] == "cuda"
    with pytest.raises(
        BadInput, match=r"56 runs that fit; choose one by --set algorithm=… .*sharpening=… .*target_weight=…"
    ):
        again.choose(SHIPPED / "gaussians-study.zip")
    with pytest.raises(BadInput, match=r"4 runs that fit; choose one by\n  --set study=gaussians-boundary\n"):
        again.choose(SHIPPED, "rlhf", {"beta": 1.0, "sharpening": 2.0, "target_weight": 0.04})


def test_every_run_of_the_study_on_smollm2_can_be_chosen_by_what_the_error_offers():
    path = SHIPPED / "smollm2-study.zip"
    with pytest.raises(BadInput) as error:
        again.choose(path)
    lines = [shlex.split(line)[1:] for line in str(error.value).splitlines()[1:]]
    found = [again.choose(path, None, dict(map(parse_setting, line))).the_run()["run"] for line in lines]
    assert set(found) == set(records.load(path).runs["run"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--set sharpening=7", "no run with sharpening=7"),
        ("--algorithm dpo", "no run with algorithm=dpo"),
        ("--set sharpening=2 --seeds 0,9", "no seed 9; use some of 0, 1, 2"),
        ("--set sharpening=2 --pipelines adpa", "holds no 'adpa'"),
    ],
)
def test_what_the_record_does_not_hold_is_refused_before_anything_runs(recorded, tmp_path, options, said, capsys):
    assert check(recorded, tmp_path / "never", *options.split()) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def test_a_second_check_never_compares_a_rerun_with_itself_or_with_what_other_code_made(
    recorded, tmp_path, capsys, monkeypatch
):
    out = changed(recorded, tmp_path, lambda record: record["pipelines"]["base"]["metrics"].update(reward=9.0))
    monkeypatch.setattr(again, "provenance", lambda device: made)
    made = provenance() | {"dirty": False}
    for _ in range(2):  # the first leaves its records below the folder that is read
        assert check(out, out, "--set", "sharpening=2", "--pipelines", "base") == 1
    (path,) = (out / "again").rglob("runs/*.json")
    made |= {"torch": "9.9"}  # what another version computed is computed anew
    assert check(out, out, "--set", "sharpening=2", "--pipelines", "base") == 1
    made |= {"dirty": True}  # and of changed code every check is
    for number in (3, 4):
        assert check(out, out, "--set", "sharpening=2", "--pipelines", "base") == 1
        assert len(list((out / "again").rglob("runs/*.json"))) == number
        made |= {"created": str(number)}
    assert check(path, out) == 2
    assert "holds the record itself" in capsys.readouterr().err
