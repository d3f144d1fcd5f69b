"""Pairs: the best with the worst of the same prompt, each response once, and none where nothing can be learnt."""

import random

import pytest

from alignkd_lab.lm.preferences import flip_labels, informative_pairs


@pytest.fixture
def many():
    draw = random.Random(0)
    prompt_of = [index // 9 for index in range(9 * 20)]
    draw.shuffle(prompt_of)
    return prompt_of, [draw.choice([0.0, 0.0, 0.3, 0.7, 1.0]) for _ in prompt_of]


@pytest.mark.parametrize(("hits", "expected"), [(0, 0), (1, 1), (3, 3), (4, 4), (5, 3), (7, 1), (8, 0)])
def test_a_rule_gives_as_many_pairs_as_the_rarer_outcome_has_responses(hits, expected):
    rewards = [1.0] * hits + [0.0] * (8 - hits)
    assert len(informative_pairs([0] * 8, rewards, seed=0)) == expected


def test_rewards_that_differ_by_less_than_the_gap_teach_nothing():
    assert informative_pairs([0, 0], [0.5, 0.5 + 1e-8], seed=0) == []
    assert len(informative_pairs([0, 0], [0.5, 0.6], seed=0)) == 1
    assert informative_pairs([0, 0], [0.5, 0.6], seed=0, gap=0.2) == []


def test_ties_are_broken_by_the_seed_and_by_nothing_else():
    rewards = [1.0] + [0.0] * 11
    rejected = [informative_pairs([0] * 12, rewards, seed=seed)[0].rejected for seed in range(60)]
    assert len(set(rejected)) > 6
    assert rejected[7] == informative_pairs([0] * 12, rewards, seed=7)[0].rejected


def test_a_judge_who_errs_exchanges_chosen_and_rejected_of_about_so_many_pairs(many):
    pairs = informative_pairs(*many, seed=1)
    noisy = flip_labels(pairs, 0.3, seed=2)
    wrong = [now != pair for now, pair in zip(noisy, pairs, strict=True)]
    assert 0.15 < sum(wrong) / len(pairs) < 0.45
    for now, pair in zip(noisy, pairs, strict=True):
        assert (now.prompt, {now.chosen, now.rejected}) == (pair.prompt, {pair.chosen, pair.rejected})
    assert flip_labels(pairs, 0.3, seed=2) == noisy != flip_labels(pairs, 0.3, seed=3)


def test_without_noise_the_pairs_stay_as_they_are(many):
    pairs = informative_pairs(*many, seed=1)
    assert flip_labels(pairs, 0.0, seed=2) == pairs
