"""From a world, a preset and some pipelines to records: end to end in both worlds, resumable, repeatable."""

import dataclasses
import time

import pytest
import torch
from tiny_lm import folder_of, small, watch

from alignkd_lab import claims, experiment, pipelines, records
from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_cell, run_experiment
from alignkd_lab.lm import trials
from alignkd_lab.lm import world as lm_world
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, PIPELINES, YARDSTICKS, planned_steps
from alignkd_lab.presets import PRESETS, default_pipelines, override, possible_pipelines
from alignkd_lab.recording import read_json, validate


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


def measured(files):
    """Everything that records say about policies: metrics, counts, samples and views."""
    return {
        record["seed"]: {
            name: {key: value for key, value in entry.items() if key != "stages"}
            for name, entry in record["pipelines"].items()
        }
        for record in map(read_json, files)
    }


def test_records_of_other_weights_are_refused_and_pipelines_that_mean_nothing_left_out(rated, quick, tmp_path, capsys):
    base = folder_of("tiny-base", tmp_path / "base")
    options = {"pipelines": ("kd_only",), "overrides": dataclasses.asdict(small()) | {"base": str(base)}}
    first = run_lm(tmp_path / "out", **options)
    assert run_lm(tmp_path / "out", **options) == first
    folder_of("tiny-truth", base)
    with pytest.raises(BadInput, match="seed 0 was made with other weights of the base"):
        run_lm(tmp_path / "out", **options)
    run_mog(tmp_path, algorithm="rlhf", pipelines=("kd_then_align_base_preferences", "kd_then_align"))
    assert "left out, since they mean nothing under rlhf: kd_then_align_base_preferences" in capsys.readouterr().err


# End to end -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tiny preset as it is, both worlds into one folder."""
    out, started = tmp_path_factory.mktemp("out"), time.process_time()
    files = {world: run_experiment(world=world, preset="tiny", out=out) for world in ("mog", "lm")}
    return out, files, time.process_time() - started


def test_tiny_runs_end_to_end_in_both_worlds_in_seconds_and_its_records_name_what_they_came_from(whole):
    out, files, seconds = whole
    assert seconds < 40
    assert sorted(out.rglob("runs/*.json")) == sorted([*files["mog"], *files["lm"]])
    assert [path.name.rpartition("-seed")[0][:-11] for path in files["lm"]] == ["lm-tiny-dpo-digit"]
    assert {path.name.split("-")[3] for path in files["mog"]} == {"rare_mode"}
    for record in map(read_json, [*files["mog"], *files["lm"]]):
        validate(record)
        assert record["device"] == "cpu"
        assert {*YARDSTICKS, *ORDERS} <= set(record["pipelines"])
        assert record["provenance"]["seconds"] > 0
        assert record["provenance"]["torch"] == torch.__version__
        assert {key for entry in record["pipelines"].values() for key in entry["stages"]} == set(record["stages"])
        for stage in record["stages"].values():
            assert {"name", "kind", "seconds", "tokens", "peak_memory_bytes", "info"} <= set(stage)
            assert stage["tokens"]["sampled"] > 0


def test_the_language_record_carries_controls_counts_samples_checks_and_weights(whole):
    (record,) = map(read_json, whole[1]["lm"])
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
    made, tiny = list(map(read_json, whole[1]["mog"])), PRESETS["tiny"]
    settings = [(record["algorithm"], record["seed"], record["settings"]) for record in made]
    cells = {(algorithm, seed, held["beta"], held["sharpening"]) for algorithm, seed, held in settings}
    assert len(made) == len(cells) == 2 * len(tiny.betas) * len(tiny.sharpenings) * len(tiny.mog_seeds)
    for record in made:
        missing = {*ORDERS, *CONTROLS, *YARDSTICKS} - set(record["pipelines"])
        assert missing == (set() if record["algorithm"] == "dpo" else {"kd_then_align_base_preferences"})
        assert all(set(entry["view"]) == {"weights", "means", "sds"} for entry in record["pipelines"].values())
        for stage in record["stages"].values():
            assert "per_seed" not in stage["info"]
            assert isinstance(stage["info"].get("gap", 0.0), float | None)


def test_what_a_run_leaves_is_read_as_runs_with_verdicts(whole):
    held = records.load(whole[0])
    runs = list(held.each())
    assert [run.the_run()["world"] for run in runs] == ["mog"] * 4 + ["lm"]
    for run in runs:
        assert set(claims.decide(run)["metric"]) >= {"reward", "target_precision", "overall_recall"}
        assert claims.checks(run)
        assert set(ORDERS) <= set(run.pipelines)
        assert set(run.curves["curve"]) >= {"reward", "kl"}
        assert len(run.mixtures if run.the_run()["world"] == "mog" else run.responses)


