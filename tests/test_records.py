"""Records: what is refused, what one seed's file holds after several runs, what makes a run, and the tables of runs."""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from synthetic_records import lm_record, mog_record, replaced, without

from alignkd_lab import recording, records
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import CONTROLS, ORDERS, PIPELINES, YARDSTICKS
from alignkd_lab.presets import override
from alignkd_lab.provenance import device_label
from alignkd_lab.recording import RecordError, file_of, find, merge, read_json, run_key, write

SHIPPED = data_folder() / "records"
COMPARED = (*YARDSTICKS, *ORDERS)


def later(record, created="2026-05-01T00:00:00+02:00", **rewards):
    """The record made again later, with these rewards."""
    changed = replaced(record, created, "provenance", "created")
    for name, value in rewards.items():
        changed["pipelines"][name]["metrics"]["reward"] = value
    return changed


def only(record, *names):
    return {**record, "pipelines": {name: record["pipelines"][name] for name in names}}


def tables(*made):
    return records.tabulate(recording.newest(made))


# One seed's file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["schema", "world", "preset", "algorithm", "device", "target", "settings", "seed",
                                   "pipelines", "stages", "provenance"])  # fmt: skip
def test_a_missing_field_is_named_with_its_file_and_the_way_out(tmp_path, field):
    path = write(tmp_path, mog_record(0))
    path.write_text(json.dumps(without(mog_record(0), field)))
    with pytest.raises(RecordError, match=rf"seed0\.json: .*\({field} must .*\); remove it and run its seed again"):
        records.load(tmp_path)


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        ("high", ("pipelines", "base", "metrics", "reward"), "pipelines.base.metrics.reward must be a number or null"),
        (True, ("pipelines", "base", "metrics", "reward"), "pipelines.base.metrics.reward must be a number"),
        (["nowhere"], ("pipelines", "base", "stages"), "pipelines.base.stages names 'nowhere'"),
        (None, ("pipelines", "base", "stages"), "pipelines.base.stages must be a list"),
        ([], ("pipelines", "base", "metrics"), "pipelines.base.metrics must be an object"),
        (7, ("pipelines", "base"), "pipelines.base.metrics must be an object"),
        ({"name": "kd", "kind": "distil"}, ("stages", "kd"), "stages.kd.info must be an object"),
        ("moon", ("world",), "world must be one of mog, lm"),
        ("ppo", ("algorithm",), "algorithm must be one of rlhf, dpo"),
        (1, ("schema",), "schema must be 2, not 1: another version"),
        (True, ("seed",), "seed must be a whole number"),
        ("yesterday", ("provenance", "created"), "provenance.created must be an ISO time, not 'yesterday'"),
        (None, ("provenance", "created"), "provenance.created must be an ISO time"),
    ],
)
def test_a_wrong_value_is_named_with_its_field_and_never_written(tmp_path, value, path, words):
    with pytest.raises(RecordError, match=words):
        write(tmp_path, replaced(mog_record(0), value, *path))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("text", ["", '{"schema": 2, "wor', "[1]", "\xff", json.dumps({"losses": [1]})])
def test_a_torn_or_foreign_file_is_named_with_the_way_out_and_hides_no_other_folder(tmp_path, text):
    path = write(tmp_path / "a", mog_record(0))
    path.write_text(text, encoding="latin-1")
    write(tmp_path / "b", mog_record(0))
    with pytest.raises(RecordError, match=rf"{path.name}: not a record .*; remove it and run its seed again"):
        records.load(tmp_path)
    assert records.load(tmp_path / "b").seeds == [0]


