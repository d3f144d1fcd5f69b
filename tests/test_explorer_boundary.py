"""The "boundary" chart: the map is the sweep's, its line the recall threshold, its run the one that is chosen."""

import json

import numpy as np
import pytest
from scene import Scene, evaluated, off_the_densest, value

from alignkd_lab.course.explorers import boundary
from alignkd_lab.course.explorers.boundary import shipped
from alignkd_lab.course.widgets.heat import COLUMNS, window
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.sweep import cell_edges
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.stats import paired_difference


def drawn(algorithm="rlhf", sharpening="2"):
    return shipped(algorithm, float(sharpening))[1]


def most(data):
    """Cells in which most seeds find the target, of A-K and of K-A."""
    return data.found[A_K] > 0.5, data.found[K_A] > 0.5


@pytest.mark.parametrize(
    ("weight", "beta", "cell"), [(0.04, 0.5, (0.04, 0.5)), (0.047, 3.3, (0.04, 2.8)), (0.2, 0.12, (0.2, 0.12))]
)
def test_the_sliders_choose_the_nearest_cell_and_its_own_run(weight, beta, cell):
    chart = boundary.show(target_weight=weight, beta=beta, sharpening="1", algorithm="dpo")
    column, row, gap, seeds, view = evaluated(
        chart, "column", "row", "chosen.gap", f"chosen.{A_K}.seeds", f"chosen.{A_K}.mixture[0]"
    )
    grid, _ = shipped("dpo", 1.0)
    row, column = int(row[0]), int(column[0])
    assert (grid.weights[column], grid.betas[row]) == cell
    rewards = {order: grid.values(order)[row, column] for order in ORDERS}
    assert gap == pytest.approx(paired_difference(rewards[A_K], rewards[K_A]), abs=1e-3)
    assert seeds == pytest.approx(rewards[A_K], abs=0.01)
    held = grid.records.select(run=grid.runs[row][column], seed=0, pipeline=A_K).mixtures
    assert view == pytest.approx(held[COLUMNS].to_numpy()[0], abs=1e-3)


def test_the_map_is_grey_where_no_lead_is_sure_and_marks_are_as_large_as_the_share_of_seeds_that_found_the_target():
    data, scene = drawn(sharpening="1"), Scene(boundary.show(sharpening="1"))
    grey, sure = scene.places("rect")[:2]
    assert (len(grey), len(sure)) == ((~data.decided).sum(), data.decided.sum())
    rows, columns = cell_edges(data.betas), cell_edges(data.weights)
    for items, order in zip(scene.places("symbol")[:2], (K_A, A_K), strict=True):
        x = [value(item["x"], 385, columns[0], columns[-1], True) for item in items]
        y = [value(300 - item["y"], 300, rows[0], rows[-1], True) for item in items]
        found = np.zeros_like(data.found[order])
        found[np.searchsorted(rows, y) - 1, np.searchsorted(columns, x) - 1] = [item["size"] / 40 for item in items]
        np.testing.assert_allclose(found, data.found[order], atol=1e-3)


def test_the_darkest_cell_lies_where_the_mixture_is_densest():
    scene = Scene(boundary.show())
    grid, _ = shipped("rlhf", 2.0)
    run = grid.runs[list(grid.betas).index(0.5)][list(grid.weights).index(0.04)]
    for items, order in zip(scene.places("rect")[3:6:2], (K_A, A_K), strict=True):
        components = grid.records.select(run=run, seed=0, pipeline=order).mixtures[COLUMNS]
        assert off_the_densest(items, components, window(grid.settings), 4) == pytest.approx((0, 0), abs=1.01)


def test_the_lines_are_the_recall_thresholds():
    held = json.loads(next(param["expr"] for param in boundary.show().spec["params"] if param["name"] == "lines"))
    closed_form = ClosedForm(shipped("rlhf", 2.0)[0].settings)
    assert held["plain"] == pytest.approx(closed_form.least_target_weights(held["betas"]))
    assert held["2"] == pytest.approx(closed_form.least_target_weights(held["betas"], 2.0))
    assert held["1"] == pytest.approx(held["plain"])


def test_a_map_s_counts_are_those_of_its_cells_and_the_page_stays_small():
    a_k, k_a, words = *most(drawn(sharpening="1")), Scene(boundary.show(sharpening="1")).words
    assert f"both: {(a_k & k_a).sum()}, neither:" in words
    assert len(json.dumps(boundary.show().spec)) < 600_000


# What the map shows, as the notebook says it


def test_no_order_finds_the_target_well_above_the_threshold():
    for sharpening in ("1", "2"):
        data = drawn(sharpening=sharpening)
        least = np.interp(data.betas, data.boundary_betas, data.boundary)
        above = data.weights < least[:, None] / 3
        assert not np.logical_or(*most(data))[above].any()
