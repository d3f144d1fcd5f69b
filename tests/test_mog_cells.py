"""A cell run in memory is the run that `alignkd run` would record."""

import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_cell, run_experiment, with_target_weight
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.pipelines import planned_steps
from alignkd_lab.plots import figures
from alignkd_lab.presets import default_pipelines, preset
from alignkd_lab.records import load_records, validate_record
from alignkd_lab.runs import group_runs, seed_values, summarise_run

QUICK = preset("tiny").mog
ORDERS_ALONE = ("base", "base_aligned", "kd_only", "kd_then_align", "align_then_kd")


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def run(steps):
    return run_cell(QUICK, "dpo", (0, 1), on_step=steps.append)


def test_a_cell_holds_what_a_recorded_run_holds(run, tmp_path):
    cell = {"beta": QUICK.beta, "sharpening": QUICK.sharpening}
    path = run_experiment(world="mog", preset="tiny", algorithm="dpo", seeds=(0, 1), overrides=cell, out=tmp_path)
    (recorded,) = group_runs(load_records(path))
    assert set(run) == set(recorded)
    for name, metrics in seed_values(recorded).items():
        for metric, values in metrics.items():
            assert seed_values(run)[name][metric] == pytest.approx(values, rel=1e-5)
    for mine, kept in zip(run["records"], recorded["records"], strict=True):
        assert set(mine["stages"]) == set(kept["stages"])
        assert mine["stages"].keys() >= set(mine["pipelines"]["align_then_kd"]["stages"])


def test_its_records_are_valid_and_its_figures_can_be_drawn(run):
    for record in run["records"]:
        assert validate_record(record) is record
    assert len(figures.densities(run, "live").axes) > 8
    assert summarise_run(run)["checks"]


def test_every_stage_and_evaluation_is_told_of(run, steps):
    assert len(steps) == planned_steps(default_pipelines("mog", "dpo"))
    assert planned_steps(ORDERS_ALONE) == 4 + 5


def test_what_a_step_raises_ends_the_run():
    def refuse(text):
        raise KeyError(text)

    with pytest.raises(KeyError, match="base_aligned"):
        run_cell(QUICK, "rlhf", (0,), ORDERS_ALONE[1:2], refuse)


def test_the_target_gets_its_weight_and_the_others_keep_their_proportions():
    changed = with_target_weight(MogSettings(), 0.1)
    assert changed.truth_weights[3] == pytest.approx(0.1)
    assert sum(changed.truth_weights) == pytest.approx(1)
    assert changed.truth_weights[2] / changed.truth_weights[0] == pytest.approx(0.30 / 0.33)
    two = with_target_weight(MogSettings(targets=(2, 3)), 0.5)
    assert sum(two.truth_weights[2:]) == pytest.approx(0.5)
    assert two.truth_weights[3] / two.truth_weights[2] == pytest.approx(0.04 / 0.30)


def test_its_own_weight_changes_nothing():
    assert with_target_weight(MogSettings(), 0.04) == MogSettings()


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(BadInput, match="between 0 and 1"):
        with_target_weight(MogSettings(), weight)
