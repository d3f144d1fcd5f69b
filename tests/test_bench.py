"""The bench compares like with like, and checks its promises by its own figures."""

import contextlib
import dataclasses
import importlib.util
import io
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from own_models import save
from tiny_lm import away_from_zero

from alignkd_lab.bench import run
from alignkd_lab.bench.bars import check_bars
from alignkd_lab.bench.meters import peak_memory
from alignkd_lab.bench.run import random_student, run_bench
from alignkd_lab.bench.sampling import sampling_rows
from alignkd_lab.bench.steps import METHODS, PAIRS, make_batch, our_steps
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.shapes import smollm2
from alignkd_lab.lm.trainer import with_lora
from alignkd_lab.paths import data_folder

LENGTH, RANK = 6, 4
LIGER = importlib.util.find_spec("liger_kernel") is not None
PLAIN = [("nll", "nll"), *((method, kind) for method in METHODS for kind in ("ours", "full_logits"))]
FUSED = [("dpo", "liger"), ("kd", "liger")] if LIGER else []
TRL = [("dpo", "trl"), ("kd", "trl")]


def student(train="lora", device="cpu"):
    """The tiny student, its adapter away from zero so that every part of it has a gradient."""
    model = weights.load("tiny-student", device=device)[0]
    if train == "full":
        return model
    return away_from_zero(with_lora(model, RANK), seed=1)


def quick(**options):
    """A record of the least bench, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        return run_bench(quick=True, lengths=(LENGTH,), repeats=1, device="cpu", **options), said.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Record, print and file of one run with everything installed."""
    out = tmp_path_factory.mktemp("bench") / "records" / "bench-cpu.json"
    return *quick(out=out), json.loads(out.read_text())


def check_one_step(steps, pairs):
    """That of each pair of steps (method, variant) both have one loss and one gradient."""
    found = {}
    for step in steps:
        step.model.zero_grad()
        value, named = step.run(), step.model.named_parameters()
        found[step[:2]] = value, {name: weight.grad for name, weight in named if weight.grad is not None}
    for one, other in pairs:
        (value, grads), (expected, naive) = found[one], found[other]
        assert value == pytest.approx(expected, rel=2e-5, abs=1e-6)
        largest = max(grad.abs().max() for grad in naive.values())
        assert largest > 1e-4
        torch.testing.assert_close(grads, naive, rtol=1e-3, atol=float(1e-4 * largest))


@pytest.mark.parametrize("train", ["lora", "full"])
def test_full_logits_give_our_losses_and_our_gradients(train, tmp_path, device):
    model = student(train, device)
    steps = our_steps(model, make_batch(model, LENGTH), tmp_path)
    check_one_step(steps, [((method, "ours"), (method, "full_logits")) for method in METHODS])


def test_a_run_has_a_row_for_every_step_in_the_print_and_in_the_file(whole):
    record, said, written = whole
    assert written == record
    assert sorted((row["method"], row["variant"]) for row in record["rows"]) == sorted(PLAIN + FUSED + TRL)
    for row in record["rows"]:
        assert (row["length"], row["tokens"], row["repeats"]) == (LENGTH, 2 * PAIRS * LENGTH, 1)
        assert row["seconds_least"] <= row["seconds"] <= row["seconds_most"]
        assert row["memory_bytes"] > 0
    assert said.count("full_logits") == len(METHODS)
    assert ["Liger" in note for note in record["notes"]] == ([] if LIGER else [True])
    assert {"student", "train", "checkpointing", "dtype", "threads"} <= record["settings"].keys()
    assert record["provenance"]["device"] == "cpu"


def test_trl_and_full_logits_take_the_very_step_that_ours_takes_on_models_of_ones_own_too(whole, tmp_path):
    for record in (whole[0], quick(student=save(tmp_path, "GPTNeoX"))[0]):
        losses = {(row["method"], row["variant"]): row["loss"] for row in record["rows"]}
        for method, variant in [*PLAIN[1:], *TRL, *FUSED[1:]]:
            assert losses[method, variant] == pytest.approx(losses[method, "ours"], rel=1e-4)
        assert len({round(losses[method, "ours"], 3) for method in METHODS}) == len(METHODS)


def test_ratios_in_print_are_those_of_the_rows(whole):
    record, said, _ = whole
    rows = {(row["method"], row["variant"]): row for row in record["rows"]}
    (line,) = [line.split() for line in said.splitlines() if line.split()[:2] == ["adpa", "full_logits"]]
    naive, ours, nll = rows["adpa", "full_logits"], rows["adpa", "ours"], rows["nll", "nll"]
    assert float(line[6]) == pytest.approx(naive["cpu_seconds"] / ours["cpu_seconds"], abs=0.006)
    assert float(line[7]) == pytest.approx(naive["memory_bytes"] / ours["memory_bytes"], abs=0.006)
    assert float(line[8]) == pytest.approx(naive["cpu_seconds"] / nll["cpu_seconds"], abs=0.006)


@pytest.mark.skipif(not LIGER, reason="liger-kernel is not installed")
def test_liger_takes_our_step_where_dpo_has_no_reference(tmp_path, device):
    model = student(device=device)
    batch = make_batch(model, LENGTH)
    pairs = [dataclasses.replace(pair, reference_log_probs=[0.0, 0.0]) for pair in batch.pairs]
    steps = our_steps(model, batch._replace(pairs=pairs), tmp_path)
    check_one_step(steps, [((method, "liger"), (method, "ours")) for method in ("dpo", "kd")])


