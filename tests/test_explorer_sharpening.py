"""The explorer of sharpening: every control over its range, scores of the ring, and a caption that tells a trade."""

import itertools

import numpy as np
import pytest

from alignkd_lab.course.explorers import sharpening
from alignkd_lab.course.explorers.sharpening import RECALL_DRAWS, SCORERS, START, Score, caption, compute, verdict
from alignkd_lab.mog.ring import RingSettings, run_ring

PUBLISHED = {**START, "sharpening": 100.0}
TRUTH = {**PUBLISHED, "scored_under": "truth", "draws": "fresh"}
ERROR = Score(0.1, 0.1)


def settings_of(state):
    return RingSettings(student_components=round(state["components"]), sharpening=state["sharpening"])


# Data


@pytest.mark.parametrize(("scorer", "draws"), list(itertools.product(SCORERS, RECALL_DRAWS)))
def test_scores_are_those_of_the_ring_under_the_chosen_density_and_draws(scorer, draws):
    data = compute({**START, "sharpening": 3.0, "components": 2.0, "scored_under": scorer, "draws": draws, "seed": 4.0})
    scores = run_ring((4,), settings_of(data.state)).scores
    for student in ("direct", "distilled"):
        precision = scores["true" if scorer == "truth" else "published"][student]["precision"].item()
        recall = scores["true" if draws == "fresh" else "published"][student]["recall"].item()
        assert data.scores[student] == pytest.approx((precision, recall))


def test_the_direct_student_moves_only_where_the_teacher_scores():
    before, after = compute(START), compute(PUBLISHED)
    assert after.unsharpened == pytest.approx(before.scores["direct"])
    assert after.scores["direct"].precision < before.scores["direct"].precision - 10
    assert compute(TRUTH).scores["direct"] == compute(TRUTH).unsharpened
    assert compute({**TRUTH, "sharpening": 1.0}).scores["direct"] == compute(TRUTH).scores["direct"]


def test_the_sharpened_teacher_calls_a_perfect_student_worse_than_its_own():
    data = compute(PUBLISHED)
    assert data.scores["perfect"].precision < data.scores["distilled"].precision - 10
    assert "a perfect student" in caption(data)
    honest = compute(TRUTH)
    assert honest.scores["perfect"].precision == honest.scores["perfect"].recall
    assert honest.scores["perfect"].precision > honest.scores["distilled"].precision
    assert "But" not in caption(honest)


def test_shares_are_those_of_the_teacher_to_the_power_s():
    teacher = run_ring((10,)).teacher.weights[0].numpy()
    shares = compute({**START, "sharpening": 3.0}).shares
    assert shares == pytest.approx(teacher**3 / (teacher**3).sum())


def test_the_squares_hold_the_truth_and_the_seeds_draws():
    data = compute(START)
    cell = (2 * sharpening.SIDE / (data.fields["truth"].shape[0] - 1)) ** 2
    assert data.fields["truth"].sum() * cell == pytest.approx(1, abs=1e-3)
    assert set(data.fields) == set(sharpening.MODELS)
    assert data.training_draws == pytest.approx(run_ring((10,)).training_draws[0].numpy())


def test_the_noise_is_the_spread_of_what_was_scored():
    ring, data = run_ring((10,), settings_of(PUBLISHED)), compute(TRUTH)
    own = [ring.truth.log_prob(ring.own_draws[name])[0].numpy() for name in ("direct", "distilled")]
    assert data.noise.precision == pytest.approx(np.sqrt(sum(values.var(ddof=1) / 2000 for values in own)))
    paired = (ring.distilled.log_prob(ring.fresh_draws) - ring.direct.log_prob(ring.fresh_draws))[0].numpy()
    assert data.noise.recall == pytest.approx(paired.std(ddof=1) / np.sqrt(2000))


# Words


@pytest.mark.parametrize(
    ("precision", "recall", "said"),
    [
        (5.0, -30.0, "trades recall for precision"),
        (-1.0, -30.0, "Worse in both"),
        (0.1, -30.0, "Recall is lost, and nothing is gained"),
        (0.1, -0.1, "changes hardly anything"),
        (1.0, 0.0, "hardly any recall lost"),
        (1.0, 1.0, "better in both"),
        (-1.0, 0.0, "Precision is lost"),
        (-1.0, 1.0, "trades precision for recall"),
        (0.0, 1.0, "Recall is gained"),
    ],
)
def test_a_gain_is_told_by_its_two_signs_and_noise_is_none(precision, recall, said):
    assert said in verdict(Score(precision, recall), ERROR)


def test_the_belief_fails_at_the_published_setting_and_under_the_truth():
    assert "it trades recall for precision" in caption(compute(PUBLISHED))
    assert "it trades recall for precision" in caption(compute(TRUTH))
    assert "changes hardly anything" in caption(compute(START))


def test_with_room_for_all_modes_the_scores_disagree():
    room = {"components": 8.0}
    assert "Worse in both" in caption(compute({**TRUTH, **room}))
    assert "trades recall for precision" in caption(compute({**PUBLISHED, **room}))


def test_the_caption_says_its_numbers_and_what_speaks_against_them():
    data = compute(PUBLISHED)
    said = caption(data)
    direct, distilled = data.scores["direct"], data.scores["distilled"]
    for value in (*direct, *distilled, data.scores["perfect"].precision):
        assert f"{value:.1f}".replace("-", "−") in said
    assert "though s never touched it" in said
    assert "1 component each" in said
    assert "8 components each" in caption(compute({**PUBLISHED, "components": 8.0}))


def test_draws_that_were_fitted_to_flatter_a_large_student():
    data = compute({**START, "components": 8.0})
    lower = data.scores["direct"].recall - data.fresh_recall
    assert lower > 0.2
    assert f"recall is {lower:.1f} lower" in caption(data)


@pytest.mark.parametrize("seed", [9.0, 12.0, 32.0])
def test_where_two_components_survive_the_trade_is_small(seed):
    data = compute({**TRUTH, "seed": seed})
    assert (data.shares > 0.05).sum() >= 2
    assert data.gain.recall > -1
    assert compute(TRUTH).gain.recall < -30


def test_the_page_without_a_kernel_shows_three_settings():
    still = sharpening.show().still()
    assert still.alt.count("largest component holds") == 3
    assert "trades recall for precision" in still.alt
    assert len(still.png) < 120_000


def test_both_students_stand_where_they_scored():
    data = compute(PUBLISHED)
    axis = sharpening.draw(data).axes[1]
    points = [tuple(line.get_xydata()[0]) for line in axis.lines if len(line.get_xydata()) == 1]
    for name in ("direct", "distilled", "perfect"):
        assert data.scores[name][::-1] in points
    assert data.unsharpened[::-1] in points


def test_every_score_of_every_seed_lies_within_the_axes():
    lowest, highest = sharpening._LOWEST, sharpening._HIGHEST
    for components in (1, 8):
        ring = run_ring(range(40), RingSettings(student_components=components, sharpening=100.0))
        for scoring in ring.scores.values():
            for metrics in scoring.values():
                assert lowest.precision < metrics["precision"].min()
                assert metrics["precision"].max() < highest.precision
                assert lowest.recall < metrics["recall"].min()
                assert metrics["recall"].max() < highest.recall
