"""The "boundary" explorer: the map is the sweep's, its line the recall threshold, its run the one that is chosen."""

import numpy as np
import pytest

from alignkd_lab.course.explorers import boundary
from alignkd_lab.course.explorers.boundary import START, caption, compute, shipped
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import with_target_weight
from alignkd_lab.mog.sweep import cell_edges
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.stats import paired_difference

RANGES = {"target_weight": (0.005, 0.2), "beta": (0.12, 4.0), "seed": (0.0, 2.0)}
CHOICES = {"algorithm": ("rlhf", "dpo"), "sharpening": ("0.5", "1", "2")}


def state(**changes):
    return {**START, **changes}


# compute


def test_a_cell_is_the_mean_difference_over_its_seeds():
    (grid, _), data = shipped("dpo", 1.0), compute(state(algorithm="dpo", sharpening="1"))
    for row, column in ((0, 0), (4, 6), (10, 10)):
        rewards = {order: grid.values(order)[row, column] for order in ORDERS}
        expected = paired_difference(rewards[A_K], rewards[K_A])
        assert data.difference[row, column] == pytest.approx(expected.estimate)
        assert bool(data.decided[row, column]) is (expected.low > 0 or expected.high < 0)
        for order in ORDERS:
            assert bool(data.found[order][row, column]) is bool(rewards[order].mean() >= 2)


@pytest.mark.parametrize(
    ("weight", "beta", "cell"), [(0.04, 0.5, (0.04, 0.5)), (0.047, 3.3, (0.04, 2.8)), (1e-9, 99, (0.005, 4.0))]
)
def test_the_sliders_choose_the_nearest_cell(weight, beta, cell):
    chosen = compute(state(target_weight=weight, beta=beta)).chosen
    assert (chosen.target_weight, chosen.beta) == cell


def test_the_chosen_cell_holds_its_own_run():
    (grid, _), chosen = shipped("rlhf", 1.0), compute(state(sharpening="1", seed=2.0)).chosen
    row, column = list(grid.betas).index(0.5), list(grid.weights).index(0.04)
    assert list(chosen.rewards[K_A]) == list(grid.values(K_A)[row, column])
    assert chosen.intervals[K_A].low < chosen.intervals[K_A].estimate < chosen.intervals[K_A].high
    view = grid.records.select(run=grid.runs[row][column], seed=2, pipeline=A_K).mixtures
    dearest = view.loc[view["weight"].idxmax(), ["x", "y"]].tolist()
    field = chosen.fields[A_K]
    row, column = np.unravel_index(field.argmax(), field.shape)
    at = -2.85 + 5.7 * np.array([column, row]) / 114
    assert at == pytest.approx(dearest, abs=0.1)


def test_the_line_is_the_recall_threshold():
    data = compute(state())
    assert data.boundary == pytest.approx(ClosedForm(data.settings).least_target_weights(data.boundary_betas))
    assert (np.diff(data.boundary) > 0).all()


@pytest.mark.parametrize("sharpening", ["0.5", "2"])
def test_the_dashed_line_is_the_threshold_after_sharpening(sharpening):
    data = compute(state(sharpening=sharpening))
    middle = len(data.boundary) // 2
    settings = with_target_weight(data.settings, data.boundary_sharpened[middle])
    student = ClosedForm(settings).truth.sharpen(float(sharpening))
    assert student.log_mass.logsumexp(-1).exp()[3].item() == pytest.approx(data.boundary[middle])
    plain = compute(state(sharpening="1"))
    assert plain.boundary_sharpened == pytest.approx(plain.boundary)


# What the map shows, as the notebook says it


def test_gently_taught_and_weakly_held_k_a_finds_the_target_and_a_k_stays_ahead():
    data = compute(state(sharpening="1"))
    here = (list(data.betas).index(0.5), list(data.weights).index(0.04))
    assert data.found[K_A][here]
    assert data.found[A_K][here]
    assert data.chosen.difference.low > 0
    weaker = data.found[K_A][: here[0], here[1]]
    assert weaker.all()