def test_what_was_kept_before_stays_where_infinity_is_refused_or_a_write_is_cut_off(tmp_path, monkeypatch):
    path = write(tmp_path, mog_record(0))
    before = path.read_bytes()
    for value in (math.inf, math.nan):
        with pytest.raises(RecordError, match="NaN or infinite"):
            write(tmp_path, later(mog_record(0), base=value))
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, later(mog_record(0), base=7.0))
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert read_json(write(tmp_path, later(mog_record(0), base=7.0)))["pipelines"]["base"]["metrics"]["reward"] == 7.0
    assert [held.suffix for held in path.parent.iterdir() if held.name != ".lock"] == [".json"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode  # whoever reads other files reads it


def _write_all(folder, seeds, pipelines):
    for seed in seeds:
        write(folder, only(mog_record(seed), *pipelines))


def test_processes_that_write_the_same_seeds_lose_none_of_their_pipelines(tmp_path):
    jobs = [(range(8), ("base", "kd_only")), (range(8), ORDERS), (range(4, 12), CONTROLS)]
    start = multiprocessing.get_context("fork")
    running = [start.Process(target=_write_all, args=(tmp_path, *job)) for job in jobs]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    for seed in range(12):
        expected = {name for seeds, names in jobs if seed in seeds for name in names}
        (path,) = tmp_path.rglob(f"*-seed{seed}.json")
        assert set(read_json(path)["pipelines"]) == expected


# Runs of one seed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_record_of_a_seed_wins_wherever_the_two_lie_and_the_older_fills_in(tmp_path, turned):
    pair = [mog_record(0), without(later(mog_record(0), base=7.0), "pipelines", CONTROLS[0])]
    for place, record in enumerate(pair[::-1] if turned else pair):
        write(tmp_path / str(place), record)
    held = records.load(tmp_path)
    assert (len(held.runs), held.seeds, held.table().at[0, "base"]) == (1, [0], 7.0)
    assert held.table().at[0, CONTROLS[0]] == mog_record(0)["pipelines"][CONTROLS[0]]["metrics"]["reward"]


def test_times_are_compared_as_times_and_not_as_text():
    early = later(mog_record(0), "2026-05-01T09:00:00+09:00")
    late = later(mog_record(0), "2026-05-01T01:00:00", base=7.0)
    assert tables(late, early).table().at[0, "base"] == 7.0


@pytest.mark.parametrize("lacking", [ORDERS, ORDERS[1:]])
def test_orders_and_yardsticks_stay_together_until_both_orders_are_run_again(lacking):
    older, newer = mog_record(0), later(mog_record(0), base=7.0, kd_then_align=6.0, **{CONTROLS[0]: 8.0})
    for order in lacking:
        del newer["pipelines"][order]
    merged = merge(older, newer)
    assert {name: merged["pipelines"][name]["metrics"] for name in COMPARED} == {
        name: older["pipelines"][name]["metrics"] for name in COMPARED
    }
    assert merged["pipelines"][CONTROLS[0]]["metrics"]["reward"] == 8.0
    both = merge(older, later(mog_record(0), base=7.0))
    assert both["pipelines"]["base"]["metrics"]["reward"] == 7.0


def test_every_pipeline_keeps_the_stages_and_the_file_all_the_makers_that_it_was_run_with():
    def machine(record, seconds):
        return {**record, "stages": {key: {**s, "seconds": seconds} for key, s in record["stages"].items()}}

    older, newer = machine(mog_record(0), 1.0), machine(later(mog_record(0)), 99.0)
    newest = only(machine(later(mog_record(0), "2026-06-01T00:00:00"), 1000.0), "base", CONTROLS[1])
    newer = only(newer, *(name for name in newer["pipelines"] if name not in ORDERS))
    held = tables(newest, older, newer)
    seconds = held.stages.groupby("pipeline")["seconds"].unique().map(list).to_dict()
    expected = {name: [1.0] for name in COMPARED if name != "base"}
    assert seconds == expected | {CONTROLS[0]: [99.0], CONTROLS[1]: [1000.0], CONTROLS[2]: [99.0]}
    (earlier,) = map(json.loads, held.provenance["earlier"])
    assert [made["created"] for made in earlier] == [r["provenance"]["created"] for r in (older, newer)]


def test_the_checks_of_a_seed_are_those_of_the_orders_that_count():
    older, newer = lm_record(0, gap=0.5), later(lm_record(0, gap=0.7))
    assert merge(older, newer)["checks"]["healing_gap"] == 0.7
    assert merge(older, without(newer, "pipelines", ORDERS[1]))["checks"]["healing_gap"] == 0.5
    assert merge(without(older, "checks"), without(newer, "pipelines", ORDERS[1]))["checks"]["healing_gap"] == 0.7
    assert merge(older, without(newer, "checks"))["checks"]["healing_gap"] == 0.5


# What makes a run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("gpu", ("preset",)), ("cuda", ("device",)), ("cpu, bfloat16", ("device",)), ("dpo", ("algorithm",)),
        ("digit", ("target",)), (1.0, ("settings", "beta")), (3, ("settings", "restarts")),
    ],
)  # fmt: skip
def test_records_that_differ_in_their_seed_alone_are_one_run_and_no_others(value, path):
    alike = tables(*(mog_record(seed) for seed in (2, 0, 1)))
    assert (len(alike.runs), alike.seeds) == (1, [0, 1, 2])
    assert file_of(data_folder(), mog_record(0)) != file_of(data_folder(), mog_record(1))
    apart = tables(mog_record(0), replaced(mog_record(1), value, *path))
    assert [run.seeds for run in apart.each()] in ([[0], [1]], [[1], [0]])
    with pytest.raises(BadInput, match="here are 2"):
        apart.table()


