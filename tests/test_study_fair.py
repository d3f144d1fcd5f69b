"""Experiment 1 of the plan's second part: pairs, measures and tuning, and the whole of it on tiny models."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from alignkd_lab import records
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.rerun import compare, rerun
from alignkd_lab.study import fair, fair_run, lab
from alignkd_lab.study.dense import draw_pairs
from alignkd_lab.study.fair import Setting, Sizes, frontier, win_rate
from alignkd_lab.study.fair_run import METHODS, Experiment, Method, depends, steps_out, tune, within_budget
from alignkd_lab.study.families import fair_methods, prompt_wins
from alignkd_lab.study.pictures import fair_figure

SMALL = Sizes(
    prompts=6, responses=4, max_tokens=5, pairs=4, heldout_pairs=4, heldout_responses=2, steps=2, batch=2, sft_steps=1,
    sft_batch=2, validation_responses=1, test_prompts=4, test_responses=2, curve_points=2, lora_rank=2,
)  # fmt: skip
TINY = {"base": "tiny-base", "student": "tiny-student", "dtype": "float32"}


def samples_of(rows):
    return Samples([[1]] * len(rows), [at for at, row in enumerate(rows) for _ in row], [[2]] * sum(map(len, rows)))


def drawn(rows, count, seed):
    """Pairs of rewards, from prompts with responses whose text is their reward."""
    flat = [value for row in rows for value in row]
    pairs = draw_pairs(samples_of(rows), list(map(str, flat)), flat, count, seed)
    return [(pair.prompt, flat[pair.chosen], flat[pair.rejected]) for pair in pairs]


def test_pairs_are_disjoint_and_apart_true_without_a_seed_and_else_err_as_the_logistic_of_the_gap_says():
    rows = [[0.0, 0.0, 0.9, 0.5], [0.3, 0.31], [0.1, 0.8, 0.1]]
    pairs = drawn(rows, 10, None)
    assert all(chosen - rejected >= 0.05 for _, chosen, rejected in pairs)
    assert sum(prompt == 1 for prompt, *_ in pairs) == 0
    used = [value for prompt, *values in pairs if prompt == 0 for value in values]
    assert len(used) == len(set(used))
    assert len(drawn(rows, 1, None)) == 1
    rows = [[0.0, 0.2]] * 4000
    right = np.mean([chosen > rejected for _, chosen, rejected in drawn(rows, 4000, 3)])
    assert right == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)
    assert drawn(rows, 7, 3) == drawn(rows, 7, 3) != drawn(rows, 7, 4)


def test_a_win_rate_is_of_all_pairs_of_responses_within_a_prompt_and_a_level_of_kl_not_reached_has_no_reward():
    assert win_rate([1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]) == pytest.approx((0.75 + 0.25) / 2)
    curve = [{"kl": 0.0, "reward": 0.0}, {"kl": 1.5, "reward": 0.3}, {"kl": 3.0, "reward": 0.4}]
    found = frontier(curve)
    assert found["reward_at_0.5_nats"] == pytest.approx(0.1)
    assert found["reward_at_2_nats"] == pytest.approx(0.3 + 0.1 / 3)
    assert found["reward_at_4_nats"] is None


METHOD = Method((1e-4, 3e-4), "gamma", (0.5, 1.5), (0.15, 0.5, 1.5, 5.0))


def test_tuning_takes_the_best_mean_of_two_seeds_within_the_kl_budget_and_steps_out_from_an_edge():
    tried = [Setting(rate, weight) for rate in METHOD.rates for weight in METHOD.weights]
    assert steps_out(METHOD, tried, Setting(3e-4, 1.5)) == [Setting(1e-3, 1.5), Setting(3e-4, 5.0)]
    assert steps_out(METHOD, [*tried, Setting(1e-3, 1.5)], Setting(3e-4, 0.5)) == [Setting(3e-4, 0.15)]
    asked = []

    def trial(setting, seed):
        asked.append((setting, seed))
        second = seed == fair_run.TUNING[1]
        reward = {Setting(3e-4, 1.5): 0.1 if second else 0.9, Setting(1e-4, 1.5): 0.8}.get(setting, 0.2)
        return {"reward": 2.0, "kl": 11.0} if setting.weight == 5.0 else {"reward": reward, "kl": 1.0}

    assert tune(METHOD, trial) == (Setting(1e-4, 1.5), Setting(3e-4, 1.5))
    assert len(asked) == 4 + 2 + 2
    assert within_budget({Setting(1, 1): {"reward": 1, "kl": 30}, Setting(2, 1): {"reward": 0, "kl": 20}})[0].rate == 2


def test_curves_are_measured_early_at_three_seeds_and_at_trials_ends():
    found = [fair_run.curve_steps(seed, "fair", 80, 4) for seed in (0, 1, 3, 4)]
    assert found == [(20, 40, 60, 80), (5, 10, 20, 80), (5, 10, 20, 80), ()]
    assert fair_run.curve_steps(1, "tuning", 80, 4) == (80,)


@pytest.fixture
def short(monkeypatch):
    """One seed, texts that earn what their letters say, and the first settings in place of tuned ones."""
    monkeypatch.setattr(fair, "sentiment", lambda text: (sum(map(ord, text)) % 100) / 100)
    monkeypatch.setattr(fair_run, "MORE_SEEDS", range(1))
    monkeypatch.setattr(fair_run, "CURVES", range(1))
    firsts = lambda method, trial: [Setting(rate, method.weights[0]) for rate in method.rates[:2]]  # noqa: E731
    monkeypatch.setattr(fair_run, "tune", firsts)


@pytest.mark.slow
def test_every_method_of_a_seed_becomes_a_record_that_is_not_made_twice(short, tmp_path, monkeypatch):
    Experiment(tmp_path, SMALL, **TINY).run(seeds=(1,))
    assert set(records.load(tmp_path).metrics["arm"]) == {"tuning"}
    Experiment(tmp_path, SMALL, **TINY).run()
    held = records.load(tmp_path)
    run = held.select(seed=0)
    assert {"base", "base_aligned", "sft", *METHODS} == set(run.metrics["pipeline"])
    rewards = run.metrics[run.metrics["metric"] == "reward"].groupby(["pipeline", "arm"])["value"].count()
    assert rewards["dckd", "fair"] == rewards["dckd", "runner-up"] == 1
    sft = run.select(pipeline="sft").metrics.set_index("metric")["value"]
    assert sft["accuracy"] == 0.5
    assert sft["kl_to_sft"] == pytest.approx(0, abs=1e-4)
    ran = run.select(arm="fair").metrics
    rates = ran[ran["metric"] == "win_rate"].set_index("pipeline")["value"]
    assert {name: prompt_wins(held, name).loc[0].mean() for name in METHODS} == pytest.approx(rates.to_dict())
    assert len(fair_methods(held, ("win_rate", "reward"))) == len(METHODS) + 2 + 3
    assert len(fair_figure(held).axes) == 2
    assert len(run.select(pipeline="adpa").responses) == 2 * SMALL.test_prompts * SMALL.test_responses
    order = list(Experiment(tmp_path).runs({**dict.fromkeys(METHODS), "form": "adpa", "adpa runner-up": 0,
                                            "dckd runner-up": 0}, True))  # fmt: skip
    assert {name for _, name, *_ in order} == {"adpa", "dckd", "adpa_plus", "align_then_kd"}
    monkeypatch.setattr(torch.Tensor, "backward", None)  # nothing is trained again
    Experiment(tmp_path, SMALL, **TINY).run()
    assert len(records.load(tmp_path).metrics) == len(held.metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arm"), [("adpa_plus", "fair"), ("adpa", "tuning"), ("base_aligned", "start")])
def test_a_recorded_method_runs_again_from_its_settings_alone(short, tmp_path, name, arm):
    chosen = {"teacher": 1e-4, "form": "adpa", "dckd": Setting(3e-4, 0.2)}
    about = {"method": name, "teacher_rate": 1e-4} if arm == "start" else depends(name, Setting(3e-4, 0.5), chosen)
    Experiment(tmp_path / "first", SMALL, **TINY).one(3, about, arm)
    recorded = records.load(tmp_path / "first")
    for _ in range(2):
        again = rerun(recorded, out=tmp_path / "again", again=partial(fair_run.again, **TINY))
        assert set(compare(recorded, again)["verdict"]) == {"same"}
        Experiment(tmp_path / "again", SMALL, **TINY).one(3, {**about, "teacher_rate": 1e-3}, arm)  # another run


def test_bfloat16_products_are_those_of_the_rounded_numbers():
    # Of integers, so that sums are exact in any order.
    first, second = torch.randint(-9, 10, (2, 24, 24), generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(lab.product(first, second), (first.double() @ second.double()).bfloat16())
    assert torch.equal(lab.product(first.double(), second.double()), first.double() @ second.double())
