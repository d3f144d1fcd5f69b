"""Records: what is refused, what survives a torn line, and what is read back."""

import dataclasses
import gzip
import json
import math
import subprocess
import sys

import pytest
from synthetic_records import lm_record, mog_record, replaced, without, write

from alignkd_lab import records
from alignkd_lab.errors import AlignkdError
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import Outcome


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
    packed.write_bytes(b"".join(gzip.compress(line) for line in plain.read_bytes().splitlines(keepends=True)))
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


def test_infinity_is_refused_when_it_is_written(tmp_path):
    record = replaced(mog_record(0), math.inf, "pipelines", "base", "metrics", "reward")
    with pytest.raises(records.RecordError, match="NaN or infinite"):
        records.append_record(tmp_path / "a.jsonl", record)
    assert not (tmp_path / "a.jsonl").exists()


def test_an_undefined_metric_is_null_in_a_record(tmp_path):
    metrics = {"reward": [0.5, 1.0], "distinct_2": [0.1, math.nan]}
    outcome = Outcome(policy=None, stages=[], evaluation={"metrics": metrics})
    assert records.pipeline_entry(outcome, 1) == {"metrics": {"reward": 1.0, "distinct_2": None}, "stages": []}


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


def test_a_device_is_named_with_the_type_of_its_products_where_that_is_not_the_usual_one():
    def named(device, products):
        found = [{"products": products}, {"dtype": products and products.removeprefix("torch.")}]
        old, new = (records.device_of({"provenance": {"device": device, "weights": weights}}) for weights in found)
        assert old == new
        return new

    assert [named("cpu", "torch.float32"), named("cpu", "torch.bfloat16")] == ["cpu", "cpu, bfloat16"]
    assert named("cuda", "torch.bfloat16") == "cuda"


def test_reading_records_loads_no_torch(tmp_path):
    path = write([mog_record(0), lm_record(0)], tmp_path / "a.jsonl")
    code = f"import sys; from alignkd_lab import records, runs; runs.group_runs(records.load_records({str(path)!r})); "
    found = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "False", found.stderr[-2000:]


def test_strict_replaces_only_what_json_cannot_hold():
    assert records.strict({"a": [math.nan, (1.5, -math.inf)], "b": "nan", "c": 0}) == {
        "a": [None, [1.5, None]],
        "b": "nan",
        "c": 0,
    }