@pytest.fixture
def noise_came_later(monkeypatch):
    monkeypatch.setattr(recording, "ADDED", {world: {"dpo_label_noise": 0.0} for world in ("mog", "lm")})
    records._settings.cache_clear()
    yield
    records._settings.cache_clear()


@pytest.mark.parametrize("make", [mog_record, lm_record])
def test_the_way_a_number_is_written_and_a_setting_that_came_later_make_no_new_run(make, noise_came_later):
    older, newer = make(0, beta=2), make(1, beta=2.0, dpo_label_noise=0)
    del older["settings"]["dpo_label_noise"]
    held = tables(older, newer, make(2, beta=2, dpo_label_noise=0.1))
    assert [run.seeds for run in held.each()] == [[0, 1], [2]]
    assert records.varying_settings(held) == ["dpo_label_noise"]
    assert held.select(seed=0).settings["dpo_label_noise"] == 0.0
    assert records.varying_settings(next(held.each())) == []


def test_a_seed_from_before_a_setting_came_is_found_and_added_to(tmp_path, request):
    older = only(mog_record(0), "base")
    del older["settings"]["dpo_label_noise"]
    path = write(tmp_path, older)
    request.getfixturevalue("noise_came_later")
    assert run_key(read_json(path)) not in path.name
    assert find(tmp_path, mog_record(0, dpo_label_noise=0), (0, 1)) == {0: path}
    assert find(tmp_path, mog_record(0, dpo_label_noise=0.1), (0,)) == {}
    assert write(tmp_path, mog_record(0, dpo_label_noise=0.0)) == path
    assert len(list(path.parent.glob("*.json"))) == 1
    assert read_json(path)["pipelines"].keys() == mog_record(0)["pipelines"].keys()


def test_where_no_setting_came_later_a_missing_seed_is_looked_for_by_its_name_alone(tmp_path, monkeypatch):
    write(tmp_path, mog_record(0, beta=1.0))
    monkeypatch.setattr(recording, "read_json", lambda path: pytest.fail("a map of n settings would read n² records"))
    assert find(tmp_path, mog_record(0), (0,)) == {}


def test_a_device_is_named_with_its_dtype_where_that_is_not_the_usual_one():
    labels = {("cpu", "torch.float32"): "cpu", ("cpu", "bfloat16"): "cpu, bfloat16", ("cpu", None): "cpu",
              ("cuda", "torch.bfloat16"): "cuda", ("cuda", "float32"): "cuda, float32"}  # fmt: skip
    assert {made: device_label(*made) for made in labels} == labels


# Tables ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def held():
    """Two Gaussian runs of three seeds, and a language run of two under a study's arms."""
    gaussians = [mog_record(seed, sharpening=s) for s in (10.0, 2.0) for seed in range(3)]
    language = [lm_record(seed, align_learning_rates=[3e-4, 6e-4]) for seed in range(2)]
    for record in language:
        for name, entry in record["pipelines"].items():
            entry["arm"] = ("controls" if name in CONTROLS else "main", "as registered")
    return records.concat([tables(*gaussians), records.tabulate(language, "a-study")])


