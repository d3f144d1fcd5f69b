"""DCKD and ADPA as stages: what the student reads, what its teachers say, and what the budget is."""

import pytest
import torch
from tiny_lm import random_adapter, said_of, world_in

from alignkd_lab import nano
from alignkd_lab.lm import losses
from alignkd_lab.lm.teachers import Full
from alignkd_lab.pipelines import PreferenceDistil


def run(world, method, share=1.0, scale=0.3):
    base, student = world.start("base"), world.start("student")
    policies = {"base": base, "student": student, "teacher": random_adapter(base, 1, scale)}
    stage = PreferenceDistil(method, method, teacher="teacher", reference="base", sampler="base", share=share)
    result = world.run(stage, policies)
    return policies["teacher"], (result.policy, result.info)


@torch.no_grad()
def by_hand(world, teacher, call, method):
    """The paper's loss, response by response, with models asked anew."""
    student, rows = call["model"], call["examples"]
    teacher, reference = map(world.context.models.of, (teacher, world.start("base")))
    on_chosen = said_of(student, rows, "chosen"), torch.tensor([token for row in rows for token in row.responses[0]])
    if method == "dckd":
        read = said_of(student, rows, "rejected"), *(said_of(teacher, rows, role) for role in ("chosen", "rejected"))
        return nano.dckd_loss(*on_chosen, *read, world.settings.alpha)
    read = (said_of(model, rows, "sampled") for model in (student, teacher, reference))
    return nano.adpa_loss(*on_chosen, *read, world.settings.gamma)


def roles_read(call):
    """Of which responses each teacher says something, example by example."""
    return [
        {role for role, rows in zip(example.roles, read, strict=True) if rows}
        for example in call["examples"]
        for read in example.signals.values()
    ]


def test_dckd_trains_on_the_papers_loss_of_the_base_samplers_pairs(world, trained):
    teacher, (_, info) = run(world, "dckd")
    (call,) = trained
    assert call["value"] == pytest.approx(float(by_hand(world, teacher, call, "dckd")), abs=2e-5)
    assert info["informative_pairs"] == len(call["examples"]) > 0
    assert roles_read(call) == [{"chosen", "rejected"}] * len(call["examples"])
    for example in call["examples"]:
        assert example.roles == ["chosen", "rejected"]
        chosen, rejected = (world.context.tokenizer.decode(tokens) for tokens in example.responses)
        assert any(map(str.isdigit, chosen))
        assert not any(map(str.isdigit, rejected))


def test_adpa_trains_on_the_papers_loss_of_chosen_responses_and_what_the_initial_student_wrote_to_the_same_prompts(
    world, trained, tmp_path
):
    teacher, _ = run(world, "adpa")
    (call,) = trained
    assert call["value"] == pytest.approx(float(by_hand(world, teacher, call, "adpa")), abs=2e-5)
    assert roles_read(call) == [{"sampled"}] * 2 * len(call["examples"])
    assert not list(tmp_path.rglob("places.json"))  # no cache of a teacher is left behind
    student = world.context.models.of(world.start("student"))
    written = world.context.sample(student, "training", 4, world.settings.student_responses, 10, "student responses")
    for example in call["examples"]:
        assert example.roles == ["chosen", *["sampled"] * world.settings.student_responses]
        prompt = written.prompt_ids.index(example.prompt)
        own = [tokens for at, tokens in zip(written.prompt_of, written.tokens, strict=True) if at == prompt]
        assert example.responses[1:] == own


@pytest.mark.parametrize(("share", "steps"), [(1.0, 6), (0.5, 3)])
def test_a_stage_trains_on_as_many_responses_as_its_share_of_a_distillation(tmp_path, trained, share, steps):
    sizes = {"distil_prompts": 12, "distil_batch": 2, "distil_responses": 5, "student_responses": 4}
    world = world_in(tmp_path, **sizes)
    for method, batch in (("dckd", 5), ("adpa", 2)):
        trained.clear()
        run(world, method, share)
        assert (trained[0]["steps"], trained[0]["batch"]) == (steps, batch)


def test_adpa_raises_the_expected_advantage(tmp_path):
    world = world_in(tmp_path, distil_passes=15, distil_learning_rate=1e-2, gamma=20.0)
    _, (_, info) = run(world, "adpa", scale=3.0)
    first, last = (sum(info["expected_advantage"][part]) / 3 for part in (slice(0, 3), slice(-3, None)))
    assert last > first + 0.01


def test_without_informative_pairs_the_student_stays_as_it_is(world, trained):
    world.reward.hit = lambda text: False
    _, (policy, info) = run(world, "adpa")
    assert policy.digest == world.start("student").digest
    assert info["informative_pairs"] == 0
    assert not trained


def test_one_head_serves_both_teachers_so_that_an_advantage_is_one_product(world, trained, monkeypatch):
    signals, real = [], losses.adpa
    monkeypatch.setattr(losses, "adpa", lambda *a, **k: signals.append((k["teacher"], k["reference"])) or real(*a, **k))
    run(world, "adpa")
    ((teacher, reference),) = signals
    assert isinstance(teacher, Full)
    assert teacher.head is reference.head
