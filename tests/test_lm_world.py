"""The language world: who teaches whom, on which prompts, and what each stage costs."""

import math
from dataclasses import fields

import pytest
import torch
from tiny_lm import assert_near, given_rate, log_prob, log_probs, random_adapter, small, watch, world_in

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import context as context_module
from alignkd_lab.lm import scoring
from alignkd_lab.lm import world as world_module
from alignkd_lab.lm.batch import collate, hidden_states, plain
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.settings import AdpaSettings, DckdSettings, DistilSettings, DpoSettings, LmSettings, RlooSettings
from alignkd_lab.lm.stages import adpa, rloo
from alignkd_lab.lm.templates import encode
from alignkd_lab.lm.trials import TrialSettings
from alignkd_lab.lm.world import LmWorld
from alignkd_lab.pipelines import ORDERS, PIPELINES, run_pipelines
from alignkd_lab.results import Result
from alignkd_lab.store import Store

BASE_ALIGN = PIPELINES["base_aligned"][0]
KD = PIPELINES["kd_only"][0]


@pytest.fixture
def sampled(monkeypatch):
    """Every call of the sampler: prompts, responses a prompt, seed and temperature."""
    seen, real = [], context_module.sample

    def spy(model, prompt_ids, responses, max_tokens, eos, seed, temperature=1.0, **options):
        seen.append({"width": model.config.hidden_size, "prompts": prompt_ids, "responses": responses,
                     "max_tokens": max_tokens, "seed": seed, "temperature": temperature})  # fmt: skip
        return real(model, prompt_ids, responses, max_tokens, eos, seed, temperature, **options)

    monkeypatch.setattr(context_module, "sample", spy)
    return seen


# Roles ------------------------------------------------------------------------------------------------


def test_a_policy_starts_at_init_is_anchored_to_anchor_and_learns_pairs_of_sampler(world, trained):
    student, base = world.start("student"), world.start("base")
    init, reference, sampler = random_adapter(student, 1), random_adapter(base, 2), random_adapter(base, 3)
    result = world.align(init, reference, sampler, 1e-3, "three")
    policy, info = result.policy, result.info
    (call,) = trained
    assert info["informative_pairs"] == len(call["examples"]) > 0
    # init: the hidden states before the first step are those of the policy that the stage starts from
    with torch.inference_mode():
        expected = hidden_states(world.context.models.of(init), collate(call["examples"]))
    assert_near(call["states"], expected)
    # sampler: every response is one that the sampler wrote to that prompt
    written = world.context.keep_samples(sampler, "training", 4, 6, 10, "preferences")
    pool = {
        (tuple(written.prompt_ids[at]), tuple(tokens))
        for at, tokens in zip(written.prompt_of, written.tokens, strict=True)
    }
    model = world.context.models.of(reference)
    for example in call["examples"]:
        assert {(tuple(example.prompt), tuple(tokens)) for tokens in example.responses} <= pool
        # reference: the reference of the KL
        expected = [log_prob(model, example.prompt, tokens) for tokens in example.responses]
        assert example.reference_log_probs == pytest.approx(expected, abs=1e-3)
    assert policy.start == init.start
    assert len(policy.adapters) == 2


@pytest.mark.parametrize("same", ["sampler", "truth"])
def test_an_anchor_that_wrote_the_responses_does_not_read_them_again(same, world, trained, monkeypatch):
    base = world.start("base")
    init, sampler = random_adapter(base, 1), random_adapter(base, 2)
    reference = sampler if same == "sampler" else world.reward.truth.policy
    world.prepare(BASE_ALIGN)
    read = watch(monkeypatch, context_module, "score")
    trained.clear()
    world.align(init, reference, sampler, 1e-3, "again")
    model = world.context.models.of(reference)
    for example in trained[0]["examples"]:
        expected = [log_prob(model, example.prompt, tokens) for tokens in example.responses]
        assert example.reference_log_probs == pytest.approx(expected, abs=1e-3)
    # Any reference reads the curve's first point, and the pairs unless it wrote them.
    assert read.call_count == (1 if same == "sampler" else 2)