def test_tables_hold_every_metric_count_stage_curve_response_and_component(held):
    run = held.select(world="lm")
    (entry,) = [lm_record(1)["pipelines"]["base_aligned"]]
    rows = run.metrics.query("pipeline == 'base_aligned' and seed == 1").set_index("metric")["value"]
    counts = {"responses": 512.0, "target_responses": entry["counts"]["target"]}
    assert rows.to_dict() == {**entry["metrics"], **counts}
    shown = run.responses.query("pipeline == 'base_aligned' and seed == 1").to_dict("records")
    assert [{name: row[name] for name in entry["samples"][0]} for row in shown] == entry["samples"]
    stages = run.stages.query("pipeline == 'kd_then_align' and seed == 1")
    assert stages["stage"].tolist() == ["kd", "kd_aligned"]
    assert stages["place"].tolist() == [0, 1]
    assert stages["sampled"].tolist() == [14_000, 14_000]
    curve = lm_record(1)["stages"]["base_aligned"]["info"]["curve"]
    told = run.curves.query("stage == 'base_aligned' and seed == 1 and curve == 'reward'")
    assert told["value"].tolist() == [point["reward"] for point in curve]
    assert told["step"].tolist() == [point["step"] for point in curve]
    assert set(told["pipeline"]) == {"base_aligned"}  # once, though A-K has that stage, too
    view = mog_record(2)["pipelines"]["base"]["view"]
    parts = held.select(sharpening=2.0, pipeline="base", seed=2).mixtures
    assert parts[["weight", "x", "y", "sd_x", "sd_y"]].to_numpy() == pytest.approx(
        np.column_stack([view["weights"], view["means"], view["sds"]])
    )
    assert set(run.runs["run"]) == {f"a-study/{run_key(lm_record(0, align_learning_rates=[3e-4, 6e-4]))}"}


def test_curves_of_steps_losses_and_trials_are_told_by_their_names():
    record = lm_record(0)
    by_step = {"losses": [2.0, None, 1.0], "rewards": [0.5], "kl": [0.1, 0.2]}
    record["stages"]["kd"]["info"] |= {**by_step, "trials": [{"a": 1}]}
    del record["pipelines"]["kd_only"]  # the pipeline that ends in it
    held = tables(record)
    rows = held.curves.query("stage == 'kd'")
    found = [(r.pipeline, r.curve, r.step, r.value) for r in rows.itertuples()]
    steps = [("loss", 1, 2.0), ("loss", 3, 1.0), ("step_reward", 1, 0.5), ("step_kl", 1, 0.1), ("step_kl", 2, 0.2)]
    assert found == [("kd_then_align", *row) for row in steps]
    assert held.stages.query("stage == 'kd'")["trials"].unique().tolist() == ['[{"a": 1}]']


def test_a_part_is_chosen_by_columns_and_settings_and_runs_come_one_by_one_in_the_order_of_theirs(held):
    assert held.select(world="mog", sharpening=(2.0, 3.0)).settings["sharpening"] == 2
    assert held.select(sharpening=[2.0, 10.0]).runs["run"].nunique() == 2
    assert held.select(align_learning_rates=(3e-4, 6e-4)).the_run()["world"] == "lm"
    part = held.select(arm=["controls"], seed=np.arange(1, 9))
    assert (part.pipelines, part.seeds) == (list(CONTROLS), [1])
    for name in ("metrics", "stages", "curves", "responses"):
        table = getattr(part, name)
        assert set(table["pipeline"]) <= set(CONTROLS)
        assert set(table["seed"]) == {1}
    assert part.provenance["seed"].tolist() == [1]
    assert len(part.runs) == 1
    with pytest.raises(BadInput, match=r"no record has arm='controls', beta=7; it holds .*arm main, controls"):
        held.select(arm="controls", beta=7)
    with pytest.raises(BadInput, match="modle"):
        held.select(modle=None)
    runs = list(held.each())
    assert [run.settings.get("sharpening") for run in runs] == [2.0, 10.0, None]
    for run in runs:
        alone = held.select(run=run.the_run()["run"])
        for name in records.COLUMNS:
            assert len(getattr(run, name)) == len(getattr(alone, name))
        assert run.table().equals(alone.table())


