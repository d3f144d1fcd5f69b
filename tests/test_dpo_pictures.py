"""The pictures of notebook 04: DPO past its pairs on Gaussians, and both likelihoods along DPO on text."""

import numpy as np
import pytest
import torch

from alignkd_lab import theory
from alignkd_lab.course.explorers import beyond_pairs, dpo_on_text
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.plots.style import percent

HEIGHTS = np.linspace(-6, 3, 91)


@pytest.fixture(scope="module")
def beyond():
    return beyond_pairs.run()


def test_the_pairs_are_those_that_dpo_was_given_and_the_caption_states_what_was_measured(beyond):
    world = MogWorld(MogSettings(beta=0.5, sharpening=2.0), "dpo", (0,))
    distil, align = PIPELINES["kd_then_align_high_temperature"]
    student = world.run(distil, {"base": world.start("base"), "student": world.start("student")}).policy
    told = world.run(align, {distil.name: student}).info["per_seed"]["informative_pairs"]
    assert told == [beyond.informative]
    assert len(beyond.points["pairs"]) == 2 * world.settings.dpo_pairs
    words = beyond_pairs.caption(beyond)
    assert f"of the {beyond.informative} pairs" in words
    assert all(f"{percent(beyond.past(name))} of" in words for name in ("dpo", "pairs"))


def test_dpo_gets_its_pairs_right_and_runs_past_the_target_where_the_reward_that_it_learnt_rises(beyond):
    assert beyond.preferred > 0.9
    assert beyond.past("dpo") > 10 * beyond.past("pairs")
    assert beyond.past("rlhf") < 0.01
    assert beyond.reward("dpo") < 0.3 * beyond.reward("rlhf")
    target = beyond.settings.truth_means[3][1]
    below = target - 0.9
    learnt = {name: beyond_pairs.learnt_reward(beyond, name, HEIGHTS) for name in ("dpo", "rlhf")}
    at = {name: np.interp([below, target], HEIGHTS, values) for name, values in learnt.items()}
    assert at["dpo"][0] > at["dpo"][1]
    assert at["rlhf"][0] < at["rlhf"][1]
    for values in at.values():
        assert values[1] == pytest.approx(beyond.settings.reward_height, abs=0.05)


def test_a_learnt_reward_is_beta_times_the_log_ratio(beyond):
    centre = beyond.problem.centres[0]
    line = torch.stack([centre[0].expand(91), torch.as_tensor(HEIGHTS)], -1)[None]
    ratio = 0.5 * (beyond.aligned["dpo"].log_prob(line) - beyond.student.log_prob(line))[0].numpy()
    learnt = beyond_pairs.learnt_reward(beyond, "dpo", HEIGHTS)
    assert learnt - learnt[0] == pytest.approx(ratio - ratio[0])


# On text

CHOSEN = np.array([[0.0, 0.0], [1.0, -2.0], [2.0, -3.0]])
REJECTED = np.array([[0.0, 0.0], [-1.0, -4.0], [-6.0, -9.0]])


def test_the_curves_are_the_log_ratios_the_weights_those_of_dpo_and_the_caption_counts_winners_that_lost():
    left, right = dpo_on_text.draw(CHOSEN, REJECTED, 0.1, "a model").axes
    drawn = [tuple(line.get_ydata()) for line in left.lines]
    for values in (*CHOSEN.T, *REJECTED.T, CHOSEN.mean(1), REJECTED.mean(1)):
        assert tuple(values) in drawn
    weights = theory.dpo_weight(CHOSEN, REJECTED, 0.1).numpy()
    assert right.lines[0].get_ydata() == pytest.approx(weights[:, 0])
    assert weights[0] == pytest.approx([0.5, 0.5])
    wrong_way = dpo_on_text.draw(REJECTED, CHOSEN, 1.0, "a model").axes[1]
    assert wrong_way.get_ylim()[1] > max(wrong_way.lines[0].get_ydata()) > 0.99
    words = dpo_on_text.caption(CHOSEN, REJECTED, beta=0.1)
    assert "gained −0.500 nats on average, the rejected −7.50" in words
    assert "the margin grew by 7.00" in words
    assert words.endswith("The chosen response itself became less likely in 1 of 2 pairs.")
    assert words in dpo_on_text.show(CHOSEN, REJECTED, 0.1, "a model").alt
