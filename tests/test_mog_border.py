"""The sweep behind the boundary map: its cells are runs, its record says so, and it picks up where it was cut off."""

import json

import numpy as np
import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_cell, with_target_weight
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.records import load_records, validate_record
from alignkd_lab.runs import group_runs, seed_values
from alignkd_lab.study import boundary as boundary
from alignkd_lab.study.boundary import METRICS, Grid, load, runs, sweep

GRID = Grid(("rlhf",), (1.0, 2.0), (0.5, 1.0), (0.04, 0.1), (3, 5), (5,))
QUICK = MogSettings(rlhf_steps=8, em_iterations=20, restarts=2, evaluation_draws=200, teacher_samples=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def swept(folder):
    return load(sweep(folder, GRID, QUICK))


@pytest.fixture(scope="module")
def shipped():
    return load()


def test_a_cell_of_the_sweep_is_the_run_of_its_settings(swept):
    settings = with_target_weight(MogSettings(**{**vars(QUICK), "beta": 1.0, "sharpening": 2.0}), 0.1)
    run = run_cell(settings, "rlhf", (3, 5), ("base", "kd_only", *ORDERS))
    values = seed_values(run)
    for order in ORDERS:
        for metric in METRICS:
            assert swept.metrics[order][metric].shape == (1, 2, 2, 2, 2)
            expected = list(values[order][metric].values())
            assert swept.metrics[order][metric][0, 1, 1, 1] == pytest.approx(expected, rel=1e-3)
    for name in ("base", "kd_only", *ORDERS):
        view = run["records"][1]["pipelines"][name]["view"]
        table = np.column_stack([view["weights"], view["means"], view["sds"]])
        assert swept.views[name][0, 1, 1, 1, 0] == pytest.approx(table, rel=1e-2)


def test_a_view_is_kept_once_where_the_grid_does_not_change_it(folder, swept):
    held = json.loads((folder / boundary.FILE.name).read_text())["views"]
    shapes = {name: np.array(values).shape[:4] for name, values in held.items()}
    assert shapes["base"] == (1, 1, 1, 2)
    assert shapes["kd_only"] == (1, 2, 1, 2)
    assert shapes["base_aligned"] == (1, 1, 2, 2)
    assert shapes["align_then_kd"] == (1, 2, 2, 2)
    assert {view.shape[:4] for view in swept.views.values()} == {(1, 2, 2, 2)}


def test_a_sweep_that_was_cut_off_runs_no_stage_twice(folder, swept, monkeypatch):
    before = (folder / boundary.FILE.name).read_text()
    monkeypatch.setattr(MogWorld, "run", lambda *arguments: pytest.fail("a stage was run again"))
    after = sweep(folder, GRID, QUICK).read_text()
    for name in ("grid", "settings", "metrics", "views"):
        assert json.loads(after)[name] == json.loads(before)[name]


def test_its_records_are_those_of_the_schema(swept):
    made = list(runs(swept))
    grouped = group_runs(validate_record(record) for run in made for record in run["records"])
    assert len(made) == len(grouped) == 8
    assert all(run in grouped for run in made)
    assert all([record["seed"] for record in run["records"]] == [3, 5] for run in made)
    assert sorted({run["settings"]["truth_weights"][3] for run in made}) == pytest.approx([0.04, 0.1])


def test_a_missing_record_and_one_of_another_version_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"alignkd_lab\.study\.boundary"):
        load(tmp_path / "none.json")
    path = tmp_path / "old.json"
    path.write_text('{"schema": 0}')
    with pytest.raises(BadInput, match="schema must be 1"):
        load(path)


def test_the_shipped_sweep_is_small_and_whole(shipped):
    assert (data_folder() / boundary.FILE).stat().st_size < 1_500_000
    assert shipped.grid == Grid()
    assert shipped.settings == MogSettings()
    for entry in shipped.metrics.values():
        assert all(np.isfinite(values).all() for values in entry.values())
    assert shipped.provenance["device"] == "cpu"


def test_the_shipped_sweep_agrees_with_the_recorded_runs_where_both_were_made(shipped):
    grid, compared = shipped.grid, 0
    for run in group_runs(load_records(data_folder() / "records" / "mog-laptop-rare_mode.jsonl.gz")):
        beta, sharpening = run["settings"]["beta"], run["settings"]["sharpening"]
        if beta in grid.betas and sharpening in grid.sharpenings:
            place = (grid.algorithms.index(run["algorithm"]), grid.sharpenings.index(sharpening))
            place += (grid.betas.index(beta), grid.weights.index(0.04))
            for order in ORDERS:
                recorded = [seed_values(run)[order]["reward"][seed] for seed in grid.seeds]
                assert shipped.metrics[order]["reward"][place] == pytest.approx(recorded, rel=2e-3, abs=1e-6)
                compared += 1
    assert compared == 16