def test_a_folder_that_a_run_takes_away_meanwhile_is_passed_over(tmp_path, monkeypatch):
    write(tmp_path, mog_record(0))
    (tmp_path / "stages" / "writing").mkdir(parents=True)
    scandir = os.scandir

    def late(path):
        if str(path).endswith("writing"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert records.load(tmp_path).seeds == [0]
    assert not (tmp_path / "stages" / "writing").exists()


def test_a_run_is_a_table_of_seeds_and_pipelines_in_reading_order_and_null_is_nan(held):
    record = replaced(mog_record(1), None, "pipelines", "base", "metrics", "target_precision")
    run = tables(mog_record(0), only(record, "base", "align_then_kd"))
    assert list(run.table()) == run.pipelines == [*YARDSTICKS, *ORDERS, *CONTROLS]
    assert run.table().loc[1].notna().sum() == 2
    assert math.isnan(run.table("target_precision").at[1, "base"])
    assert run.paired_seeds() == [0]
    assert run.table("no such metric").empty
    assert held.select(world="lm").paired_seeds() == [0, 1]


def test_what_is_packed_is_read_back_and_a_file_that_is_none_is_named(held, tmp_path):
    path = records.pack(held, tmp_path / "deep" / "held.zip")
    assert [file.name for file in path.parent.iterdir()] == ["held.zip"]
    write(tmp_path, mog_record(0, sharpening=3.0))
    back = records.load(tmp_path)
    assert len(back.runs) == len(held.runs) + 1
    again = records.load(path, path.parent)  # the same file, named twice
    for name in records.COLUMNS:
        assert getattr(again, name).fillna(-1).astype(str).equals(getattr(held, name).fillna(-1).astype(str))
    whole = path.read_bytes()
    for torn in (whole[:-30], whole[:1000], b"", b"no zip"):
        path.write_bytes(torn)
        with pytest.raises(RecordError, match=r"held\.zip: no packed records"):
            records.load(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", '{"schema": 7}')
    with pytest.raises(RecordError, match=r"held\.zip: schema 7, and this version reads 2"):
        records.load(path)


def test_equal_responses_of_a_pipeline_all_count_and_what_two_folders_hold_counts_once(held):
    record = lm_record(0)
    record["pipelines"]["base"]["samples"] *= 2
    alike = tables(record)
    both = records.concat([alike, held, alike])
    for name in records.COLUMNS:
        assert len(getattr(both, name)) == len(getattr(alike, name)) + len(getattr(held, name))


def test_only_records_are_read_and_a_folder_without_any_says_what_to_do(tmp_path):
    with pytest.raises(RecordError, match=r"no records .*alignkd run --out"):
        records.load(tmp_path)
    with pytest.raises(RecordError, match="nowhere does not exist"):
        records.load(tmp_path / "nowhere")
    (tmp_path / "bench-cpu.json").write_text("{}")
    (tmp_path / "stages" / "align-0").mkdir(parents=True)
    (tmp_path / "stages" / "align-0" / "value.json").write_text("{}")
    write(tmp_path / "again", later(mog_record(0), base=7.0))
    assert records.record_files(tmp_path) == []
    path = write(tmp_path, mog_record(0))
    assert records.load(tmp_path).table().equals(records.load(path).table())  # and not what was run again
    assert records.load(tmp_path / "again").table().at[0, "base"] == 7.0


def test_reading_records_loads_no_torch(tmp_path):
    write(tmp_path, lm_record(0))
    code = f"import sys; from alignkd_lab import records, claims; next(records.load({str(tmp_path)!r}).each()); "
    code += "print(sorted({'torch', 'scipy', 'matplotlib', 'transformers'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr[-2000:]


# What ships ------------------------------------------------------------------------------------------------

RUNS = {"gaussians-pilot": 20, "gaussians-study": 56, "gaussians-map": 216, "gaussians-boundary": 726,
        "gaussians-split": 18, "smollm2-pilot": 2, "smollm2-study": 21}  # fmt: skip


def test_the_shipped_records_load_at_once_whole_with_each_figure_once_and_can_be_run_by_this_version():
    import pyarrow.parquet  # noqa: F401 — not what is timed

    started = time.process_time()
    held = {name: records.load(SHIPPED / f"{name}.zip") for name in RUNS}
    assert time.process_time() - started < 3
    for name, kept in held.items():
        assert (len(kept.runs), set(kept.metrics["study"])) == (RUNS[name], {name})
        assert not kept.metrics.duplicated(["run", "pipeline", "seed", "metric"]).any()
        assert kept.runs["run"].is_unique
        assert set(kept.metrics["run"]) == set(kept.runs["run"])
        assert len(kept.provenance) == len(kept.metrics[["run", "seed"]].drop_duplicates())
    assert {path.stem for path in SHIPPED.glob("*.zip")} == set(RUNS)
    assert sum(path.stat().st_size for path in data_folder().rglob("*") if path.is_file()) < 25e6
    assert {name for kept in held.values() for name in kept.pipelines} <= set(PIPELINES)
    for kept in held.values():
        for run in kept.runs.to_dict("records"):
            settings = override({"mog": MogSettings, "lm": LmSettings}[run["world"]](), kept.settings_of(run["run"]))
            assert recording.plain_settings(settings) == kept.settings_of(run["run"])
