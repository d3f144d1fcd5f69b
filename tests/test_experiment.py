"""From a world, a preset and some pipelines to records: end to end in both worlds, resumable, repeatable."""

import dataclasses
import gzip
import json
import time

import pytest
import torch
from tiny_lm import small

from alignkd_lab import experiment, pipelines
from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_experiment
from alignkd_lab.lm import trials
from alignkd_lab.lm import world as lm_world
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, YARDSTICKS
from alignkd_lab.presets import PRESETS
from alignkd_lab.records import device_of, load_records, validate_record
from alignkd_lab.report.numbers import report_json


@pytest.fixture
def quick(monkeypatch):
    """The tiny preset, smaller still."""
    tiny = PRESETS["tiny"]
    mog = dataclasses.replace(tiny.mog, rlhf_steps=5, dpo_steps=5, dpo_pairs=100, evaluation_draws=100, restarts=2)
    smaller = dataclasses.replace(tiny, lm=small(), mog=mog, sharpenings=(2.0,))
    monkeypatch.setitem(PRESETS, "tiny", smaller)
    return smaller


@pytest.fixture
def rated(monkeypatch):
    """No learning-rate trials: they have tests of their own."""
    monkeypatch.setattr(trials, "choose_rate", lambda *given: {"learning_rate": 1e-3, "trials": []})


def run_lm(out, **options):
    options = {"pipelines": ORDERS, "seeds": (0,), **options}
    return run_experiment(world="lm", preset="tiny", out=out, **options)


def run_mog(out, **options):
    options = {"algorithm": "dpo", **options}
    return run_experiment(world="mog", preset="tiny", out=out, **options)


def measured(path):
    """Everything that a record says about policies: metrics, counts, samples and views."""
    return {
        record["seed"]: {
            name: {key: value for key, value in entry.items() if key != "stages"}
            for name, entry in record["pipelines"].items()
        }
        for record in load_records(path)
    }


# End to end -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tiny preset as it is, both worlds into one folder."""
    out, started = tmp_path_factory.mktemp("out"), time.process_time()
    paths = {world: run_experiment(world=world, preset="tiny", out=out) for world in ("mog", "lm")}
    return out, paths, time.process_time() - started


def test_tiny_runs_end_to_end_in_both_worlds_in_seconds(whole):
    _, paths, seconds = whole
    assert seconds < 40
    assert {world: path.name for world, path in paths.items()} == {
        "mog": "mog-tiny-rare_mode.jsonl",
        "lm": "lm-tiny-dpo-digit.jsonl",
    }


def test_every_record_is_valid_and_names_what_it_came_from(whole):
    for record in load_records(whole[0]):
        validate_record(record)
        assert {*YARDSTICKS, *ORDERS} <= set(record["pipelines"])
        assert record["provenance"]["seconds"] > 0
        assert record["provenance"]["torch"] == torch.__version__
        used = {key for entry in record["pipelines"].values() for key in entry["stages"]}
        assert used == set(record["stages"])
        for stage in record["stages"].values():
            assert {"name", "kind", "seconds", "tokens", "peak_memory_bytes", "info"} <= set(stage)
            assert stage["tokens"]["sampled"] > 0


def test_the_language_record_carries_controls_counts_samples_checks_and_weights(whole):
    (record,) = load_records(whole[1]["lm"])
    assert set(record["pipelines"]) == {*ORDERS, *CONTROLS, *YARDSTICKS}
    assert record["target"] == record["settings"]["target"] == "digit"
    for entry in record["pipelines"].values():
        assert entry["counts"]["responses"] == 32
        assert len(entry["samples"]) == 8
        assert {"length", "distinct_responses", "target_rate", "reward"} <= set(entry["metrics"])
    assert record["checks"]["healing_bar"] == 1.0
    assert record["provenance"]["weights"]["base"] == "random:tiny-base"
    aligns = [stage for stage in record["stages"].values() if stage["kind"] == "align"]
    assert all(stage["info"]["informative_pairs"] >= 0 and len(stage["info"]["trials"]) == 2 for stage in aligns)


