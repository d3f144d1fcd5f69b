"""Pairs: the best with the worst of a prompt, each response once, none where nothing can be learnt; noisy labels."""

import random

import pytest
from tiny_lm import given_rate, small, world_in

from alignkd_lab.lm import context as context_module
from alignkd_lab.lm.preferences import PairSettings, draw_preferences, flip_labels, informative_pairs
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.store import Store, part


def test_rewards_that_differ_by_less_than_the_gap_teach_nothing():
    assert informative_pairs([0, 0], [0.5, 0.5 + 1e-8], seed=0) == []
    assert len(informative_pairs([0, 0], [0.5, 0.6], seed=0)) == 1
    assert informative_pairs([0, 0], [0.5, 0.6], seed=0, gap=0.2) == []


def test_ties_are_broken_by_the_seed_and_by_nothing_else():
    rewards = [1.0] + [0.0] * 11
    rejected = [informative_pairs([0] * 12, rewards, seed=seed)[0].rejected for seed in range(60)]
    assert len(set(rejected)) > 6
    assert rejected[7] == informative_pairs([0] * 12, rewards, seed=7)[0].rejected


def test_a_judge_who_errs_exchanges_chosen_and_rejected_of_about_so_many_pairs():
    draw, prompt_of = random.Random(0), [index // 9 for index in range(9 * 20)]
    pairs = informative_pairs(prompt_of, [draw.choice([0.0, 0.0, 0.3, 0.7, 1.0]) for _ in prompt_of], seed=1)
    noisy = flip_labels(pairs, 0.3, seed=2)
    wrong = [now != pair for now, pair in zip(noisy, pairs, strict=True)]
    assert 0.15 < sum(wrong) / len(pairs) < 0.45
    for now, pair in zip(noisy, pairs, strict=True):
        assert (now.prompt, {now.chosen, now.rejected}) == (pair.prompt, {pair.chosen, pair.rejected})
    assert flip_labels(pairs, 0.3, seed=2) == noisy != flip_labels(pairs, 0.3, seed=3)


# Noisy labels: pairs of training alone are flipped, and without noise nothing kept before is another result.

STAGES = {stage for stages in PIPELINES.values() for stage in stages}
READ_PAIRS = ("base_aligned", "kd_aligned", "student_aligned", "dckd", "adpa", "dckd_half", "adpa_half")


def pairs_of(world):
    drawn = draw_preferences(world.context, world.reward, world.start("base"), part(PairSettings, world.settings))
    return drawn.earned.rewards, drawn.pairs


@pytest.mark.parametrize("algorithm", ["dpo", "rlhf"])
def test_noise_belongs_to_the_stages_that_read_pairs_and_else_no_key_has_its_name(algorithm, tmp_path, monkeypatch):
    monkeypatch.setattr("alignkd_lab.lm.trials.choose_rate", lambda settings, depends, *given: depends)
    before, after = (LmWorld(small(dpo_label_noise=noise), algorithm, 0, Store(tmp_path)) for noise in (0.0, 0.2))
    for stage in STAGES:
        reads = stage.name in READ_PAIRS and (algorithm == "dpo" or stage.kind != "align")
        held = before.stage_settings(stage), after.stage_settings(stage)
        assert held[1] == ({**held[0], "dpo_label_noise": 0.2} if reads else held[0])
    assert before.evaluation_settings() == after.evaluation_settings()
    clean = [*map(before.stage_settings, STAGES), *map(before.trials, ("base", "student"))]
    assert not any("dpo_label_noise" in held for held in [before.evaluation_settings(), *clean])


def test_noise_flips_the_same_samples_pairs_and_spares_those_held_out(tmp_path):
    clean, noisy = world_in(tmp_path), world_in(tmp_path, dpo_label_noise=0.5)
    rewards, pairs = pairs_of(clean)
    assert all(rewards[pair.chosen] > rewards[pair.rejected] for pair in pairs)
    wrong, found = pairs_of(noisy)
    assert wrong == rewards
    flipped = [pair.chosen == now.rejected for pair, now in zip(pairs, found, strict=True)]
    assert 0 < sum(flipped) < len(pairs)
    assert noisy.evaluation.heldout[1] == clean.evaluation.heldout[1]


def test_a_stage_counts_the_labels_that_are_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(context_module, "train", lambda *given, **options: [])
    noisy = given_rate(world_in(tmp_path, dpo_label_noise=0.5))
    rewards, pairs = pairs_of(noisy)
    wrong = sum(rewards[pair.chosen] < rewards[pair.rejected] for pair in pairs)
    base = noisy.start("base")
    policies = {"base": base, "student": noisy.start("student"), "base_aligned": base}
    aligned, distilled = (noisy.run(PIPELINES[name][-1], policies).info for name in ("base_aligned", "dckd"))
    assert aligned["flipped_pairs"] == distilled["flipped_pairs"] == wrong > 0
    clean = given_rate(world_in(tmp_path))
    assert "flipped_pairs" not in clean.align(base, base, base, 1e-3, "clean").info
