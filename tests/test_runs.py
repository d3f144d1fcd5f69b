"""Runs: what is pooled, which of several records of a seed counts, and what a summary says of seeds."""

import json
import math

import pytest
from synthetic_records import LM, lm_record, mog_record, recorded, replaced, without, write

from alignkd_lab import records, runs
from alignkd_lab.claims import NOT_DECIDED
from alignkd_lab.costs import stages_of
from alignkd_lab.report.numbers import report_json
from alignkd_lab.stats import t_interval
from alignkd_lab.study import plan


def test_records_that_differ_in_their_seed_alone_are_one_run():
    found = runs.group_runs([mog_record(seed) for seed in (2, 0, 1)])
    assert [[record["seed"] for record in run["records"]] for run in found] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("gpu", ("preset",)),
        ("cuda", ("provenance", "device")),
        ({"products": "torch.bfloat16"}, ("provenance", "weights")),
        ("dpo", ("algorithm",)),
        ("digit", ("target",)),
        (1.0, ("settings", "beta")),
    ],
)
def test_runs_that_differ_in_anything_else_are_never_pooled(value, path):
    found = runs.group_runs([mog_record(0), replaced(mog_record(1), value, *path)])
    assert [len(run["records"]) for run in found] == [1, 1]


def test_the_way_a_number_is_written_makes_no_new_run():
    assert len(runs.group_runs([mog_record(0, sharpening=2), mog_record(1, sharpening=2.0)])) == 1


def later(record, **metrics):
    changed = replaced(record, "2026-05-01T00:00:00+02:00", "provenance", "created")
    for name, value in metrics.items():
        changed["pipelines"][name]["metrics"]["reward"] = value
    return changed


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_record_of_a_seed_wins_in_whatever_order_they_lie(turned):
    pair = [mog_record(0), later(mog_record(0), base=7.0)]
    found = runs.group_runs(pair[::-1] if turned else pair)
    assert runs.seed_values(found[0])["base"]["reward"] == {0: 7.0}


def test_an_older_record_fills_in_the_pipelines_that_a_newer_one_lacks():
    newer = without(later(mog_record(0), base=7.0), "pipelines", "kd_then_align_base_reference")
    values = runs.seed_values(runs.group_runs([newer, mog_record(0)])[0])
    assert values["base"]["reward"] == {0: 7.0}
    assert "kd_then_align_base_reference" in values


COMPARED = ("base", "base_aligned", "kd_only", "kd_then_align", "align_then_kd")


@pytest.mark.parametrize("lacking", [("kd_then_align", "align_then_kd"), ("align_then_kd",)])
def test_orders_and_yardsticks_stay_together_until_both_orders_are_run_again(lacking):
    older, newer = mog_record(0), later(mog_record(0), base=7.0, kd_then_align=6.0, kd_then_align_base_reference=8.0)
    for order in lacking:
        del newer["pipelines"][order]
    values = runs.seed_values(runs.group_runs([older, newer])[0])
    before = runs.seed_values({"records": [older]})
    assert {name: values[name] for name in COMPARED} == {name: before[name] for name in COMPARED}
    assert values["kd_then_align_base_reference"]["reward"] == {0: 8.0}


def test_every_pipeline_keeps_the_stages_that_it_was_run_with():
    def machine(record, seconds):
        record["stages"] = {key: {**stage, "seconds": seconds} for key, stage in record["stages"].items()}
        return record

    older, newer = machine(mog_record(0), 1.0), machine(later(mog_record(0)), 99.0)
    newest = machine(replaced(later(mog_record(0)), "2026-06-01T00:00:00", "provenance", "created"), 1000.0)
    newest["pipelines"] = {name: newest["pipelines"][name] for name in ("base", "kd_then_align_base_preferences")}
    for order in ("kd_then_align", "align_then_kd"):
        del newer["pipelines"][order]
    ((record,),) = [run["records"] for run in runs.group_runs([older, newer, newest])]
    seconds = {name: {stage["seconds"] for stage in stages_of(record, name)} for name in record["pipelines"]}
    assert seconds == {
        **{name: {1.0} if name != "base" else set() for name in COMPARED},
        "kd_then_align_base_reference": {99.0},
        "kd_then_align_high_temperature": {99.0},
        "kd_then_align_base_preferences": {1000.0},
    }
    assert [made["created"] for made in record["earlier"]] == [r["provenance"]["created"] for r in (older, newer)]


def test_records_without_stages_and_checks_can_be_joined():
    older, newer = mog_record(0), later(mog_record(0))
    older["checks"] = {"healing_gap": 0.5}
    for entry in (*older["pipelines"].values(), *newer["pipelines"].values()):
        del entry["stages"]
    assert runs.group_runs([older, newer])[0]["records"][0]["checks"] == older["checks"]
    del newer["pipelines"]["align_then_kd"]
    del older["checks"]
    newer["checks"] = {"healing_gap": 0.7}
    assert runs.group_runs([older, newer])[0]["records"][0]["checks"] == newer["checks"]


def test_times_are_compared_as_times_and_not_as_text():
    early = replaced(mog_record(0), "2026-05-01T09:00:00+09:00", "provenance", "created")
    late = later(mog_record(0), base=7.0)
    late["provenance"]["created"] = "2026-05-01T01:00:00"
    assert runs.seed_values(runs.group_runs([late, early])[0])["base"]["reward"] == {0: 7.0}


