"""`alignkd plan`: its tokens are those that runs and trainings count, and what they take grows with what is done."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import QUICK, TEACHERS, pairs  # noqa: F401, a fixture
from tiny_lm import given_rate, small, watch, world_in
from torch.autograd.graph import saved_tensors_hooks

from alignkd_lab import cli, clock, plan, plan_run
from alignkd_lab.clock import Clock, Machine
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import context, own_pairs, rollouts, trainer
from alignkd_lab.lm.shapes import adapter_size, build, config_of, parameters, smollm2
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.options import METHODS, read_options, to_argv
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import PIPELINES, YARDSTICKS, run_pipelines
from alignkd_lab.plan_run import Run
from alignkd_lab.plan_training import plan_train
from alignkd_lab.presets import PRESETS
from alignkd_lab.records import load
from alignkd_lab.training import train

KINDS = ("sampled", "trained", "scored")
RUN = {"world": "lm", "preset": "tiny", "device": "cpu"}


@pytest.fixture
def quick(monkeypatch):
    """A machine that takes a millisecond a token."""
    monkeypatch.setattr(Machine, "seconds", lambda *_: 1e-3)


@pytest.fixture
def endless(monkeypatch):
    """Every response is as long as it may be."""
    for module in (context, own_pairs, rollouts):
        monkeypatch.setattr(module, "end_ids", lambda tokenizer: [-1])


def test_tokens_of_a_run_are_those_that_its_stages_count(tmp_path, quick, endless, monkeypatch):
    world = given_rate(world_in(tmp_path, heldout_responses=4))
    world.reward.hits = lambda texts: [at % 2 == 0 for at in range(len(texts))]
    monkeypatch.setattr(plan_run, "expected_pairs", lambda rate, prompts, responses: prompts * (responses // 2))
    _, stages = run_pipelines(world, tuple(PIPELINES), world.store)
    rows = charged(PIPELINES, heldout_responses=4).clock.rows
    for name in {stage["name"] for stage in stages.values()}:
        counted = [stage["tokens"] for stage in stages.values() if stage["name"] == name]
        assert {kind: rows[name][kind] for kind in KINDS} == {kind: sum(of[kind] for of in counted) for kind in KINDS}


def test_what_a_run_leaves_on_the_disk_are_its_adapters(tmp_path, quick, endless):
    world = given_rate(world_in(tmp_path, lora_rank=16))
    run_pipelines(world, (*YARDSTICKS, "adpa_plus"), world.store)
    kept = sum(path.stat().st_size for path in tmp_path.rglob("adapter-*"))
    assert charged(["adpa_plus"], lora_rank=16).kept == pytest.approx(kept, rel=0.15)


def charged(names, **changes):
    run = Run(small(**changes), "dpo", 0.05, Clock(Machine("cpu"), "default"))
    run.walk(names)
    return run


def test_a_policy_is_sampled_once_for_all_that_read_it_and_measured_once(quick):
    sizes, alone, twice = small(), charged(["dckd"]).clock.rows, charged(["dckd", "dckd", "adpa"]).clock.rows
    assert alone["dckd"]["seconds"] == twice["dckd"]["seconds"]
    assert alone["dckd"]["seconds"] < 1e-3 * alone["dckd"]["sampled"]  # which `base_aligned` has drawn already
    of_pipeline = sizes.test_prompts * sizes.test_responses * sizes.max_tokens
    assert twice["evaluation"]["sampled"] - alone["evaluation"]["sampled"] == of_pipeline


def test_a_larger_preset_takes_more_and_each_of_its_stages_does_something():
    made = [plan.plan_run({**RUN, "preset": name, "seeds": (0,)}, clock.rates_of("H100")) for name in PRESETS]
    for small_one, large in pairwise(made):
        assert all(small_one["parameter_tokens"][kind] < large["parameter_tokens"][kind] for kind in KINDS)
        assert small_one["seconds"] < large["seconds"]
    assert all(sum(row[kind] for kind in KINDS) > 0 for of in made for row in of["stages"] if row["stage"] != "start")


def test_trials_are_planned_where_none_were_shipped(quick):
    shipped = plan.plan_run({**RUN, "preset": "laptop", "pipelines": ["kd_then_align"]})
    own = plan.plan_run({**RUN, "preset": "laptop", "pipelines": ["kd_then_align"], "overrides": {"lora_rank": 8}})
    assert not any(row["stage"].startswith("trials") for row in shipped["stages"])
    assert [row["stage"] for row in own["stages"] if row["stage"].startswith("trials")] == [
        "trials of the base", "trials of the student"
    ]  # fmt: skip


def test_a_student_that_must_be_healed_first_is_planned_once_for_all_seeds(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_CACHE", str(tmp_path))

    def healing(student, seeds=(0,)):
        request = {**RUN, "preset": "laptop", "seeds": seeds, "overrides": {"student": student}}
        made = plan.plan_run(request, clock.rates_of("H100"))
        return made["seconds"], [row for row in made["stages"] if row["stage"] == "healing the student"]

    assert healing("healed")[1] == []  # which ships
    (one, (row,)), (three, (same,)) = healing("healed-16"), healing("healed-16", (0, 1, 2))
    assert row == same
    recorded = json.loads((data_folder() / "student" / "recipe.json").read_text())["cost"]["tokens"]
    for kind, tokens in recorded.items():  # some responses ended before the most tokens
        assert 0.7 * row[kind] < tokens <= row[kind]
    assert three < 3 * one - row["seconds"]


@pytest.mark.parametrize(
    ("method", "changes"), [*((name, {}) for name in METHODS), ("gkd", {"eval_strategy": "epoch", "max_steps": 5})]
)
def test_tokens_of_a_training_are_those_that_it_reads_and_writes(
    method, changes, pairs, tmp_path, quick, endless, monkeypatch  # noqa: F811
):  # fmt: skip
    trained = watch(monkeypatch, trainer, "token_counts")
    drawn = [watch(monkeypatch, module, "sample") for module in (own_pairs, rollouts)]
    options = {**QUICK, **TEACHERS.get(method, {}), "max_steps": -1, "student": "tiny-student", "data": pairs}
    options |= changes
    made = train_plan(method, written=24, out=tmp_path / "planned", **options)
    train(method, out=tmp_path / "out", **{name: value for name, value in options.items() if name != "method"})
    counted = {
        "trained": sum(found["tokens"] for found in trained.found),
        "sampled": sum(samples.token_count for spy in drawn for samples in spy.found),
    }
    planned = {kind: sum(row[kind] for row in made["stages"]) for kind in counted}
    assert planned == pytest.approx(counted, abs=2)
    assert not (tmp_path / "planned").exists()


def train_plan(method, written=None, **options):
    made = {**QUICK, **TEACHERS.get(method, {}), "student": "tiny-student", "method": method, "out": "out", **options}
    return plan_train(*read_options(to_argv(made)), written=written)


def test_two_trainings_of_one_process_start_once_and_the_first_ones_caches_may_be_the_larger(pairs, quick):  # noqa: F811
    options = {"data": pairs, "written": 1, **TEACHERS["adpa"]}
    both = train_plan("adpa_plus", **options)
    dckd, adpa = train_plan("dckd", **{**options, "reference": None}), train_plan("adpa", **options)
    alone = [row["seconds"] for made in (dckd, adpa) for row in made["stages"] if row["stage"] != "start"]
    assert both["seconds"] == pytest.approx(sum(alone) + both["stages"][-1]["seconds"])
    assert [row["stage"] for row in both["stages"]].count("start") == 1
    first, then = dckd["disk_bytes"], adpa["disk_bytes"]
    assert both["disk_bytes"]["left"] == first["left"] + then["left"]
    assert both["disk_bytes"]["at_most"] == max(first["at_most"], first["left"] + then["at_most"])


def test_teachers_that_are_cached_for_later_trainings_stay_on_the_disk(pairs, tmp_path, quick):  # noqa: F811
    usual, kept = (train_plan("kd", data=pairs, **more)["disk_bytes"] for more in ({}, {"cache_teachers": tmp_path}))
    assert kept["at_most"] == usual["at_most"] > usual["left"]
    checkpoint = 12 * adapter_size(config_of("tiny-student"), 16)
    assert kept["at_most"] - kept["left"] == checkpoint


def test_seeds_cost_alike_but_for_what_is_done_once(quick):
    one, three = (plan.plan_run({**RUN, "seeds": seeds}) for seeds in ((0,), (0, 1, 2)))
    rows = {row["stage"]: row["seconds"] for row in one["stages"]}
    each = sum(seconds for stage, seconds in rows.items() if stage != "start" and not stage.startswith("trials"))
    assert three["seconds"] - one["seconds"] == pytest.approx(2 * each, rel=0.05)


def test_more_is_held_by_larger_models_batches_and_full_training(pairs, quick, monkeypatch):  # noqa: F811
    # The process itself grows while tests run.
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))
    monkeypatch.setattr(clock, "psutil", SimpleNamespace(Process=lambda: process))

    def memory(**options):
        return train_plan("sft", data=pairs, **options)["memory_bytes"]

    laptop, small_one = (plan.plan_run({**RUN, "preset": name})["memory_bytes"] for name in ("laptop", "tiny"))
    assert laptop > small_one + 4 * 4 * 99e6
    assert memory(full=True) > memory(lora_rank=1)
    assert memory(micro_batch=4) > memory(micro_batch=1)


def test_a_configuration_alone_tells_the_size_of_models_and_adapters():
    assert [parameters(config_of(source)) for source in ("smollm2-135m-instruct", "healed")] == [
        134_515_008,
        99_114_048,
    ]
    assert parameters(config_of("healed-16")) < parameters(config_of("healed")) < parameters(config_of("healed-24"))
    assert 1.71e9 < parameters(config_of("HuggingFaceTB/SmolLM2-1.7B-Instruct")) < 1.72e9
    model = with_lora(build(config_of("tiny-base")), 4)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert adapter_size(config_of("tiny-base"), 4) == trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_step_keeps_for_its_backward_pass_is_about_what_the_plan_says(checkpointing):
    config = smollm2("135M", num_hidden_layers=6, vocab_size=600)
    model, kept = with_lora(build(config), 16), {}
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model.model.model(torch.ones(2, 50, dtype=torch.long))
    measured = sum(size for place, size in kept.items() if place not in weights)
    planned = Clock(Machine("cpu"), "default").kept_bytes(config, 100, checkpointing)
    assert measured / 1.3 < planned < 1.3 * measured


def test_layers_that_are_not_measured_take_as_long_as_measured_ones(monkeypatch):
    monkeypatch.setattr(Machine, "_measure", lambda self, kind, config, at_once: 10.0 + config.num_hidden_layers)
    assert [Machine("cpu").seconds("trained", smollm2("135M", num_hidden_layers=count)) for count in (1, 3, 40)] == [
        11, 13, 50
    ]  # fmt: skip


def test_a_healed_student_is_cut_out_of_its_own_base_and_needs_no_other_download(monkeypatch):
    monkeypatch.setattr(clock, "is_here", lambda source: False)
    base = "HuggingFaceTB/SmolLM2-360M-Instruct"
    made = plan.plan_run({**RUN, "preset": "laptop", "overrides": {"base": base}}, clock.rates_of("H100"))
    assert made["download_bytes"] == {base: 2 * parameters(config_of(base))}


def test_a_card_that_is_not_here_is_estimated_and_a_slower_one_takes_longer():
    seconds = {}
    for card in ("H100", "L4", "0.5"):
        made = plan.plan_run({**RUN, "preset": "gpu"}, clock.rates_of(card))
        seconds[card] = made["seconds"] - sum(row["seconds"] for row in made["stages"] if row["stage"] == "start")
        assert "recorded H100" in made["estimate"]
        assert (made["device"], made["dtype"]) == ("cuda", "bfloat16")
    assert seconds["0.5"] == pytest.approx(2 * seconds["H100"], rel=0.05)
    assert seconds["L4"] > seconds["0.5"]


def test_the_recorded_card_is_estimated_as_it_was_recorded():
    request = {**RUN, "preset": "gpu", "pipelines": ["align_then_kd"], "seeds": (0,)}
    made = plan.plan_run(request, clock.rates_of("H100"), 0.02, 25)
    seconds = {row["stage"]: row["seconds"] for row in made["stages"]}
    run = load(data_folder() / "records" / "smollm2-study.zip").select(preset="gpu", device="cuda")
    base, small = (parameters(config_of(source)) for source in ("smollm2-135m-instruct", "healed"))
    counted, took = [], []
    for stage in run.stages.drop_duplicates(["run", "seed", "stage"]).itertuples():
        sampler, learner = {"base_aligned": (base, base), "kd_aligned": (small, small)}.get(stage.stage, (base, small))
        counted.append((sampler * stage.sampled, learner * (stage.trained + stage.scored / 2)))
        took.append(stage.seconds)
    sampled, trained = 1 / np.linalg.lstsq(np.array(counted), np.array(took), rcond=None)[0]
    assert pytest.approx((sampled, trained), rel=1e-5) == (clock.SAMPLED, clock.TRAINED)
    for stage in ("base_aligned", "aligned_kd"):
        recorded = run.stages.loc[run.stages["stage"] == stage, "seconds"].median()
        assert 0.7 * recorded < seconds[stage] < 1.3 * recorded


def test_a_gpu_that_is_not_here_is_to_be_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadInput, match="--card"):
        Machine("cuda")


def test_the_table_and_the_json_say_the_same(quick, capsys, monkeypatch):
    monkeypatch.setattr("alignkd_lab.clock.busy_cores", lambda: 1.2)
    argv = ["plan", "run", "--world", "lm", "--preset", "tiny", "--pipelines", "orders", "--device", "cpu"]
    assert cli.main([*argv, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    for row in made["stages"]:
        (line,) = [line for line in said.splitlines() if line.startswith(f"{row['stage']} ")]
        assert [f"{row[kind]:,}" for kind in KINDS] == line.removeprefix(row["stage"]).split()[:3]
    assert "measured here while other programs used 1.2 cores" in said


def test_the_gaussian_world_is_estimated_from_its_record():
    two, ten = (plan.plan_run({"world": "mog", "seeds": tuple(range(count))}) for count in (2, 10))
    assert ten["stages"][0]["seconds"] == pytest.approx(5 * two["stages"][0]["seconds"])
    assert ten["estimate"]
    for changed in ({"overrides": {"dpo_steps": 9}}, {"preset": "tiny"}):
        with pytest.raises(BadInput, match="only the preset laptop was timed"):
            plan.plan_run({"world": "mog", **changed})


# Rates are those of work that was really done


def test_calibration_measures_every_kind_of_work(device, monkeypatch):
    size = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 3, "num_key_value_heads": 1}
    small_one = smollm2("135M", vocab_size=256, num_hidden_layers=2, **size)
    monkeypatch.setattr(clock, "smollm2", lambda _: small_one)
    asked, seconds = {}, clock.Machine.seconds

    def measured(self, kind, config, at_once):
        asked[kind] = at_once
        return seconds(self, kind, config, at_once)

    monkeypatch.setattr(clock.Machine, "seconds", measured)
    clock.calibrate.cache_clear()
    rates = clock.calibrate(device)
    clock.calibrate.cache_clear()
    assert asked["sampled"] == clock.AT_ONCE[device]  # fewer at once take far longer each
    assert min(rates.sampled, rates.trained, rates.scored) > 0
    assert rates.device == device