def test_the_gaussian_records_cover_both_algorithms_every_cell_and_every_seed(whole):
    records = load_records(whole[1]["mog"])
    tiny = PRESETS["tiny"]
    cells = {
        (record["algorithm"], record["settings"]["beta"], record["settings"]["sharpening"], record["seed"])
        for record in records
    }
    assert len(records) == len(cells) == 2 * len(tiny.betas) * len(tiny.sharpenings) * len(tiny.mog_seeds)
    for record in records:
        missing = {*ORDERS, *CONTROLS, *YARDSTICKS} - set(record["pipelines"])
        assert missing == (set() if record["algorithm"] == "dpo" else {"kd_then_align_base_preferences"})
        assert all(set(entry["view"]) == {"weights", "means", "sds"} for entry in record["pipelines"].values())
        for stage in record["stages"].values():
            assert "per_seed" not in stage["info"]
            assert isinstance(stage["info"].get("gap", 0.0), float)


def test_every_method_runs_from_one_command_into_one_record(tmp_path):
    path = run_experiment(world="lm", preset="tiny", pipelines=METHODS, seeds=(0,), out=tmp_path)
    (record,) = load_records(path)
    assert set(record["pipelines"]) == {*YARDSTICKS, *METHODS}
    for name in METHODS:
        metrics = record["pipelines"][name]["metrics"]
        assert {"reward", "target_rate", "overall_recall", "reward_accuracy", "kl_to_base"} <= set(metrics)
        last = record["stages"][record["pipelines"][name]["stages"][-1]]
        assert last["tokens"]["sampled"] > 0
        assert (last["tokens"]["trained"] > 0) == (last["info"].get("informative_pairs", 1) > 0)
        assert last["seconds"] > 0


def test_rlhf_is_the_second_algorithm_of_both_orders(tmp_path):
    path = run_experiment(
        world="lm", preset="tiny", algorithm="rlhf", pipelines=ORDERS, seeds=(0,), out=tmp_path,
        overrides={"rlhf_steps": 2},
    )  # fmt: skip
    assert path.name == "lm-tiny-rlhf-digit.jsonl"
    (record,) = load_records(path)
    aligned = [stage for stage in record["stages"].values() if stage["kind"] == "align"]
    assert len(aligned) == 2
    assert all(stage["info"]["groups"] == 4 and len(stage["info"]["rewards"]) == 2 for stage in aligned)


def test_the_report_reads_what_a_run_leaves(whole):
    runs = report_json(whole[0])["runs"]
    assert {run["world"] for run in runs} == {"mog", "lm"}
    for run in runs:
        assert {claim["metric"] for claim in run["claims"]} >= {
            "reward",
            "target_precision",
            "overall_recall",
        }
        assert {"kd_then_align", "align_then_kd"} <= set(run["pipelines"])
    json.dumps(runs, allow_nan=False)


# Again, and on ------------------------------------------------------------------------------------------


