"""The boundary against maps made by hand: the rule counts what it predicts and every kind of error; and what ships."""

import itertools

import numpy as np
import pandas as pd
import pytest
from synthetic_records import mog_record

from alignkd_lab import records
from alignkd_lab.errors import BadInput
from alignkd_lab.mog import sweep
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.mog.sweep import Grid, can_find, lead, score, shows_target
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.recording import plain_settings

SHIPPED = data_folder() / "records"
BETAS, WEIGHTS, SEEDS = (0.25, 0.5, 1.0, 2.0), (0.005, 0.04, 0.2), (7, 8, 9)
SHAPE = len(BETAS), len(WEIGHTS)


def made(leads, rates, sharpening=2.0):
    """A map whose A-K leads by `leads` and whose target rates are `rates[order]`, `[beta, weight]` each."""
    found = []
    for (row, beta), (column, weight) in itertools.product(enumerate(BETAS), enumerate(WEIGHTS)):
        settings = plain_settings(with_target_weight(MogSettings(beta=beta, sharpening=sharpening), weight))
        for noise, seed in zip((-0.01, 0.0, 0.01), SEEDS, strict=True):
            values = {K_A: 0.0, A_K: leads[row, column] + noise}
            effects = {order: {"reward": (values[order], 0.0), "target_rate": (float(rates[order][row, column]), 0.0)}
                       for order in ORDERS}  # fmt: skip
            found.append({**mog_record(seed, effects=effects), "settings": settings})
    return records.tabulate(found[::-1])  # in whatever order they lie


def grid_of(leads, rates, sharpening=2.0):
    return Grid.of(made(leads, rates, sharpening), "rlhf", sharpening)


NOTHING = dict.fromkeys(ORDERS, np.zeros(SHAPE))


@pytest.fixture(scope="module")
def able():
    return can_find(grid_of(np.zeros(SHAPE), NOTHING))


@pytest.fixture(scope="module")
def predicted(able):
    return able[A_K] & ~able[K_A]


def test_a_grid_lays_the_runs_out_by_weight_and_share(able):
    leads = np.arange(12.0).reshape(SHAPE)
    grid = grid_of(leads, {order: cells.astype(float) for order, cells in able.items()})
    assert (grid.betas.tolist(), grid.weights.tolist()) == ([*BETAS], [*WEIGHTS])
    assert grid.values(A_K)[..., 1] == pytest.approx(leads)
    assert grid.values(A_K).shape == (*SHAPE, 3)
    assert {order: cells.tolist() for order, cells in shows_target(grid).items()} == {
        order: cells.tolist() for order, cells in able.items()
    }
    for row, beta in enumerate(BETAS):
        for column, weight in enumerate(WEIGHTS):
            settings = MogSettings(**grid.records.settings_of(grid.runs[row][column]))
            assert (settings.beta, settings.target_weight) == (beta, weight)
    assert sweep.algorithms_and_sharpenings(grid.records) == (["rlhf"], [2.0])
    with pytest.raises(BadInput, match="sharpening=7"):
        Grid.of(grid.records, "rlhf", 7.0)


def test_what_keeps_to_the_closed_form_is_foretold_in_every_cell_and_every_kind_of_error_is_counted(able, predicted):
    assert predicted.any()
    assert not predicted.all()
    found = score(grid_of(predicted.astype(float), {order: cells.astype(float) for order, cells in able.items()}))
    assert (found.share, found.cells, found.named) == (1.0, 12, predicted.sum())
    assert (found.a_k_target, found.k_a_target) == (12, 12)
    rates, count = {order: 1.0 - cells for order, cells in able.items()}, int(predicted.sum())
    none, all_a_k, all_k_a = (score(grid_of(np.full(SHAPE, value), rates)) for value in (0.0, 1.0, -1.0))
    assert (none.right, none.false_lead) == (12 - count, count)
    assert (all_a_k.right, all_a_k.missed) == (count, 12 - count)
    assert (all_k_a.right, all_k_a.wrong_lead, all_k_a.reversed) == (0, count, 12 - count)
    assert (none.a_k_target, none.k_a_target) == (0, 0)
    able = can_find(grid_of(np.zeros(SHAPE), NOTHING, 0.5))
    assert not (able[A_K] & ~able[K_A]).any()


def test_the_lead_is_the_mean_difference_where_its_interval_leaves_out_zero(predicted):
    grid = grid_of(np.where(predicted, 3.0, 0.001), NOTHING)
    found = lead(grid)
    assert found.difference == pytest.approx(np.where(predicted, 3.0, 0.001))
    assert found.decided.tolist() == predicted.tolist()
    assert found.seeds == 3
    assert (found.found[A_K] > 0.5).tolist() == predicted.tolist()  # half of the bump's height of 4
    assert not found.found[K_A].any()
    closed_form = ClosedForm(grid.settings)
    assert found.boundary == pytest.approx(closed_form.least_target_weights(found.boundary_betas))
    assert found.boundary_sharpened == pytest.approx(closed_form.least_target_weights(found.boundary_betas, 2.0))
    edges = sweep.cell_edges(grid.betas)
    assert edges == pytest.approx(np.geomspace(0.25 / 2**0.5, 2 * 2**0.5, 5))
    assert found.boundary_betas[[0, -1]] == pytest.approx(edges[[0, -1]])


def test_the_threshold_of_a_sharpened_copy_is_where_its_target_wins():
    settings = MogSettings(truth_weights=(0.48, 0.48, 0.01, 0.03), targets=(2, 3))
    boundary = ClosedForm(settings).least_target_weights([0.5, 1.0])
    sharpened = ClosedForm(settings).least_target_weights([0.5, 1.0], 2.0)
    for before, after in zip(sharpened, boundary, strict=True):
        copy = ClosedForm(with_target_weight(settings, before)).truth.sharpen(2.0)
        assert copy.log_mass.logsumexp(-1).exp()[2:].sum().item() == pytest.approx(after)
    # At a tiny KL weight a common mode's own tail wins for the target, however rare that is.
    for sharpening in (0.5, 1.0, 2.0):
        assert ClosedForm(MogSettings()).least_target_weights([0.02, 0.03], sharpening).tolist() == [0, 0]


def test_the_shipped_boundary_agrees_with_the_recorded_runs_where_both_were_made():
    boundary, compared = records.load(SHIPPED / "gaussians-boundary.zip"), 0
    for run in records.load(SHIPPED / "gaussians-pilot.zip").each():
        settings, algorithm = run.settings, run.the_run()["algorithm"]
        if settings["sharpening"] > 2 or settings["sharpening"] == 1.5:
            continue
        grid = Grid.of(boundary, algorithm, settings["sharpening"])
        place = grid.betas.tolist().index(settings["beta"]), grid.weights.tolist().index(0.04)
        for order in ORDERS:
            assert grid.values(order)[place] == pytest.approx(run.table()[order].to_numpy(), rel=2e-3, abs=1e-6)
            compared += 1
    assert compared == 16
    views = boundary.mixtures.groupby(["run", "pipeline"])["seed"].agg(set)
    assert (views.map(sorted).map(tuple) == pd.Series([(0, 1, 2)] * len(views), index=views.index)).all()
