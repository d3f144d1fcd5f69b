"""The boundary against the map: the rule counts what it predicts, and every kind of error, on maps made by hand."""

import numpy as np
import pytest

from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import MogSettings, with_target_weight
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.report.study_figures import map_figure
from alignkd_lab.stats import decided, paired_difference
from alignkd_lab.study.boundary import METRICS, Boundary, Grid
from alignkd_lab.study.gaussian_map import can_find, predicted_rightly

GRID = Grid(("rlhf",), (0.5, 2.0), (0.25, 0.5, 1.0, 2.0), (0.005, 0.04, 0.2), (7, 8, 9), ())
SHAPE = (1, 2, 4, 3, 3)


def made(lead, rates):
    """A map whose A-K leads by `lead` and whose target rates are `rates[order]`, `[sharpening, beta, weight]` each."""
    noise = np.array([-0.01, 0.0, 0.01])
    rewards = {K_A: np.zeros(SHAPE), A_K: lead[None, ..., None] + noise}
    metrics = {
        order: {
            "reward": rewards[order],
            "target_rate": np.broadcast_to(rates[order][None, ..., None], SHAPE),
            "overall_recall": np.zeros(SHAPE),
        }
        for order in (K_A, A_K)
    }
    assert set(metrics[A_K]) == set(METRICS)
    return Boundary(GRID, MogSettings(), metrics, {}, {"device": "cpu"})


@pytest.fixture(scope="module")
def able():
    empty = made(np.zeros(SHAPE[1:4]), {order: np.zeros(SHAPE[1:4]) for order in (K_A, A_K)})
    found = [can_find(empty, sharpening) for sharpening in GRID.sharpenings]
    return {order: np.array([entry[order] for entry in found]) for order in (K_A, A_K)}


@pytest.fixture(scope="module")
def predicted(able):
    return able[A_K] & ~able[K_A]


def test_a_world_that_keeps_to_the_closed_form_is_foretold_in_every_cell(able, predicted):
    assert predicted[1].any()
    assert not predicted[1].all()
    rows = predicted_rightly(
        made(predicted.astype(float), {order: cells.astype(float) for order, cells in able.items()})
    )
    assert [row.share for row in rows] == [1.0, 1.0]
    assert [(row.a_k_target, row.k_a_target) for row in rows] == [(12, 12), (12, 12)]


def test_every_kind_of_error_is_counted(able, predicted):
    rates = {order: 1.0 - cells for order, cells in able.items()}
    none, all_a_k, all_k_a = (predicted_rightly(made(np.full(SHAPE[1:4], v), rates))[1] for v in (0.0, 1.0, -1.0))
    count = int(predicted[1].sum())
    assert (none.right, none.false_lead) == (12 - count, count)
    assert (all_a_k.right, all_a_k.missed) == (count, 12 - count)
    assert (all_k_a.right, all_k_a.wrong_lead, all_k_a.reversed) == (0, count, 12 - count)
    assert (none.a_k_target, none.k_a_target) == (0, 0)


def test_a_flattened_teacher_foretells_no_lead(predicted):
    assert not predicted[0].any()


def test_the_threshold_of_a_sharpened_copy_is_where_its_target_wins():
    settings = MogSettings(truth_weights=(0.48, 0.48, 0.01, 0.03), targets=(2, 3))
    boundary = ClosedForm(settings).least_target_weights([0.5, 1.0])
    sharpened = ClosedForm(settings).least_target_weights([0.5, 1.0], 2.0)
    for before, after in zip(sharpened, boundary, strict=True):
        copy = ClosedForm(with_target_weight(settings, before)).truth.sharpen(2.0)
        assert copy.log_mass.logsumexp(-1).exp()[2:].sum().item() == pytest.approx(after)


def test_all_cells_are_decided_at_once_as_one_by_one():
    gaps = np.random.default_rng(0).normal(0.3, 1, (5, 4, 20))
    for place in np.ndindex(5, 4):
        span = paired_difference(gaps[place], np.zeros(20))
        assert bool(decided(gaps)[place]) is (span.low > 0 or span.high < 0)


def test_the_picture_says_how_often_the_lines_are_right(able, predicted):
    held = made(predicted.astype(float), {order: cells.astype(float) for order, cells in able.items()})
    figure = map_figure(held, "rlhf")
    titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
    assert len(titles) == 2
    assert all("12 of 12 (100 %)" in title for title in titles)
