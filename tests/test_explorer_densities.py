"""Densities that a reward tilts: on line and plane the target has the optimum's share; no reward changes a draw."""

import numpy as np
import pytest

from alignkd_lab import theory
from alignkd_lab.course.explorers import densities
from alignkd_lab.course.explorers.densities import START
from alignkd_lab.errors import BadInput


def state(**changes):
    return {**START, **changes}


def test_on_the_line_the_optimum_is_the_reference_tilted_by_a_step():
    data = densities.compute(state(reward=2.0))
    cell = data.x[1] - data.x[0]
    reward = np.where(data.x > densities.LINE_BOUNDARY, 2.0, 0.0)
    expected = theory.tilted_optimum(np.log(data.reference * cell), reward, 0.5).exp().numpy() / cell
    np.testing.assert_allclose(data.best, expected, rtol=1e-3, atol=1e-4)
    assert data.best[data.x > densities.LINE_BOUNDARY].sum() * cell == pytest.approx(data.optimum, rel=1e-3)


def test_in_the_plane_the_target_has_the_same_share():
    data = densities.compute(state(reward=1.0))
    axis = np.linspace(-3, 3, len(data.plane))
    cell = (axis[1] - axis[0]) ** 2
    quarter = data.plane[np.ix_(axis < 0, axis > 0)].sum() * cell
    assert data.plane.sum() * cell == pytest.approx(1, abs=1e-3)
    assert quarter == pytest.approx(data.optimum, rel=1e-2)


def test_the_draws_are_the_reference_s():
    hits = [densities.compute(state(reference_mass=mass, draws=1e6)).hit_count for mass in (0.3, 0.01)]
    assert hits == pytest.approx([0.3e6, 0.01e6], rel=0.05)
    data = densities.compute(state(reference_mass=0.3, draws=600))
    assert (data.line_draws[data.hits] > densities.LINE_BOUNDARY).all()
    assert (data.line_draws[~data.hits] < densities.LINE_BOUNDARY).all()
    assert (data.plane_draws[data.hits] * [1, -1] > 0).all()
    common = data.line_draws[~data.hits]
    assert (common < -1.5).mean() == pytest.approx(0.6, abs=0.06)


def test_no_reward_changes_a_draw_or_the_wait():
    low, high = (densities.compute(state(reward=reward, beta=beta)) for reward, beta in ((0.0, 5.0), (20.0, 0.05)))
    assert np.array_equal(low.plane_draws, high.plane_draws)
    assert (low.first, low.hit_count) == (high.first, high.hit_count)
    assert low.optimum < high.optimum


def test_the_first_sight_is_where_the_batch_begins_to_hold_one():
    first = densities.compute(state(reference_mass=0.01)).first
    assert densities.compute(state(reference_mass=0.01, draws=first - 1)).hit_count == 0
    assert densities.compute(state(reference_mass=0.01, draws=first)).hit_count == 1


def test_the_first_sight_is_no_freak_at_the_settings_that_the_page_opens_with():
    for mass in (0.04, 0.01, 0.001):
        chance = theory.chance_of_target(mass, densities.compute(state(reference_mass=mass)).first).item()
        assert 0.25 < chance < 0.75


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "A first batch of 256 draws has 9 on the target"),
        ({"reference_mass": 0.001}, "A first batch of 256 draws has no target"),
        ({"reference_mass": 1e-6, "draws": 10}, "would meet its first target"),
    ],
)
def test_the_caption_of_densities_says_what_is_seen(changes, said):
    assert said in densities.caption(densities.compute(state(**changes)))


def test_a_target_that_a_million_draws_miss_is_said_so():
    data = densities.compute(state(reference_mass=1e-12))
    assert data.first is None
    assert "never in a million" in densities.caption(data)


def test_compute_refuses_what_is_no_probability():
    with pytest.raises(BadInput, match="probability"):
        densities.compute(state(reference_mass=1.5))


def test_a_page_without_a_kernel_shows_every_still_with_its_evidence():
    explorer = densities.show("reward", stills=[{"reward": 1.0}, {"reference_mass": 0.01}])
    notes = []
    explorer._draw = lambda data, note: notes.append(note) or densities.draw(data, note)
    still = explorer.still()
    assert [note.partition(",")[0] for note in notes] == ["Reward 4", "Reward 1", "Reward 4"]
    assert all(note.endswith(densities.SOURCE) for note in notes)
    assert still.alt.count("A first batch of") == 3
