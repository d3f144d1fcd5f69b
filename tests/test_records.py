"""Records: what is refused, what survives a torn line, what is pooled, and the JSON that comes out."""

import dataclasses
import gzip
import json
import math
import subprocess
import sys

import pytest
from synthetic_records import LM, lm_record, mog_record, write

from alignkd_lab import records
from alignkd_lab.errors import AlignkdError
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.metrics import t_interval
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.report.numbers import report_json


def without(record, *path):
    changed = json.loads(json.dumps(record))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed


def replaced(record, value, *path):
    changed = json.loads(json.dumps(record))
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


def complete_settings(record):
    """The record with every setting of its world, the way a reader gets it."""
    settings = LmSettings() if record["world"] == "lm" else MogSettings()
    return {**record, "settings": {**json.loads(json.dumps(dataclasses.asdict(settings))), **record["settings"]}}


# Reading and writing


def test_what_was_appended_is_what_is_loaded(tmp_path):
    made = [mog_record(0), lm_record(0), mog_record(1)]
    for record in made:
        records.append_record(tmp_path / "runs" / "a.jsonl", record)
    complete = [complete_settings(record) for record in made]
    assert sorted(map(json.dumps, records.load_records(tmp_path))) == sorted(map(json.dumps, complete))


def test_every_jsonl_file_below_the_folder_is_read(tmp_path):
    write([mog_record(0)], tmp_path / "a.jsonl")
    write([mog_record(1), mog_record(2)], tmp_path / "deep" / "down" / "b.jsonl")
    (tmp_path / "notes.txt").write_text("not a record")
    assert [record["seed"] for record in records.load_records(tmp_path)] == [0, 1, 2]


def test_packed_files_are_read_like_others(tmp_path):
    plain = write([mog_record(0), mog_record(1)], tmp_path / "a.jsonl")
    loose = records.load_records(tmp_path)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert records.load_records(tmp_path) == records.load_records(packed) == loose
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(records.RecordError, match=r"a\.jsonl\.gz: cannot be unpacked"):
        records.load_records(tmp_path)


@pytest.mark.parametrize("field", ["schema", "world", "preset", "algorithm", "target", "settings", "seed"])
def test_a_missing_field_is_named_with_file_and_line(tmp_path, field):
    path = write([mog_record(0), without(mog_record(1), field)], tmp_path / "a.jsonl")
    with pytest.raises(records.RecordError, match=rf"a\.jsonl, line 2: {field} must") as caught:
        records.load_records(path)
    assert isinstance(caught.value, AlignkdError)


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (
            "high",
            ("pipelines", "base", "metrics", "reward"),
            "pipelines.base.metrics.reward must be a number",
        ),
        (True, ("pipelines", "base", "metrics", "reward"), "pipelines.base.metrics.reward must be a number"),
        (["nowhere"], ("pipelines", "base", "stages"), "pipelines.base.stages must name keys"),
        ("moon", ("world",), "world must be one of mog, lm"),
        (2, ("schema",), "schema must be 1"),
        (True, ("seed",), "seed must be of type int"),
        ("yesterday", ("provenance", "created"), "provenance.created must be an ISO time"),
        (None, ("provenance", "device"), "provenance.device must be of type str"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(value, path, words):
    with pytest.raises(records.RecordError, match=words):
        records.validate_record(replaced(mog_record(0), value, *path))


def test_null_metrics_are_undefined_and_not_wrong():
    record = replaced(mog_record(0), None, "pipelines", "base", "metrics", "target_precision")
    run = records.group_runs([records.validate_record(record)])[0]
    assert math.isnan(records.seed_values(run)["base"]["target_precision"][0])


def test_infinity_is_refused_when_it_is_written(tmp_path):
    record = replaced(mog_record(0), math.inf, "pipelines", "base", "metrics", "reward")
    with pytest.raises(records.RecordError, match="NaN or infinite"):
        records.append_record(tmp_path / "a.jsonl", record)
    assert not (tmp_path / "a.jsonl").exists()


def test_a_torn_last_line_is_left_out_and_reported(tmp_path):
    path = write([mog_record(0), mog_record(1)], tmp_path / "a.jsonl")
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(mog_record(2))[:300])
    with pytest.warns(UserWarning, match=r"a\.jsonl, line 3: the last line is torn"):
        assert [record["seed"] for record in records.load_records(path)] == [0, 1]


def test_a_broken_line_before_the_last_is_an_error(tmp_path):
    path = write([mog_record(0)], tmp_path / "a.jsonl")
    path.write_text(json.dumps(mog_record(0))[:300] + "\n" + path.read_text())
    with pytest.raises(records.RecordError, match=r"a\.jsonl, line 1: not JSON"):
        records.load_records(path)