def test_the_orders_read_the_same_prompts_with_the_same_seeds_and_counts(tmp_path, sampled, monkeypatch):
    train, world, calls, seeds = watch(monkeypatch, context_module, "train"), given_rate(world_in(tmp_path)), {}, {}
    policies = {"base": world.start("base"), "student": world.start("student")}
    for stage in (*PIPELINES["kd_then_align"], *PIPELINES["align_then_kd"]):
        world.prepare(stage)
        sampled.clear()
        policies[stage.name] = world.run(stage, policies).policy
        calls[stage.name] = [{key: value for key, value in call.items() if key != "width"} for call in sampled]
        seeds[stage.name] = [train.call_args.kwargs[key] for key in ("seed", "steps", "batch", "learning_rate")]
    assert list(calls) == ["kd", "kd_aligned", "base_aligned", "aligned_kd"]
    assert train.call_count == 4
    assert calls["kd"] == calls["aligned_kd"]
    assert calls["kd_aligned"] == calls["base_aligned"]
    assert seeds["kd"] == seeds["aligned_kd"]
    assert seeds["kd_aligned"] == seeds["base_aligned"]
    training = encode(world.context.tokenizer, prompts("training", 4))
    assert calls["kd"][0]["prompts"] == calls["kd_aligned"][0]["prompts"] == training
    assert (calls["kd"][0]["responses"], calls["kd_aligned"][0]["responses"]) == (3, 6)
    assert [call["temperature"] for call in calls["kd_aligned"]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("stage", "temperature"), [(KD, 0.7), (PIPELINES["kd_then_align_high_temperature"][0], 1.25)])
def test_a_teacher_samples_and_teaches_at_the_temperature_of_the_stage(world, sampled, trained, stage, temperature):
    base = world.start("base")
    policies = {"base": base, "student": world.start("student")}
    info = world.run(stage, policies).info
    assert [call["temperature"] for call in sampled] == [temperature] == [info["temperature"]]
    (call,) = trained
    batch = collate(call["examples"])
    teacher = world.context.models.of(base)
    with torch.inference_mode():
        states = hidden_states(teacher, batch)
        assert_near(batch["signals"]["teacher"]["hidden"], states, 1e-4)
        student = call["states"] @ plain(call["model"]).lm_head.weight.T
        p = torch.log_softmax(states @ teacher.lm_head.weight.T / temperature, -1)
        expected = (p.exp() * (p - torch.log_softmax(student, -1))).sum(-1).mean()
    assert call["value"] == pytest.approx(float(expected), abs=1e-5)


def test_sequence_level_distillation_is_the_likelihood_of_the_teachers_samples(tmp_path, trained):
    world = world_in(tmp_path, kd_loss="sequence")
    world.run(KD, {"base": world.start("base"), "student": world.start("student")})
    (call,) = trained
    assert collate(call["examples"])["signals"] == {}
    own = [log_probs(call["model"], row.prompt, tokens) for row in call["examples"] for tokens in row.responses]
    assert call["value"] == pytest.approx(-float(torch.cat(own).mean()), abs=1e-5)


# What stages do ---------------------------------------------------------------------------------------


def test_distillation_moves_the_student_towards_its_teacher(tmp_path):
    world = world_in(tmp_path, distil_passes=20, distil_learning_rate=1e-2, kd_temperature=1.0)
    base, student = world.start("base"), world.start("student")
    samples = world.context.keep_samples(base, "test", 4, 8, 10, "held out")

    def recall(policy):
        return scoring.pooled_mean(scoring.score(world.context.models.of(policy), samples))

    result = world.run(KD, {"base": base, "student": student})
    assert recall(result.policy) > recall(student) + 0.1
    assert recall(result.policy) < scoring.pooled_mean(samples.log_probs)
    assert len(result.info["losses"]) == 40


def test_alignment_raises_the_reward_and_drifts_from_its_anchor(tmp_path):
    many = {"preference_prompts": 96, "preference_responses": 12, "validation_responses": 8}
    world = world_in(tmp_path, align_steps=40, align_batch=16, lora_rank=8, **many)
    base = world.start("base")
    result = world.align(base, base, base, 1e-2, "long")
    policy, info = result.policy, result.info
    first, last = info["curve"]
    assert (first["step"], last["step"]) == (0, 40)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["kl"] > 0.1
    assert last["reward"] > first["reward"] + 0.1
    assert policy.digest != base.digest


@pytest.mark.parametrize("pipeline", ["base_aligned", "kd_only", "dckd", "adpa"])
def test_trained_tokens_are_those_of_the_batches_that_ran(pipeline, world, monkeypatch):
    """Of which the last of each pass over the pairs is smaller."""
    seen, real = [], context_module.train

    def spy(model, examples, loss, **options):
        def counted(model, batch, items):
            seen.append(len(batch["shift_labels"]))
            return loss(model, batch, items)

        return real(model, examples, counted, **options)

    monkeypatch.setattr(context_module, "train", spy)
    stage, base = PIPELINES[pipeline][-1], world.start("base")
    policies = {"base": base, "base_aligned": random_adapter(base, 1), "student": world.start("student")}
    result = given_rate(world).run(stage, policies)
    assert len(seen) > 1
    assert result.cost.trained == sum(seen)