def test_rlhf_runs_from_one_command(tmp_path, quick, rated):
    (path,) = run_lm(tmp_path, algorithm="rlhf", overrides={"rlhf_steps": 2})
    assert path.name.startswith("lm-tiny-rlhf-digit-")
    aligned = [stage for stage in read_json(path)["stages"].values() if stage["kind"] == "align"]
    assert len(aligned) == 2
    assert all(stage["info"]["groups"] == 4 and len(stage["info"]["rewards"]) == 2 for stage in aligned)


# Again, and on ------------------------------------------------------------------------------------------


def test_a_finished_seed_is_not_run_again(tmp_path, quick, rated, monkeypatch):
    (path,) = run_lm(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(lm_world, "LmWorld", lambda *a, **k: pytest.fail("ran again"))
    assert run_lm(tmp_path) == run_lm(tmp_path, pipelines=["align_then_kd"]) == [path]
    assert path.read_bytes() == before


def test_a_seed_in_another_dtype_is_a_run_of_its_own(tmp_path, quick, rated):
    made = [read_json(*run_lm(tmp_path, overrides=changes)) for changes in ({}, {"dtype": "bfloat16"})]
    found = [(record["device"], record["settings"]["dtype"]) for record in made]
    assert found == [("cpu", "default"), ("cpu, bfloat16", "bfloat16")]
    assert len(records.load(tmp_path).runs) == 2


def test_a_pipeline_that_was_not_asked_for_before_is_added_from_the_stages_that_are_there(
    tmp_path, quick, rated, monkeypatch
):
    (path,) = run_lm(tmp_path)
    before = read_json(path)
    ran, real = [], lm_world.LmWorld.run
    monkeypatch.setattr(
        lm_world.LmWorld, "run", lambda self, stage, policies: ran.append(stage.name) or real(self, stage, policies)
    )
    assert run_lm(tmp_path, pipelines=[CONTROLS[0]], arm=("controls", "as registered")) == [path]
    assert ran == ["kd_aligned"]
    after = read_json(path)
    assert set(after["pipelines"]) == {*before["pipelines"], CONTROLS[0]}
    assert {name: after["pipelines"][name] for name in ORDERS} == {name: before["pipelines"][name] for name in ORDERS}
    assert after["earlier"] == [before["provenance"]]
    arms = records.load(path).metrics.groupby("pipeline")["arm"].first()
    assert (arms[ORDERS[0]], arms[CONTROLS[0]]) == ("", "controls")


def test_the_same_seed_gives_the_same_record_whatever_ran_before_and_in_whatever_order(tmp_path, quick, rated):
    torch.manual_seed(1)
    first = measured(run_lm(tmp_path / "first"))
    torch.manual_seed(2)
    assert measured(run_lm(tmp_path / "second", pipelines=ORDERS[::-1])) == first


def test_a_torn_record_stops_the_next_run_with_its_name_and_once_removed_is_made_anew_from_the_kept_stages(
    tmp_path, quick, monkeypatch
):
    (path,) = run_mog(tmp_path, seeds=(0,))
    whole = measured([path])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=f"{path.name}.*remove it and run its seed again"):
        run_mog(tmp_path, seeds=(0,))
    path.unlink()
    kept = {path.name.split("-")[0] for path in (tmp_path / "stages").iterdir()}
    assert kept == {"distil", "align", "evaluation"}
    monkeypatch.setattr(pipelines, "_measure", lambda *a: pytest.fail("ran again"))
    assert measured(run_mog(tmp_path, seeds=(0,))) == whole


# The Gaussian world -------------------------------------------------------------------------------------


def test_only_missing_gaussian_seeds_are_run(tmp_path, quick, monkeypatch):
    run_mog(tmp_path, seeds=(0, 1))
    ran = watch(monkeypatch, experiment, "run_gaussians")
    assert list(measured(run_mog(tmp_path, seeds=(0, 2, 1)))) == [0, 2, 1]
    assert [call.args[2] for call in ran.call_args_list] == [(2,)]