def test_appending_cuts_off_a_torn_line_and_keeps_the_rest(tmp_path):
    path = write([mog_record(0)], tmp_path / "a.jsonl")
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(mog_record(1))[:300])
    with pytest.warns(UserWarning, match="line 2: the last line was torn"):
        records.append_record(path, mog_record(2))
    assert [record["seed"] for record in records.load_records(path)] == [0, 2]


def test_appending_to_nothing_but_a_torn_line_starts_afresh(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"schema": 1, "wor')
    with pytest.warns(UserWarning, match="line 1"):
        records.append_record(path, mog_record(0))
    assert records.load_records(path) == [complete_settings(mog_record(0))]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = write([mog_record(0)], tmp_path / "a.jsonl")
    path.write_text(path.read_text().rstrip("\n"))
    records.append_record(path, mog_record(1))
    assert [record["seed"] for record in records.load_records(path)] == [0, 1]


def test_an_empty_folder_and_a_missing_one_say_what_to_do(tmp_path):
    with pytest.raises(records.RecordError, match="alignkd run --out"):
        records.load_records(tmp_path)
    with pytest.raises(records.RecordError, match="nowhere does not exist"):
        records.load_records(tmp_path / "nowhere")


# Grouping


def test_records_that_differ_in_their_seed_alone_are_one_run():
    runs = records.group_runs([mog_record(seed) for seed in (2, 0, 1)])
    assert [[record["seed"] for record in run["records"]] for run in runs] == [[0, 1, 2]]


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
    runs = records.group_runs([mog_record(0), replaced(mog_record(1), value, *path)])
    assert [len(run["records"]) for run in runs] == [1, 1]


def test_a_device_is_named_with_the_type_of_its_products_where_that_is_not_the_usual_one():
    def named(device, products):
        return records.device_of({"provenance": {"device": device, "weights": {"products": products}}})

    assert [named("cpu", "torch.float32"), named("cpu", "torch.bfloat16")] == ["cpu", "cpu, bfloat16"]
    assert named("cuda", "torch.bfloat16") == "cuda"


def test_the_way_a_number_is_written_makes_no_new_run():
    assert len(records.group_runs([mog_record(0, sharpening=2), mog_record(1, sharpening=2.0)])) == 1


def later(record, **metrics):
    changed = replaced(record, "2026-05-01T00:00:00+02:00", "provenance", "created")
    for name, value in metrics.items():
        changed["pipelines"][name]["metrics"]["reward"] = value
    return changed


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_record_of_a_seed_wins_in_whatever_order_they_lie(turned):
    pair = [mog_record(0), later(mog_record(0), base=7.0)]
    runs = records.group_runs(pair[::-1] if turned else pair)
    assert records.seed_values(runs[0])["base"]["reward"] == {0: 7.0}


def test_an_older_record_fills_in_the_pipelines_that_a_newer_one_lacks():
    newer = without(later(mog_record(0), base=7.0), "pipelines", "align_then_kd")
    values = records.seed_values(records.group_runs([newer, mog_record(0)])[0])
    assert values["base"]["reward"] == {0: 7.0}
    assert "align_then_kd" in values


def test_yardsticks_stay_beside_the_orders_that_they_were_run_with():
    newer = later(mog_record(0), base=7.0, kd_then_align_base_reference=8.0)
    for order in ("kd_then_align", "align_then_kd"):
        del newer["pipelines"][order]
    newer["stages"] = {name: {**stage, "seconds": 99.0} for name, stage in newer["stages"].items()}
    (run,) = records.group_runs([mog_record(0), newer])
    values = records.seed_values(run)
    assert values["base"]["reward"] == records.seed_values({"records": [mog_record(0)]})["base"]["reward"]
    assert values["kd_then_align_base_reference"]["reward"] == {0: 8.0}
    (record,) = run["records"]
    kept = {stage for name in ("base", "base_aligned", "kd_only") for stage in record["pipelines"][name]["stages"]}
    assert kept
    assert {stage for stage in record["stages"] if record["stages"][stage]["seconds"] != 99.0} == kept


def test_times_are_compared_as_times_and_not_as_text():
    early = replaced(mog_record(0), "2026-05-01T09:00:00+09:00", "provenance", "created")
    late = later(mog_record(0), base=7.0)
    late["provenance"]["created"] = "2026-05-01T01:00:00"
    assert records.seed_values(records.group_runs([late, early])[0])["base"]["reward"] == {0: 7.0}


@pytest.mark.parametrize("make", [mog_record, lm_record])
def test_a_setting_that_an_older_record_lacks_has_its_default(tmp_path, make):
    older, newer = make(0), make(1, dpo_label_noise=0.0)
    write([older, newer, make(2, dpo_label_noise=0.1)], tmp_path / "a.jsonl")
    assert "dpo_label_noise" not in older["settings"]
    runs = records.group_runs(records.load_records(tmp_path))
    assert [[record["seed"] for record in run["records"]] for run in runs] == [[0, 1], [2]]
    assert records.varying_settings(runs) == ["dpo_label_noise"]


def test_reading_records_loads_no_torch(tmp_path):
    path = write([mog_record(0), lm_record(0)], tmp_path / "a.jsonl")
    code = f"import sys; from alignkd_lab.records import load_records; load_records({str(path)!r}); "
    found = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "False", found.stderr[-2000:]


def test_varying_settings_are_those_in_which_runs_differ():
    runs = records.group_runs([mog_record(0, sharpening=s, beta=b) for s, b in ((1.0, 0.5), (2.0, 0.5))])
    assert records.varying_settings(runs) == ["sharpening"]
    assert records.varying_settings(runs[:1]) == []


def test_runs_are_read_in_the_order_of_their_settings():
    made = [lm_record(0), *(mog_record(0, sharpening=s) for s in (10.0, 2.0, 4.0))]
    runs = records.group_runs(made)
    assert [run["settings"].get("sharpening") for run in runs] == [2.0, 4.0, 10.0, None]


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
            assert claim["verdict"] in ("holds", "fails", "undecided", "invalid")


def test_means_and_intervals_come_from_the_seeds_beside_them(report):
    entry = report["runs"][0]["pipelines"]["align_then_kd"]["reward"]
    values = [seed["value"] for seed in entry["seeds"]]
    assert len(values) == 6
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx(t_interval(values))


def test_one_seed_is_labelled_and_has_no_interval(report):
    run = report["runs"][1]
    assert run["label"] == "one seed: no verdict"
    assert {claim["verdict"] for claim in run["claims"]} == {"undecided"}
    assert run["claims"][0]["low"] is None
    assert run["claims"][0]["difference"] == pytest.approx(
        run["pipelines"]["align_then_kd"]["reward"]["mean"] - run["pipelines"]["kd_then_align"]["reward"]["mean"]
    )


def test_several_seeds_carry_no_label(report):
    assert report["runs"][0]["label"] is None


def test_a_failed_check_makes_every_verdict_invalid_and_is_named():
    run = records.group_runs([lm_record(seed, gap=2.0) for seed in range(3)])[0]
    claims = records.summarise_run(run)["claims"]
    assert {(claim["verdict"], claim["failed_check"]) for claim in claims} == {("invalid", "healing")}


def test_checks_come_before_the_want_of_seeds():
    effects = {**LM, "base_aligned": LM["base"]}
    claims = records.summarise_run(records.group_runs([lm_record(0, effects=effects)])[0])["claims"]
    assert {claim["verdict"] for claim in claims} == {"invalid"}


def test_a_run_of_one_order_says_so():
    made = [without(mog_record(seed), "pipelines", "align_then_kd") for seed in range(3)]
    summary = records.summarise_run(records.group_runs(made)[0])
    assert summary["label"] == "not both orders: no verdict"
    assert {claim["verdict"] for claim in summary["claims"]} == {"undecided"}


def test_strict_replaces_only_what_json_cannot_hold():
    assert records.strict({"a": [math.nan, (1.5, -math.inf)], "b": "nan", "c": 0}) == {
        "a": [None, [1.5, None]],
        "b": "nan",
        "c": 0,
    }


def test_frame_has_a_row_per_seed_and_metric_and_a_column_per_varying_setting():
    made = [mog_record(seed, sharpening=s) for seed in range(3) for s in (1.0, 2.0)]
    table = records.frame(made)
    assert "sharpening" in table.columns
    assert "beta" not in table.columns
    rewards = table.query("pipeline == 'align_then_kd' and metric == 'reward' and sharpening == 1.0")
    assert list(rewards["seed"]) == [0, 1, 2]
    assert rewards["value"].mean() == pytest.approx(
        sum(r["pipelines"]["align_then_kd"]["metrics"]["reward"] for r in made[::2]) / 3
    )


def test_frame_of_nothing_still_has_its_columns():
    assert {"pipeline", "seed", "metric", "value"} <= set(records.frame([]).columns)