@pytest.mark.parametrize("make", [mog_record, lm_record])
def test_a_setting_that_an_older_record_lacks_has_its_default(tmp_path, make):
    older, newer = make(0), make(1, dpo_label_noise=0.0)
    write([older, newer, make(2, dpo_label_noise=0.1)], tmp_path / "a.jsonl")
    assert "dpo_label_noise" not in older["settings"]
    found = runs.group_runs(records.load_records(tmp_path))
    assert [[record["seed"] for record in run["records"]] for run in found] == [[0, 1], [2]]
    assert runs.varying_settings(found) == ["dpo_label_noise"]


def test_varying_settings_are_those_in_which_runs_differ():
    found = runs.group_runs([mog_record(0, sharpening=s, beta=b) for s, b in ((1.0, 0.5), (2.0, 0.5))])
    assert runs.varying_settings(found) == ["sharpening"]
    assert runs.varying_settings(found[:1]) == []


def test_runs_are_read_in_the_order_of_their_settings():
    made = [lm_record(0), *(mog_record(0, sharpening=s) for s in (10.0, 2.0, 4.0))]
    found = runs.group_runs(made)
    assert [run["settings"].get("sharpening") for run in found] == [2.0, 4.0, 10.0, None]


# Summaries


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    write([mog_record(seed) for seed in range(6)], folder / "mog.jsonl")
    write([lm_record(0)], folder / "lm.jsonl")
    return json.loads(json.dumps(report_json(folder), allow_nan=False))


def test_the_report_has_the_promised_shape(report):
    for run in report["runs"]:
        assert {"world", "preset", "algorithm", "target", "settings", "checks", "pipelines", "claims"} <= set(run)
        for check in run["checks"].values():
            assert set(check) == {"passed", "value", "bar", "text"}
        for metrics in run["pipelines"].values():
            for entry in metrics.values():
                assert set(entry) == {"mean", "low", "high", "seeds"}
                assert all(set(seed) == {"seed", "value"} for seed in entry["seeds"])
        for claim in run["claims"]:
            assert {"metric", "statistic", "expected", "difference", "low", "high", "verdict"} <= set(claim)
            assert claim["statistic"] in ("mean_difference", "variance_ratio")
            assert claim["expected"] in ("up", "down")
            assert claim["verdict"] in ("holds", "fails", "undecided", "invalid", NOT_DECIDED)


def test_means_and_intervals_come_from_the_seeds_beside_them(report):
    entry = report["runs"][0]["pipelines"]["align_then_kd"]["reward"]
    values = [seed["value"] for seed in entry["seeds"]]
    assert len(values) == 6
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx(t_interval(values))


def test_one_seed_is_labelled_and_has_no_interval(report):
    run = report["runs"][1]
    assert run["label"] == "one seed: no verdict"
    assert {claim["verdict"] for claim in run["claims"]} == {"undecided", NOT_DECIDED}
    assert run["claims"][0]["low"] is None
    assert run["claims"][0]["difference"] == pytest.approx(
        run["pipelines"]["align_then_kd"]["reward"]["mean"] - run["pipelines"]["kd_then_align"]["reward"]["mean"]
    )


def test_several_seeds_carry_no_label(report):
    assert report["runs"][0]["label"] is None


def test_a_failed_check_makes_every_verdict_invalid_and_is_named():
    run = runs.group_runs([lm_record(seed, gap=2.0) for seed in range(3)])[0]
    claims = runs.summarise_run(run)["claims"]
    assert {(claim["verdict"], claim["failed_check"]) for claim in claims} == {("invalid", "healing")}


def test_checks_come_before_the_want_of_seeds():
    effects = {**LM, "base_aligned": LM["base"]}
    claims = runs.summarise_run(runs.group_runs([lm_record(0, effects=effects)])[0])["claims"]
    assert {claim["verdict"] for claim in claims} == {"invalid"}


def test_a_run_of_one_order_says_so():
    made = [without(mog_record(seed), "pipelines", "align_then_kd") for seed in range(3)]
    summary = runs.summarise_run(runs.group_runs(made)[0])
    assert summary["label"] == "not both orders: no verdict"
    assert {claim["verdict"] for claim in summary["claims"]} == {"undecided"}


def test_an_exploratory_run_has_no_verdict_however_many_seeds_it_has():
    (cell,) = plan.ARMS["learning_rate_both"].cells
    (run,) = runs.group_runs(recorded(cell, cell.seeds))
    summary = runs.summarise_run(run)
    assert summary["label"] == "exploratory: no verdict"
    assert {claim["verdict"] for claim in summary["claims"]} == {"exploratory"}


def test_frame_has_a_row_per_seed_and_metric_and_a_column_per_varying_setting():
    made = [mog_record(seed, sharpening=s) for seed in range(3) for s in (1.0, 2.0)]
    table = runs.frame(made)
    assert "sharpening" in table.columns
    assert "beta" not in table.columns
    rewards = table.query("pipeline == 'align_then_kd' and metric == 'reward' and sharpening == 1.0")
    assert list(rewards["seed"]) == [0, 1, 2]
    assert rewards["value"].mean() == pytest.approx(
        sum(r["pipelines"]["align_then_kd"]["metrics"]["reward"] for r in made[::2]) / 3
    )


def test_frame_of_nothing_still_has_its_columns():
    assert {"pipeline", "seed", "metric", "value"} <= set(runs.frame([]).columns)


def test_null_metrics_are_undefined_and_not_wrong():
    record = replaced(mog_record(0), None, "pipelines", "base", "metrics", "target_precision")
    run = runs.group_runs([records.validate_record(record)])[0]
    assert math.isnan(runs.seed_values(run)["base"]["target_precision"][0])
