"""Noisy labels: pairs of training alone are flipped, and without noise nothing kept before is another result."""

import pytest
from tiny_lm import given_rate, small, world_in

from alignkd_lab.lm import world as world_module
from alignkd_lab.lm.stages.adpa import preference_distil
from alignkd_lab.lm.stages.dpo import sampled_pairs
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.pipelines import PIPELINES
from alignkd_lab.store import Store

STAGES = {stage for stages in PIPELINES.values() for stage in stages}
READ_PAIRS = ("base_aligned", "kd_aligned", "student_aligned", "dckd", "adpa", "dckd_half", "adpa_half")


def pairs_of(world):
    base = world.start("base")
    _, judged, pairs = sampled_pairs(world, base, world.models.of(base))
    return judged["reward"], pairs


@pytest.mark.parametrize("algorithm", ["dpo", "rlhf"])
def test_without_noise_no_key_holds_its_name(algorithm, tmp_path, monkeypatch):
    world = LmWorld(small(), algorithm, 0, Store(tmp_path))
    monkeypatch.setattr(world_module, "choose_rate", lambda world, role, depends: depends)
    for held in (*map(world.stage_settings, STAGES), *map(world.trials, ("base", "student"))):
        assert "dpo_label_noise" not in held
    assert "dpo_label_noise" not in world.evaluation_settings()
    named = {name: getattr(world.settings, name) for name in world_module._PAIRS if name != "dpo_label_noise"}
    assert world._named(world_module._PAIRS) == named


@pytest.mark.parametrize("algorithm", ["dpo", "rlhf"])
def test_noise_belongs_to_the_stages_that_read_pairs(algorithm, tmp_path):
    before, after = (
        LmWorld(small(dpo_label_noise=noise), algorithm, 0, Store(tmp_path)) for noise in (0.0, 0.2)
    )  # fmt: skip
    for stage in STAGES:
        reads = stage.name in READ_PAIRS and (algorithm == "dpo" or stage.kind != "align")
        held = before.stage_settings(stage), after.stage_settings(stage)
        assert held[1] == ({**held[0], "dpo_label_noise": 0.2} if reads else held[0])
    assert before.evaluation_settings() == after.evaluation_settings()


def test_noise_flips_the_same_samples_pairs_and_spares_those_held_out(tmp_path):
    clean, noisy = world_in(tmp_path), world_in(tmp_path, dpo_label_noise=0.5)
    rewards, pairs = pairs_of(clean)
    assert all(rewards[pair.chosen] > rewards[pair.rejected] for pair in pairs)
    wrong, found = pairs_of(noisy)
    assert wrong == rewards
    flipped = [pair.chosen == now.rejected for pair, now in zip(pairs, found, strict=True)]
    assert 0 < sum(flipped) < len(pairs)
    assert noisy.heldout[1] == clean.heldout[1]


def test_a_stage_counts_the_labels_that_are_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(world_module, "train", lambda *given, **options: [])
    noisy = given_rate(world_in(tmp_path, dpo_label_noise=0.5))
    rewards, pairs = pairs_of(noisy)
    wrong = sum(rewards[pair.chosen] < rewards[pair.rejected] for pair in pairs)
    base, student = noisy.start("base"), noisy.start("student")
    _, aligned = noisy.align(base, base, base, 1e-3, "noisy")
    _, distilled = preference_distil(noisy, base, base, student, base, "dckd", 1.0, "dckd")
    assert aligned["flipped_pairs"] == distilled["flipped_pairs"] == wrong > 0
    clean = given_rate(world_in(tmp_path))
    assert "flipped_pairs" not in clean.align(base, base, base, 1e-3, "clean")[1]
