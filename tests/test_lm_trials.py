"""The learning rate of alignment: equal trials for every rate; the best reward within the KL budget wins."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_lm import watch, world_in

from alignkd_lab.lm import context as context_module
from alignkd_lab.lm import trials as module
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.lm.stages import distil
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.results import Result
from alignkd_lab.store import Store, key_of
from alignkd_lab.study import plan

RATES = (1e-4, 3e-4, 1e-3)


@pytest.fixture
def tried(monkeypatch):
    """Every trial's arguments; the outcome of a rate is given and not measured."""
    seen, outcomes = [], {1e-4: (0.2, 0.0), 3e-4: (0.5, 1.0), 1e-3: (0.9, 6.0)}

    def align(self, init, reference, sampler, rate, name, within):
        context, _ = within
        seen.append((context.seed, init, reference, sampler, rate))
        reward, kl = outcomes[rate]
        curve = [{"step": 9, "reward": reward, "kl": kl, "target_rate": reward}]
        return Result(init, {"informative_pairs": 5, "curve": curve})

    monkeypatch.setattr(LmWorld, "align", align)
    return seen


@pytest.mark.parametrize(
    ("budget", "rates", "expected"),
    [(10.0, RATES, 1e-3), (5.0, RATES, 3e-4), (0.5, RATES, 1e-4), (0.5, RATES[1:], 3e-4)],
)
def test_the_rate_of_highest_reward_within_the_kl_budget_wins_else_that_of_least_kl(
    budget, rates, expected, tried, tmp_path
):
    found = world_in(tmp_path, align_learning_rates=rates, kl_budget=budget).trials("base")
    assert found["learning_rate"] == expected
    assert [trial["learning_rate"] for trial in found["trials"]] == list(rates)


def test_every_rate_starts_from_the_same_policy_with_the_trial_seed_and_one_without_a_rival_is_not_tried(
    tried, tmp_path
):
    alone = world_in(tmp_path, align_learning_rates=(2e-4,)).trials("student")
    assert (alone, tried) == ({"learning_rate": 2e-4, "trials": []}, [])
    world = world_in(tmp_path, align_learning_rates=RATES)
    world.trials("base")
    assert [rate for *_, rate in tried] == list(RATES)
    for seed, init, reference, sampler, _ in tried:
        assert seed == world.settings.trial_seed
        assert init.digest == reference.digest == sampler.digest == world.start("base").digest


def test_the_students_rates_are_tried_on_a_student_distilled_at_the_usual_temperature(tried, tmp_path, monkeypatch):
    spy, world = watch(monkeypatch, distil, "distil"), world_in(tmp_path, align_learning_rates=RATES)
    world.trials("student")
    ((context, teacher, student, settings, _),) = (call.args for call in spy.call_args_list)
    assert (teacher, student) == (world.start("base"), world.start("student"))
    assert (settings.kd_temperature, context.seed) == (0.7, world.settings.trial_seed)
    assert {init.start for _, init, *_ in tried} == {"tiny-student"}
    assert {len(init.adapters) for _, init, *_ in tried} == {1}


def test_every_rate_meets_the_same_numbers(tmp_path, monkeypatch):
    train, sample = (watch(monkeypatch, context_module, name) for name in ("train", "sample"))
    world_in(tmp_path, align_learning_rates=(1e-3, 1e-3 * 1.5)).trials("base")
    one, other = (call.kwargs["seed"] for call in train.call_args_list)
    assert one == other
    curves = [call.args[5] for call in sample.call_args_list[-4:]]  # two curve points of each rate
    assert curves[:2] == curves[2:]


def test_seeds_that_run_at_once_share_one_choice(tmp_path):
    tried = []

    def try_rates(*_):
        tried.append(1)
        time.sleep(0.5)
        return {"learning_rate": RATES[len(tried) - 1], "trials": [], "tokens": {}}

    settings, depends = module.TrialSettings(RATES), {"role": "base"}
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(module.choose_rate, settings, depends, Store(tmp_path), try_rates) for _ in range(3)]
    assert [each.result()["learning_rate"] for each in found] == [RATES[0]] * 3


def test_trials_depend_on_what_they_tried_and_serve_every_seed(tried, tmp_path):
    changes = ({}, {"seed": 1}, {"align_steps": 3}, {"test_responses": 5})
    found = [world_in(tmp_path, align_learning_rates=RATES, **given).trials("base") for given in changes]
    assert found[0] == found[1]
    assert len(tried) == 2 * len(RATES)


def test_a_shipped_trial_is_used_where_it_was_made_with_these_settings(tried, tmp_path, monkeypatch):
    world = world_in(tmp_path, align_learning_rates=RATES)
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    shipped = {"depends": world.rate_depends("base"), "learning_rate": 0.7, "trials": [], "tokens": {}}
    (tmp_path / "trials.json").write_text(json.dumps([shipped]))
    assert world_in(tmp_path / "empty", align_learning_rates=RATES).trials("base")["learning_rate"] == 0.7
    assert not tried
    assert world_in(tmp_path / "empty", align_learning_rates=RATES, beta=0.2).trials("base")["learning_rate"] in RATES


def test_without_any_pair_the_first_rate_stands(tmp_path):
    few = {"target": "question", "preference_prompts": 1, "preference_responses": 2, "rlhf_prompts": 1}
    found = world_in(tmp_path, align_learning_rates=RATES, **few).trials("base")
    assert {trial["informative_pairs"] for trial in found["trials"]} == {0}
    assert found["learning_rate"] == RATES[0]


def shipped_rate(settings, algorithm, init, folder):
    """What a run of these settings trains with where a shipped trial says so, else None; nothing is read or trained."""
    world = LmWorld.__new__(LmWorld)
    world.settings, world.algorithm, world.store, world._chosen = settings, algorithm, Store(folder), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "try_rates", lambda *_, **__: {"learning_rate": None})
        found = world.trials(init)
    return found and found["learning_rate"]


@pytest.mark.weights
@pytest.mark.parametrize("init", ["base", "kd"])
@pytest.mark.parametrize("name", ["pilot", *plan.MAIN])
def test_the_pilots_and_the_studys_main_settings_find_their_trials_shipped(name, init, tmp_path):
    settings = LmSettings() if name == "pilot" else plan.settings_of(plan.ARMS["main"].cells[0], name)
    assert shipped_rate(settings, "dpo", init, tmp_path) in settings.align_learning_rates


@pytest.mark.weights
def test_every_shipped_trial_is_found_by_the_settings_that_it_was_made_with(tmp_path):
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "choose_rate", lambda settings, depends, *rest: asked.append(depends))
        cells = [cell for cell in plan.cells() if cell.arm != "student_layers"]  # these students do not ship
        every = [(plan.settings_of(cell, name), cell.algorithm) for name in plan.MAIN for cell in cells]
        for settings, algorithm in [*every, (LmSettings(), "dpo")]:
            for init in ("base", "kd"):
                assert shipped_rate(settings, algorithm, init, tmp_path) is None
    keys = {key_of(depends) for depends in asked}
    shipped = json.loads((data_folder() / "trials.json").read_text())
    assert len(shipped) == 25
    assert {key_of(held["depends"]) for held in shipped} <= keys