def test_a_finished_seed_is_not_run_again(tmp_path, quick, rated, monkeypatch):
    path = run_lm(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(lm_world, "LmWorld", lambda *a, **k: pytest.fail("ran again"))
    assert run_lm(tmp_path) == path
    assert run_lm(tmp_path, pipelines=["align_then_kd"]) == path
    assert path.read_bytes() == before


def test_a_finished_seed_is_not_run_again_where_its_record_is_packed(tmp_path, quick, rated):
    path = run_lm(tmp_path, pipelines=ORDERS, seeds=(0,))
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert [record["seed"] for record in load_records(run_lm(tmp_path, pipelines=ORDERS, seeds=(0, 1)))] == [1]


def test_a_seed_in_another_dtype_is_a_run_of_its_own(tmp_path, quick, rated):
    run_lm(tmp_path, pipelines=ORDERS, seeds=(0,))
    path = run_lm(tmp_path, pipelines=ORDERS, seeds=(0,), overrides={"dtype": "bfloat16"})
    made = [(device_of(record), record["settings"]["dtype"]) for record in load_records(path)]
    assert made == [("cpu", "default"), ("cpu, bfloat16", "bfloat16")]


def test_a_pipeline_that_was_not_asked_for_before_is_added_from_the_stages_that_are_there(
    tmp_path, quick, rated, monkeypatch
):
    path = run_lm(tmp_path)
    ran, real = [], lm_world.LmWorld.run
    monkeypatch.setattr(
        lm_world.LmWorld,
        "run",
        lambda self, stage, policies: ran.append(stage.name) or real(self, stage, policies),
    )
    run_lm(tmp_path, pipelines=[*ORDERS, CONTROLS[0]])
    assert ran == ["kd_aligned"]
    assert len(load_records(path)) == 2
    (run,) = report_json(path)["runs"]
    assert {*ORDERS, CONTROLS[0]} <= set(run["pipelines"])


def test_a_run_killed_between_seeds_keeps_the_finished_ones(tmp_path, quick, rated, monkeypatch):
    real = experiment.run_pipelines

    def killed_at_seed_one(world, *rest):
        if world.seeds == (1,):
            raise KeyboardInterrupt
        return real(world, *rest)

    monkeypatch.setattr(experiment, "run_pipelines", killed_at_seed_one)
    with pytest.raises(KeyboardInterrupt):
        run_lm(tmp_path, seeds=(0, 1))
    (path,) = tmp_path.glob("*.jsonl")
    before = path.read_bytes()
    assert [record["seed"] for record in load_records(path)] == [0]
    monkeypatch.setattr(experiment, "run_pipelines", real)
    run_lm(tmp_path, seeds=(0, 1))
    assert path.read_bytes().startswith(before)
    assert [record["seed"] for record in load_records(path)] == [0, 1]
    found = measured(path)
    assert found[0]["base"]["samples"] != found[1]["base"]["samples"]  # another seed, other responses


def test_a_run_killed_within_a_seed_ends_with_the_same_record_as_one_that_was_not(tmp_path, quick, rated, monkeypatch):
    expected = measured(run_lm(tmp_path / "whole"))
    real = lm_world.LmWorld.align

    def killed(self, *given):
        if "kd_aligned" in given[4:]:
            raise KeyboardInterrupt
        return real(self, *given)

    monkeypatch.setattr(lm_world.LmWorld, "align", killed)
    with pytest.raises(KeyboardInterrupt):
        run_lm(tmp_path / "cut")
    monkeypatch.setattr(lm_world.LmWorld, "align", real)
    torch.manual_seed(99)
    assert measured(run_lm(tmp_path / "cut")) == expected


def test_the_same_seed_gives_the_same_record_whatever_ran_before_and_in_whatever_order(tmp_path, quick, rated):
    torch.manual_seed(1)
    first = measured(run_lm(tmp_path / "first"))
    torch.manual_seed(2)
    assert measured(run_lm(tmp_path / "second", pipelines=ORDERS[::-1])) == first


def test_a_first_record_that_was_torn_does_not_stop_the_next_run(tmp_path, quick):
    path = run_mog(tmp_path, seeds=(0,))
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.warns(UserWarning, match="torn"):
        run_mog(tmp_path, seeds=(0,))
    assert measured(path) == {0: measured(path)[0]}
    assert len(path.read_bytes().splitlines()) == 1


def test_the_same_settings_of_another_preset_are_another_run(tmp_path, quick, monkeypatch):
    run_mog(tmp_path, seeds=(0, 1))
    monkeypatch.setitem(PRESETS, "laptop", quick)
    for seeds in ((0,), (0, 1)):
        path = run_experiment(world="mog", preset="laptop", out=tmp_path, algorithm="dpo", seeds=seeds)
    assert [record["seed"] for record in load_records(path)] == [0, 1]


# The Gaussian world -------------------------------------------------------------------------------------


def test_a_gaussian_seed_does_not_depend_on_the_seeds_beside_it(tmp_path, quick):
    together, alone = (
        measured(run_mog(tmp_path / "a", seeds=(0, 1, 2))),
        measured(run_mog(tmp_path / "b", seeds=(1,))),
    )
    for name, entry in alone[1].items():
        assert entry["metrics"] == pytest.approx(together[1][name]["metrics"], rel=1e-9)
        assert torch.tensor(entry["view"]["means"]).allclose(torch.tensor(together[1][name]["view"]["means"]))


def test_only_missing_gaussian_seeds_are_run(tmp_path, quick):
    run_mog(tmp_path, seeds=(0, 1))
    path = run_mog(tmp_path, seeds=(0, 1, 2))
    assert [record["seed"] for record in load_records(path)] == [0, 1, 2]


def test_a_setting_given_by_hand_replaces_the_presets_cells_and_is_kept_in_the_record(tmp_path, quick):
    path = run_mog(tmp_path, seeds=(0,), overrides={"sharpening": 3, "beta": 2, "training_draws": 50})
    (record,) = load_records(path)
    found = {name: record["settings"][name] for name in ("sharpening", "beta", "training_draws")}
    assert found == {"sharpening": 3.0, "beta": 2.0, "training_draws": 50}


def test_a_run_with_other_settings_stands_beside_the_first(tmp_path, quick):
    run_mog(tmp_path, seeds=(0,))
    run_mog(tmp_path, seeds=(0,), overrides={"dpo_label_noise": 0.1})
    assert len(report_json(tmp_path)["runs"]) == 2


def test_other_target_modes_are_named_in_record_and_file(tmp_path, quick):
    path = run_mog(tmp_path, seeds=(0,), overrides={"targets": [0, 3]})
    assert path.name == "mog-tiny-modes_0_3.jsonl"
    assert load_records(path)[0]["target"] == "modes_0_3"


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"world": "chess"}, "chess"),
        ({"world": "mog", "preset": "huge"}, "huge"),
        ({"world": "lm", "preset": "huge"}, "huge"),
        ({"world": "lm", "pipelines": ["align_only"]}, "align_only"),
        ({"world": "lm", "algorithm": "ppo"}, "ppo"),
        ({"world": "mog", "pipelines": ["adpa"]}, "'adpa' teaches by next-token distributions"),
        ({"world": "lm", "algorithm": "rlhf", "pipelines": ["dckd"]}, "'dckd' is compared under DPO"),
        ({"world": "mog", "algorithm": "ppo"}, "ppo"),
        ({"world": "lm", "target": "smile"}, "smile"),
        ({"world": "mog", "target": "smile"}, "smile"),
        ({"world": "lm", "overrides": {"betta": 1}}, "betta"),
        ({"world": "mog", "overrides": {"beta": "much"}}, "beta"),
        ({"world": "mog", "overrides": {"sharpening": -1}}, "sharpening"),
        ({"world": "lm", "seeds": (1_000_003,)}, "1000003"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name_and_leaves_no_record(options, named, tmp_path, quick):
    with pytest.raises(BadInput, match=named):
        run_experiment(**{"preset": "tiny", "out": tmp_path, **options})
    assert not list(tmp_path.rglob("*.jsonl"))


def test_the_network_decides_nothing(tmp_path, monkeypatch):
    settings = []
    monkeypatch.setattr("alignkd_lab.lm.weights.hub_reachable", lambda: pytest.fail("asked"))
    monkeypatch.setattr(lm_world, "LmWorld", lambda given, *rest: settings.append(given))
    with pytest.raises(AttributeError):
        run_experiment(world="lm", preset="gpu", out=tmp_path)
    assert settings[0].base == settings[0].truth == "smollm2-135m-instruct"


def test_a_record_from_before_a_setting_came_is_a_finished_seed(tmp_path, quick, rated, monkeypatch):
    path = run_lm(tmp_path)
    record = json.loads(path.read_text())
    del record["settings"]["dpo_label_noise"]
    path.write_text(json.dumps(record) + "\n")
    before = path.read_bytes()
    monkeypatch.setattr(lm_world, "LmWorld", lambda *a, **k: pytest.fail("ran again"))
    run_lm(tmp_path)
    assert path.read_bytes() == before


def test_a_run_keeps_its_stages_below_the_out_folder(tmp_path, quick, monkeypatch):
    run_mog(tmp_path, seeds=(0,))
    kept = [path.name for path in (tmp_path / "stages").iterdir()]
    assert {name.split("-")[0] for name in kept} == {"distil", "align", "evaluation"}
    monkeypatch.setattr(pipelines, "_measure", lambda *a: pytest.fail("ran again"))
    next(tmp_path.glob("*.jsonl")).unlink()
    run_mog(tmp_path, seeds=(0,))