def test_without_informative_pairs_the_policy_stays_as_it_is(world, trained):
    world.reward.hit = lambda text: False
    base = world.start("base")
    result = world.align(base, base, base, 1e-3, "nothing")
    policy, info = result.policy, result.info
    assert policy.digest == base.digest
    assert (info["informative_pairs"], info["target_responses"], info["curve"]) == (0, 0, [])
    assert not trained


def test_curve_points_leave_the_model_in_training_as_it_was(tmp_path):
    finals = [
        world_in(tmp_path / str(points), align_steps=6, curve_points=points)
        .align(*[Policy("tiny-base")] * 3, 1e-3, "x")
        .policy
        for points in (1, 3)
    ]
    for name, tensor in finals[0].adapters[0].items():
        assert_near(tensor, finals[1].adapters[0][name])


# Cost -------------------------------------------------------------------------------------------------


def test_a_stages_tokens_and_seconds_are_its_own_whatever_was_kept_before(tmp_path):
    fresh, kept = world_in(tmp_path / "fresh"), world_in(tmp_path / "kept")
    policies = {"base": fresh.start("base")}
    kept.prepare(BASE_ALIGN)
    kept.context.keep_samples(policies["base"], "training", 4, 6, 10, "preferences")
    first, second = (world.run(BASE_ALIGN, policies).cost for world in (fresh, kept))
    assert first.tokens == second.tokens
    drawn = kept.context.keep_samples(policies["base"], "training", 4, 6, 10, "preferences").seconds_before
    assert (first.seconds_before, second.seconds_before) == (0.0, drawn)
    assert drawn > 0
    # 24 preferences and two curve points of one response to each of the 32 validation prompts, of 10 tokens at most
    assert 24 + 64 <= first.sampled <= 10 * (24 + 64)


def test_what_every_pipeline_needs_is_made_before_a_stage_is_timed(world, sampled):
    policies = {"base": world.start("base")}
    world.prepare(BASE_ALIGN)
    assert any(len(call["prompts"]) == 32 and call["width"] == 48 for call in sampled)
    sampled.clear()
    world.run(BASE_ALIGN, policies)
    # no truth, no trial: the base and its two curve points
    assert [call["width"] for call in sampled] == [32, 32, 32]


def test_the_truth_reads_nothing_that_it_wrote_or_has_read(tmp_path, monkeypatch):
    world = given_rate(world_in(tmp_path, truth="tiny-base"))
    world.prepare(BASE_ALIGN)
    read, base = watch(monkeypatch, context_module, "score"), world.start("base")
    world.run(BASE_ALIGN, {"base": base})
    assert read.call_count == 2  # the two curve points, once each
    found = world.evaluate(base)["metrics"]
    assert read.call_count == 2
    assert found["kl_to_truth"] == [pytest.approx(0, abs=1e-9)]


# Evaluation ----------------------------------------------------------------------------------------------


def test_a_policy_is_measured_on_test_prompts_at_temperature_one(world, sampled):
    found = world.evaluate(world.start("student"))
    test = encode(world.context.tokenizer, prompts("test", 4))
    measured = [call for call in sampled if call["prompts"] == test and call["responses"] == 2]
    assert {call["width"] for call in measured} == {16, 48}
    assert {call["temperature"] for call in sampled} == {1.0}
    assert found["counts"]["responses"] == 8
    assert found["counts"]["target"] == round(8 * found["metrics"]["target_rate"][0])
    assert [shown["prompt"] for shown in found["samples"]] == prompts("test", 4)
    assert all(math.isfinite(value) for (value,) in found["metrics"].values())


def test_recall_and_precision_are_one_models_likelihood_of_the_others_test_responses(world):
    student, truth = world.start("student"), world.reward.truth
    found = world.evaluate(student)
    own = world.context.models.of(student)
    written, drawn = truth.samples("test", 4, 2), world.context.sample(own, "test", 4, 2, 10, "test")
    for name, model, samples in (
        ("overall_recall", own, written),
        ("overall_precision", world.context.models.of(truth.policy), drawn),
    ):
        asked = zip(samples.prompt_of, samples.tokens, strict=True)
        total = sum(log_prob(model, samples.prompt_ids[prompt], tokens) for prompt, tokens in asked)
        assert found["metrics"][name][0] == pytest.approx(total / samples.token_count, abs=1e-5)
    assert found["samples"][1]["response"] == world.context.texts(drawn)[2]


def test_the_healing_gap_is_what_the_students_recall_lacks(world):
    samples = world.reward.truth.samples("validation", None, 1)
    base, student = (
        scoring.pooled_mean(scoring.score(world.context.models.of(world.start(name)), samples))
        for name in ("base", "student")
    )
    found = world.checks()
    assert found["healing_gap"] == pytest.approx(base - student, abs=1e-6)
    assert found["healing_bar"] == 1.0


# Keeping ----------------------------------------------------------------------------------------------