def test_a_setting_given_by_hand_replaces_the_presets_cells_and_others_make_a_run_of_their_own(tmp_path, quick):
    changes = {"sharpening": 3, "beta": 2, "training_draws": 50, "reward_height": 5}
    (record,) = map(read_json, run_mog(tmp_path, seeds=(0,), overrides=changes))
    found = {name: record["settings"][name] for name in ("sharpening", "beta", "training_draws")}
    assert found == {"sharpening": 3.0, "beta": 2.0, "training_draws": 50}
    run_mog(tmp_path, seeds=(0,), overrides={"dpo_label_noise": 0.1})
    (path,) = run_mog(tmp_path, seeds=(0,), overrides={"targets": [0, 3]})
    assert len(records.load(tmp_path).runs) == 3
    assert path.name.startswith("mog-tiny-dpo-modes_0_3-")
    assert read_json(path)["target"] == "modes_0_3"


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"world": "chess"}, "chess"),
        ({"world": "mog", "preset": "huge"}, "huge"),
        ({"world": "lm", "algorithm": "ppo"}, "ppo"),
        ({"world": "lm", "device": "tpu"}, "tpu"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name_and_leaves_no_record(options, named, tmp_path, quick):
    with pytest.raises(BadInput, match=named):
        run_experiment(**{"preset": "tiny", "out": tmp_path, **options})
    assert not list(tmp_path.rglob("*.json"))


def test_the_network_decides_nothing(tmp_path, monkeypatch):
    settings = []
    monkeypatch.setattr("alignkd_lab.lm.weights.hub_reachable", lambda: pytest.fail("asked"))
    monkeypatch.setattr(lm_world, "LmWorld", lambda given, *rest: settings.append(given))
    with pytest.raises(AttributeError):
        run_experiment(world="lm", preset="gpu", out=tmp_path)
    assert settings[0].base == settings[0].truth == "smollm2-135m-instruct"


# In memory ----------------------------------------------------------------------------------------------


def test_a_cell_in_memory_is_the_run_that_would_be_recorded_and_ends_with_what_a_step_raises(tmp_path):
    quick, steps = PRESETS["tiny"].mog, []
    cell = run_cell(quick, "dpo", (0, 1), on_step=steps.append)
    overrides = {"beta": quick.beta, "sharpening": quick.sharpening}
    recorded = records.load(*run_mog(tmp_path, seeds=(0, 1), overrides=overrides))
    assert cell.settings == recorded.settings
    for metric in cell.metrics["metric"].unique():
        assert cell.table(metric).to_numpy() == pytest.approx(recorded.table(metric).to_numpy(), rel=1e-5)
    for name in ("stages", "curves", "mixtures"):
        assert len(getattr(cell, name)) == len(getattr(recorded, name)) > 0
    assert len(steps) == planned_steps(default_pipelines("mog", "dpo"))
    assert planned_steps((*YARDSTICKS, *ORDERS)) == 4 + 5

    def refuse(text):
        raise KeyError(text)

    with pytest.raises(KeyError, match="base_aligned"):
        run_cell(PRESETS["tiny"].mog, "rlhf", (0,), ("base_aligned",), on_step=refuse)


def test_the_target_gets_its_weight_and_the_others_keep_their_proportions():
    changed = with_target_weight(MogSettings(), 0.1)
    assert changed.target_weight == pytest.approx(0.1)
    assert sum(changed.truth_weights) == pytest.approx(1)
    assert changed.truth_weights[2] / changed.truth_weights[0] == pytest.approx(0.30 / 0.33)
    two = with_target_weight(MogSettings(targets=(2, 3)), 0.5)
    assert sum(two.truth_weights[2:]) == pytest.approx(0.5)
    assert two.truth_weights[3] / two.truth_weights[2] == pytest.approx(0.04 / 0.30)
    assert with_target_weight(MogSettings(), 0.04) == MogSettings()
    for weight in (0.0, 1.0, -0.1):
        with pytest.raises(BadInput, match="between 0 and 1"):
            with_target_weight(MogSettings(), weight)


# Presets ------------------------------------------------------------------------------------------------


def test_a_world_and_an_algorithm_have_the_pipelines_that_are_possible_with_them_and_methods_run_when_asked_for():
    usual = {*ORDERS, *CONTROLS, *YARDSTICKS}
    assert set(default_pipelines("lm", "dpo")) == set(possible_pipelines("mog", "dpo")) == usual
    assert set(possible_pipelines("lm", "dpo")) == set(PIPELINES) == usual | set(METHODS)
    for world in ("mog", "lm"):
        # Under RLHF there are no preferences to take from another sampler.
        assert set(possible_pipelines(world, "rlhf")) == usual - {"kd_then_align_base_preferences"}


def test_override_changes_what_is_named_and_nothing_else_and_reads_nested_lists_as_tuples():
    before = LmSettings()
    after = override(before, {"beta": 0.2, "align_learning_rates": [1e-3, 2e-3], "target": "digit"})
    assert (after.beta, after.align_learning_rates, after.target) == (0.2, (1e-3, 2e-3), "digit")
    assert dataclasses.replace(after, beta=before.beta, target=before.target,
                               align_learning_rates=before.align_learning_rates) == before  # fmt: skip
    means = [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]
    settings = override(MogSettings(), {"truth_means": means, "truth_weights": [0.5, 0.4, 0.1], "targets": [2]})
    assert settings.truth_means == ((0.0, 1.0), (1.0, 0.0), (2.0, 2.0))