def test_sharpened_teachers_leave_k_a_less_than_gentle_ones():
    found = [compute(state(sharpening=s)).found[K_A].sum() for s in ("2", "1", "0.5")]
    assert found[0] < found[1] < found[2]


def test_after_a_flat_teacher_k_a_is_ahead_where_the_target_is_found():
    data = compute(state(sharpening="0.5"))
    both = data.found[A_K] & data.found[K_A]
    assert ((data.difference < 0) & data.decided)[both].mean() > 0.9
    assert not (data.found[A_K] & ~data.found[K_A]).any()


@pytest.mark.parametrize("sharpening", ["0.5", "1", "2"])
def test_under_dpo_k_a_leads_nowhere_where_the_target_is_found(sharpening):
    data = compute(state(algorithm="dpo", sharpening=sharpening))
    found = data.found[A_K] | data.found[K_A]
    assert not (data.decided & (data.difference < 0))[found].any()
    assert ((data.difference > 0) & data.decided)[found].mean() > 0.9


def test_no_order_finds_the_target_well_above_the_threshold():
    for sharpening in ("1", "2"):
        data = compute(state(sharpening=sharpening))
        least = np.interp(data.betas, data.boundary_betas, data.boundary)
        above = data.weights < least[:, None] / 3
        assert not (data.found[A_K] | data.found[K_A])[above].any()


# caption


def test_the_caption_names_the_cell_and_counts_the_map():
    data = compute(state(sharpening="1"))
    words = caption(data)
    assert words.startswith("Chosen: RLHF, s = 1, β = 0.5, m₀ = 4 %. Mean reward over 20 seeds: A-K 3.5")
    assert "A-K is ahead by" in words
    assert f"both in {(data.found[A_K] & data.found[K_A]).sum()}" in words


def test_no_lead_is_claimed_where_the_interval_holds_zero():
    data = compute(state(sharpening="1"))
    row, column = np.argwhere(~data.decided)[0]
    there = compute(state(sharpening="1", beta=data.betas[row], target_weight=data.weights[column]))
    assert "neither order is ahead" in caption(there)
    for sharpening, said in (("0.5", "K-A is ahead"), ("2", "A-K is ahead by")):
        assert said in caption(compute(state(sharpening=sharpening)))


# picture


def test_the_map_is_grey_where_no_lead_is_sure_and_shaded_elsewhere():
    data = compute(state(sharpening="1"))
    mesh = boundary.draw(data).axes[0].collections[0]
    drawn = mesh.get_array().reshape(data.difference.shape)
    assert (np.ma.getmaskarray(drawn) == ~data.decided).all()
    assert 0 < data.decided.sum() < data.decided.size
    assert (np.sign(drawn) == np.sign(data.difference))[data.decided].all()
    red, green, blue, _ = mesh.get_cmap().get_bad()
    assert red == green == blue < 0.9
    assert np.abs(drawn).max() <= 1


def test_a_marker_stands_in_every_cell_where_its_order_finds_the_target():
    data = compute(state(sharpening="1"))
    axis = boundary.draw(data).axes[0]
    for order, marker in ((K_A, "o"), (A_K, "^")):
        (line,) = [line for line in axis.lines if line.get_marker() == marker]
        assert len(line.get_xdata()) == data.found[order].sum()
        rows = np.searchsorted(cell_edges(data.betas), line.get_ydata()) - 1
        columns = np.searchsorted(cell_edges(data.weights), line.get_xdata()) - 1
        assert data.found[order][rows, columns].all()


def test_the_still_shows_the_map_at_three_sharpenings():
    alt = boundary.show().still().alt
    assert all(part in alt for part in ("Sharpening 2:", "Sharpening 1:", "Sharpening 0.5:"))