def test_samples_that_several_stages_read_are_drawn_once_and_in_another_dtype_anew(tmp_path, sampled):
    first, other, second, _ = (
        world_in(tmp_path, dtype=dtype).reward.truth.samples("test", 4, 2)
        for dtype in ("default", "bfloat16", "float32", "bfloat16")
    )
    assert len(sampled) == 2
    assert first.tokens == second.tokens
    assert all(torch.equal(a, b) for a, b in zip(first.log_probs, second.log_probs, strict=True))
    assert not torch.equal(torch.cat(first.log_probs), torch.cat(other.log_probs))


def test_the_dtype_of_a_run_reaches_training_sampling_scoring_and_teachers(tmp_path, monkeypatch):
    asked = [(context_module, "train"), (context_module, "score"), (context_module, "sample"), (adpa, "LiveTeacher")]
    spies = [watch(monkeypatch, module, name) for module, name in asked]
    world = given_rate(world_in(tmp_path, dtype="bfloat16"))
    run_pipelines(world, ("adpa",), world.store)
    for spy in spies:
        assert {call.kwargs.get("dtype", call.args[0].dtype) for call in spy.call_args_list} == {torch.bfloat16}
    assert world.fingerprint()["dtype"] == "bfloat16"
    assert world_in(tmp_path).fingerprint() == world_in(tmp_path, dtype="float32").fingerprint() != world.fingerprint()


STAGES = [  # by algorithm, with the settings that each depends on
    ("dpo", BASE_ALIGN, DpoSettings, TrialSettings),
    ("rlhf", BASE_ALIGN, RlooSettings, TrialSettings),
    ("dpo", KD, DistilSettings),
    ("dpo", PIPELINES["dckd"][-1], DckdSettings),
    ("dpo", PIPELINES["adpa"][-1], AdpaSettings),
]
NUMBERS = {field.name: field.default for field in fields(LmSettings) if type(field.default) in (int, float)}
CHANGES = {name: usual + 1 if isinstance(usual, int) else 1.1 * usual + 0.1 for name, usual in NUMBERS.items()}
CHANGES |= {"target": "question", "kd_loss": "sequence", "adpa_form": "released"}


@pytest.mark.parametrize(("name", "value"), CHANGES.items())
def test_a_stage_depends_on_its_own_settings_only(tmp_path, name, value):
    for algorithm, stage, *kinds in STAGES:
        before, after = (LmWorld(small(**given), algorithm, 0, Store(tmp_path)) for given in ({}, {name: value}))
        depends = before.stage_settings(stage) != after.stage_settings(stage)
        assert depends == (name in {field.name for kind in kinds for field in fields(kind)}), kinds


def test_a_stage_depends_on_where_its_learning_rate_came_from_and_on_its_algorithm(tmp_path):
    _, stage = PIPELINES["kd_then_align_high_temperature"]
    before, after = world_in(tmp_path), world_in(tmp_path, kd_temperature=0.5)
    assert before.stage_settings(stage) != after.stage_settings(stage)
    rlhf = LmWorld(small(), "rlhf", 0, Store(tmp_path))
    assert before.stage_settings(KD) == rlhf.stage_settings(KD)
    assert before.stage_settings(BASE_ALIGN) != rlhf.stage_settings(BASE_ALIGN)


def test_the_fingerprint_names_seed_weights_prompts_and_device(tmp_path, monkeypatch):
    found = world_in(tmp_path).fingerprint()
    assert world_in(tmp_path, seed=1).fingerprint() != found
    assert world_in(tmp_path, base="tiny-truth").fingerprint() != found
    assert world_in(tmp_path, student="tiny-base").fingerprint() != found
    assert found["device"] == "cpu"
    monkeypatch.setattr(world_module, "digest", lambda source: "other prompts")
    assert world_in(tmp_path).fingerprint() != found


# Pipelines --------------------------------------------------------------------------------------------


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
    assert [run[:2] for run in runs] == [("kd_aligned", True), ("base_aligned", True), ("kd_aligned", False)]
    assert {rate for *_, rate in runs} == {2e-3}
    aligned = [stage for stage in stages.values() if stage["kind"] == "align"]
    assert all(len(stage["info"]["trials"]) == 2 for stage in aligned)
    assert all(stage["info"]["informative_groups"] == 1 for stage in aligned)


# Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "seed", "target", "words"),
    [("ppo", 0, "digit", "ppo"), ("dpo", 0, "smile", "smile"), ("dpo", small().trial_seed, "digit", "trials")],
)
def test_a_world_of_what_is_not_there_is_refused(algorithm, seed, target, words, tmp_path):
    with pytest.raises(BadInput, match=words):
        LmWorld(small(target=target), algorithm, seed, Store(tmp_path))