def test_every_way_of_sampling_writes_as_many_tokens(device):
    model = weights.load("tiny-student", device=device)[0]
    rows = sampling_rows(model, 5, tokens=3, repeats=1)
    assert [row["variant"] for row in rows[:2]] == ["ours", "generate_dynamic"]
    assert {row["tokens"] for row in rows} == {8 * 4 * 3}
    assert all(row["tokens_per_second"] > 0 for row in rows)


def test_a_width_is_that_of_a_random_model_in_the_built_in_ones_proportions(monkeypatch):
    monkeypatch.setitem(run.LAYERS, "cpu", 1)
    monkeypatch.setattr(run, "smollm2", partial(smollm2, vocab_size=300))
    model, tokenizer, name = random_student(192, "cpu")
    assert model.get_output_embeddings().weight.shape == (300, 192)
    config = model.config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (512, 3, 1)
    assert (len(tokenizer) <= 300, name) == (True, "random, width 192, 1 layers")
    assert random_student(128, "cpu")[0].config.num_key_value_heads == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 100}, "multiple of 64"),
        ({"width": 128, "student": "tiny-student"}, "one of width and student"),
        ({"lengths": (600,)}, "room for responses of 480 tokens"),
        ({"device": "cuda"}, "finds no GPU"),
        ({"out": Path("/dev/null/bench.json")}, "null cannot be made a folder"),
        ({"out": Path.cwd()}, "is a folder; name a file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(options, words, monkeypatch):
    monkeypatch.setattr(run, "sampling_rows", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=words):
        run_bench(**{"quick": True, "device": "cpu", **options})


def test_half_a_batch_is_never_measured_for_a_whole_one(monkeypatch, tmp_path):
    nll, tried = losses.nll, []

    def short_of_memory(hidden, *rest, **options):
        tried.append(len(hidden))
        if tried == [2 * PAIRS * LENGTH]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return nll(hidden, *rest, **options)

    monkeypatch.setattr(losses, "nll", short_of_memory)
    model = student()
    first = our_steps(model, make_batch(model, LENGTH), tmp_path)[0]
    with pytest.raises(CannotContinue, match="nll does not fit at this length"):
        first.run()


def test_the_meter_sees_the_highest_point_above_what_was_there(device):
    kept = torch.ones(4_000_000, device=device)

    def call():
        first = torch.ones(2_000_000, device=device)
        second = torch.ones(500_000, device=device)
        del first
        third = torch.ones(1_000_000, device=device)
        kept.add_(1)
        return second, third

    assert peak_memory(call, device) == pytest.approx(10_000_000, rel=0.1)
    assert peak_memory(lambda: kept.add_(1), device) < 1_000_000


def row(method, variant, length, seconds, memory):
    return {"method": method, "variant": variant, "length": length, "seconds": seconds, "cpu_seconds": 2 * seconds,
            "memory_bytes": memory}  # fmt: skip


def rows_of(length, ours=1.0, nll=1.0, naive=2.0, trl=1.5, memory=100, trl_memory=100):
    made = [row("nll", "nll", length, nll, memory)]
    made += [row(method, "trl", length, trl, trl_memory) for method in ("dpo", "kd")]
    made += [row(method, "ours", length, ours, memory) for method in METHODS]
    return made + [row(method, "full_logits", length, naive, 400) for method in METHODS]


def verdicts(rows, device="cpu"):
    return {(bar["bar"], bar["length"]): bar["passed"] for bar in check_bars(rows, device)}


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({}, set()),
        ({"memory": 101, "trl_memory": 101}, {"DCKD: memory, of full logits'", "ADPA: memory, of full logits'"}),
        ({"naive": 0.99}, {"DCKD: time, of full logits'", "ADPA: time, of full logits'"}),
        ({"trl": 0.99}, {"DPO: time, of TRL's", "KD: time, of TRL's"}),
        ({"trl_memory": 99}, {"DPO: memory, of TRL's", "KD: memory, of TRL's"}),
        ({"nll": 0.75}, {"ADPA, cached teachers: time, of the NLL's"}),
    ],
)
def test_each_bar_is_missed_by_rows_that_miss_it_and_met_by_others(worse, missed):
    found = verdicts([*rows_of(32), *rows_of(512, **worse)])
    assert len(found) == 14
    assert {key for key, passed in found.items() if not passed} == {(bar, 512) for bar in missed}


def test_time_is_the_processes_own_on_a_cpu_and_the_clocks_on_a_gpu():
    rows = rows_of(512)
    rows[0]["seconds"], rows[0]["cpu_seconds"] = 0.5, 2.0  # of the NLL
    name = "ADPA, cached teachers: time, of the NLL's"
    assert (verdicts(rows)[name, 512], verdicts(rows, "cuda")[name, 512]) == (True, False)


def test_what_was_not_measured_is_neither_met_nor_missed():
    found = verdicts([made for made in rows_of(512) if made["variant"] != "trl"])
    assert found["DPO: time, of TRL's", 512] is None
    assert found["ADPA: memory, of full logits'", 512] is True


def test_the_record_that_ships_has_both_lengths_and_every_row():
    record = json.loads((data_folder() / "records" / "bench-cpu.json").read_text())
    assert {row["length"] for row in record["rows"]} == {128, 512}
    liger = {("dpo", "liger"), ("kd", "liger")}
    assert {(row["method"], row["variant"]) for row in record["rows"]} == {*PLAIN, *TRL} | liger
    assert check_bars(record["rows"], "cpu") == record["bars"]
