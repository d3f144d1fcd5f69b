"""The language world runs every pipeline, and both orders under either algorithm."""

import pytest
from tiny_lm import given_rate, random_adapter, small, world_in

from alignkd_lab.lm import context as context_module
from alignkd_lab.lm.stages import rloo
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.pipelines import ORDERS, PIPELINES, run_pipelines
from alignkd_lab.results import Result
from alignkd_lab.store import Store

BASE_ALIGN = PIPELINES["base_aligned"][0]
KD = PIPELINES["kd_only"][0]


def test_whole_pipelines_of_every_kind_run_and_share_their_stages(tmp_path):
    world = given_rate(world_in(tmp_path))
    outcomes, stages = run_pipelines(world, list(PIPELINES), Store(tmp_path))
    assert len(stages) == len({stage for name in PIPELINES for stage in PIPELINES[name]})
    assert all(outcome.evaluation["counts"]["responses"] == 8 for outcome in outcomes.values())
    finals = {outcomes[name].policy.digest for name in PIPELINES}
    assert len(finals) == len(PIPELINES)  # tiny truth, base and student differ, and so does every control and method


def test_a_student_aligned_without_distillation_may_train_on_what_that_would_have_cost(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(context_module, "train", lambda *given, **options: steps.append(options["steps"]) or [])
    world = given_rate(world_in(tmp_path, align_steps=3, align_batch=2, distil_prompts=8, distil_responses=4))
    student = world.start("student")
    world.run(PIPELINES["align_student_only"][0], {"base": world.start("base"), "student": student})
    assert steps == [3 + 8 * 4 / (2 * 2)]


def test_both_orders_run_under_rlhf_with_learning_rates_of_its_own(tmp_path, monkeypatch):
    asked = []

    def spy(context, reward, init, reference, settings, rate, name):
        asked.append((name, init.digest == reference.digest, rate))
        drawn = {"informative_groups": 1, "responses": 2, "target_responses": 1}
        info = {**drawn, "curve": [{"step": 1, "reward": rate, "kl": 1.0}]}
        return Result(random_adapter(init, len(asked)), info)

    monkeypatch.setattr(rloo, "rloo", spy)
    settings = small(rlhf_learning_rates=(1e-3, 2e-3))
    world = LmWorld(settings, "rlhf", 0, Store(tmp_path))
    _, stages = run_pipelines(world, [*ORDERS, "kd_then_align_base_reference"], world.store)
    runs = [call for call in asked if not call[0].startswith("trial")]
    assert [(name, own) for name, own, _ in runs] == [
        ("kd_aligned", True),
        ("base_aligned", True),
        ("kd_aligned", False),
    ]
    assert {rate for *_, rate in runs} == {2e-3}
    aligned = [stage for stage in stages.values() if stage["kind"] == "align"]
    assert all(len(stage["info"]["trials"]) == 2 for stage in aligned)
    assert all(stage["info"]["informative_groups"] == 1 for stage in aligned)


def test_dpo_and_rlhf_share_what_neither_of_them_made(tmp_path):
    worlds = [LmWorld(small(), algorithm, 0, Store(tmp_path)) for algorithm in ("dpo", "rlhf")]
    first, second = (world.stage_settings(KD) for world in worlds)
    assert first == second
    first, second = (world.stage_settings(BASE_ALIGN) for world in worlds)
    assert first != second


@pytest.mark.parametrize(("changed", "affected"), [({"rlhf_beta": 0.3}, True), ({"beta": 0.3}, False)])
def test_rlhf_depends_on_its_own_kl_weight(tmp_path, changed, affected):
    before, after = (LmWorld(small(**given), "rlhf", 0, Store(tmp_path)) for given in ({}, changed))
    assert (before.stage_settings(BASE_ALIGN) != after.stage_settings(BASE_ALIGN)) == affected
