"""The study on Gaussians: its cells are runs with new seeds, one setting moved at a time, and it resumes."""

import dataclasses
import json

import numpy as np
import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_cell
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, Align
from alignkd_lab.plots.drawing import note_of
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import load_records, validate_record
from alignkd_lab.report.study_figures import arm_figure, arm_metrics
from alignkd_lab.runs import seed_values, summarise_run
from alignkd_lab.study.gaussians import ARMS, METRICS, SEEDS, Arm, load, main, sweep, wanted

QUICK = MogSettings(rlhf_steps=8, dpo_steps=8, dpo_pairs=200, em_iterations=20, restarts=2, evaluation_draws=200)
SMALL = {
    "beta": Arm("KL weight β", {beta: dataclasses.replace(QUICK, beta=beta) for beta in (0.5, 1.0)}),
    "noise": Arm("labels flipped", {0.0: QUICK, 0.4: dataclasses.replace(QUICK, dpo_label_noise=0.4)}, ("dpo",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def path(folder):
    return sweep(folder, SMALL, (1000, 1001, 1002))


def test_a_cell_is_the_run_of_its_settings(path):
    run = load(path).runs("beta", "rlhf")[1.0]
    values = seed_values(run_cell(dataclasses.replace(QUICK, beta=1.0), "rlhf", (1000, 1001, 1002)))
    found = seed_values(run)
    assert set(found) == set(default_pipelines("mog", "rlhf"))
    for pipeline, metrics in found.items():
        for metric in METRICS:
            assert list(metrics[metric].values()) == pytest.approx(list(values[pipeline][metric].values()), rel=1e-3)


def test_its_runs_are_records_of_the_schema_and_take_verdicts(path):
    run = load(path).runs("noise", "dpo")[0.4]
    for record in run["records"]:
        validate_record(record)
    assert run["settings"]["dpo_label_noise"] == 0.4
    assert summarise_run(run)["claims"][0]["metric"] == "reward"


def test_one_setting_belongs_to_several_arms_and_runs_once(path):
    study = load(path)
    beta, noise = study.runs("beta", "dpo")[0.5], study.runs("noise", "dpo")[0.0]
    assert seed_values(beta) == seed_values(noise)
    assert study.runs("noise", "rlhf") == {}


def test_a_study_that_was_cut_off_runs_no_stage_twice(folder, path, monkeypatch):
    before = json.loads(path.read_text())["cells"]
    monkeypatch.setattr(MogWorld, "run", lambda *arguments: pytest.fail("a stage was run again"))
    assert json.loads(sweep(folder, SMALL, (1000, 1001, 1002)).read_text())["cells"] == before


MODES = {"truth_weights", "truth_means", "targets", "base_components"}
MOVES = {"target_weight": {"truth_weights"}, "targets": {"truth_weights", "targets"}}
MOVES |= {"second_target": MODES, "common_modes": MODES}


def test_every_arm_moves_one_thing_and_passes_through_the_main_setting():
    main = MogSettings()
    for name, arm in ARMS.items():
        assert main in arm.cells.values()
        for settings in arm.cells.values():
            moved = {field for field, value in vars(settings).items() if value != getattr(main, field)}
            assert moved <= MOVES.get(name, {name})
    assert len(list(wanted())) == 2 * (6 + 5 + 6 + 5 + 2 + 4 + 2 + 3) + 5


def test_one_number_of_modes_is_moved_at_a_time_and_the_target_keeps_its_share():
    def modes(settings):
        return len(settings.targets), len(settings.truth_weights) - len(settings.targets)

    cells = {name: list(map(modes, ARMS[name].cells.values())) for name in ("targets", "second_target", "common_modes")}
    assert cells == {
        "targets": [(1, 3), (2, 2)],  # both at once, as it was registered
        "second_target": [(1, 3), (2, 3)],
        "common_modes": [(1, 2), (1, 3), (1, 4)],
    }
    for name in cells:
        for settings in ARMS[name].cells.values():
            assert sum(settings.truth_weights[target] for target in settings.targets) == pytest.approx(0.04)
            assert settings.base_components >= len(settings.truth_weights)  # the base can hold every mode
            assert len(set(settings.truth_means)) == len(settings.truth_means)


def test_a_reward_that_nothing_cuts_leaves_every_kept_stage_where_it_was():
    world, cut = (MogWorld(MogSettings(reward_clip=clip), "dpo", (0,)) for clip in (0.0, 1.0))
    for stage in PIPELINES["align_then_kd"]:
        assert "reward_clip" not in world.stage_settings(stage)
        assert ("reward_clip" in cut.stage_settings(stage)) is isinstance(stage, Align)
    assert "reward_clip" not in world.evaluation_settings()
    assert cut.evaluation_settings()["reward_clip"] == 1.0
    assert world.fingerprint() == cut.fingerprint()


def test_a_part_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(BadInput, match="arms"):
        main([str(tmp_path), "maps"])
    assert not list(tmp_path.iterdir())


def test_its_figures_hold_every_value_and_say_their_depth(path):
    study = load(path)
    for figure, axes in ((arm_figure(study, "beta"), 2), (arm_metrics(study, "beta"), 8)):
        assert len(figure.axes) == axes
        assert "3 seeds" in note_of(figure)
        assert [text.get_text() for text in figure.axes[-1].get_xticklabels()] == ["0.5", "1"]
    assert arm_figure(study, "beta").axes[0].get_xlabel() == ARMS["beta"].label


def test_the_seeds_are_a_hundred_that_no_earlier_record_used():
    used = {record["seed"] for record in load_records(data_folder() / "records") if record["world"] == "mog"}
    assert len(set(SEEDS)) == 100
    assert not used & set(SEEDS)


def test_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(BadInput, match=r"study\.gaussians"):
        load(tmp_path / "none.json")
    other = tmp_path / "other.json"
    other.write_text('{"schema": 0}')
    with pytest.raises(BadInput, match="schema"):
        load(other)


def test_arrays_hold_one_value_a_seed(path):
    for cell in load(path).cells:
        for metrics in cell.metrics.values():
            assert all(np.shape(values) == (3,) for values in metrics.values())
