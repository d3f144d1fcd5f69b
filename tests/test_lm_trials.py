"""The learning rate of alignment: equal trials for every rate; the best reward within the KL budget wins."""

import json

import pytest
from tiny_lm import world_in

from alignkd_lab.lm import trials as module
from alignkd_lab.lm import world as world_module
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.presets import preset
from alignkd_lab.store import Store, key_of

RATES = (1e-4, 3e-4, 1e-3)


@pytest.fixture
def tried(monkeypatch):
    """Every trial's arguments; the outcome of a rate is given and not measured."""
    seen, outcomes = [], {1e-4: (0.2, 0.0), 3e-4: (0.5, 1.0), 1e-3: (0.9, 6.0)}

    def align(self, init, reference, sampler, rate, name):
        seen.append((self.seeds, init, reference, sampler, rate))
        reward, kl = outcomes[rate]
        return init, {
            "informative_pairs": 5,
            "curve": [{"step": 9, "reward": reward, "kl": kl, "target_rate": reward}],
        }

    monkeypatch.setattr(LmWorld, "align", align)
    return seen


@pytest.mark.parametrize(("budget", "expected"), [(10.0, 1e-3), (5.0, 3e-4), (0.5, 1e-4)])
def test_the_rate_of_highest_reward_within_the_kl_budget_wins(budget, expected, tried, tmp_path):
    found = world_in(tmp_path, align_learning_rates=RATES, kl_budget=budget).trials("base")
    assert found["learning_rate"] == expected
    assert [trial["learning_rate"] for trial in found["trials"]] == list(RATES)


def test_where_every_rate_leaves_the_kl_budget_the_one_that_drifts_least_wins(tried, tmp_path):
    found = world_in(tmp_path, align_learning_rates=RATES[1:], kl_budget=0.5).trials("base")
    assert found["learning_rate"] == RATES[1]


def test_a_rate_without_a_rival_needs_no_trial(tried, tmp_path):
    found = world_in(tmp_path, align_learning_rates=(2e-4,)).trials("student")
    assert found == {"role": "student", "learning_rate": 2e-4, "trials": []}
    assert not tried


def test_every_rate_starts_from_the_same_policy_with_the_trial_seed(tried, tmp_path):
    world = world_in(tmp_path, align_learning_rates=RATES)
    world.trials("base")
    assert [rate for *_, rate in tried] == list(RATES)
    for seeds, init, reference, sampler, _ in tried:
        assert seeds == (world.settings.trial_seed,)
        assert init.digest == reference.digest == sampler.digest == world.start("base").digest


def test_the_students_rates_are_tried_on_a_student_distilled_at_the_usual_temperature(tried, tmp_path, monkeypatch):
    distilled, real = [], LmWorld.distil

    def spy(self, teacher, init, temperature, name):
        distilled.append((teacher.digest, init.digest, temperature, self.seeds))
        return real(self, teacher, init, temperature, name)

    monkeypatch.setattr(LmWorld, "distil", spy)
    world = world_in(tmp_path, align_learning_rates=RATES)
    world.trials("student")
    base, student = world.start("base").digest, world.start("student").digest
    assert distilled == [(base, student, 0.7, (world.settings.trial_seed,))]
    assert {init.start for _, init, *_ in tried} == {"tiny-student"}
    assert {len(init.adapters) for _, init, *_ in tried} == {1}


def test_every_rate_meets_the_same_numbers(tmp_path, monkeypatch):
    seeds = {"train": [], "sample": []}
    for name in seeds:
        real = getattr(world_module, name)

        def spy(*given, name=name, real=real, **options):
            seeds[name].append(options["seed"] if name == "train" else given[5])
            return real(*given, **options)

        monkeypatch.setattr(world_module, name, spy)
    world_in(tmp_path, align_learning_rates=(1e-3, 1e-3 * 1.5)).trials("base")
    assert seeds["train"][0] == seeds["train"][1]
    curves = seeds["sample"][-4:]  # two curve points of each rate
    assert curves[:2] == curves[2:]


def test_trials_are_kept_for_every_seed_of_a_run(tried, tmp_path):
    found = [world_in(tmp_path, seed, align_learning_rates=RATES).trials("base") for seed in (0, 1)]
    assert found[0] == found[1]
    assert len(tried) == len(RATES)


def test_trials_depend_on_what_they_tried(tried, tmp_path):
    world_in(tmp_path, align_learning_rates=RATES).trials("base")
    world_in(tmp_path, align_learning_rates=RATES, align_steps=3).trials("base")
    world_in(tmp_path, align_learning_rates=RATES, test_responses=5).trials("base")
    assert len(tried) == 2 * len(RATES)


def test_a_shipped_trial_is_used_where_it_was_made_with_these_settings(tried, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path / "data")
    depends = {"role": "base", "weights": "these"}
    (tmp_path / "data" / "trials").mkdir(parents=True)
    shipped = tmp_path / "data" / "trials" / f"base-{key_of(depends)}.json"
    shipped.write_text(json.dumps({"role": "base", "learning_rate": 0.7, "trials": []}))
    world = world_in(tmp_path, align_learning_rates=RATES)
    assert module.choose_rate(world, "base", {"weights": "these"})["learning_rate"] == 0.7
    assert not tried
    assert module.choose_rate(world, "base", {"weights": "others"})["learning_rate"] in RATES


def test_without_any_pair_the_first_rate_stands(tmp_path):
    world = world_in(
        tmp_path,
        align_learning_rates=RATES,
        target="question",
        preference_prompts=1,
        preference_responses=2,
        rlhf_prompts=1,
    )
    found = world.trials("base")
    assert {trial["informative_pairs"] for trial in found["trials"]} == {0}
    assert found["learning_rate"] == RATES[0]


@pytest.mark.weights
@pytest.mark.parametrize("role", ["base", "student"])
def test_the_laptop_preset_finds_its_trials_shipped(role, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "try_rates", lambda *_: pytest.fail("the shipped trial is of other settings"))
    world = LmWorld(preset("laptop").lm, "dpo", 0, Store(tmp_path))
    assert world.trials(role)["learning_rate"] in world.settings.align_learning_rates
