"""The bench compares like with like, counts what it says it counts, and checks its promises by its own figures."""

import contextlib
import importlib.util
import io
import json
import types

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from alignkd_lab.bench import operations, run
from alignkd_lab.bench.bars import check_bars, render_bars
from alignkd_lab.bench.batch import PAIRS, PROMPT, make_batch, one_response_a_row
from alignkd_lab.bench.meters import peak_memory, seconds, top_operators
from alignkd_lab.bench.operations import ProductRate, step_operations
from alignkd_lab.bench.run import load_student, run_bench
from alignkd_lab.bench.steps import METHODS, checkpoint_blocks, our_loss, our_steps
from alignkd_lab.errors import BadInput, CannotContinue, UnknownName
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import collate, plain, token_counts
from alignkd_lab.lm.trainer import with_lora

LENGTH, RANK = 6, 4
VARIANTS = [("nll", "nll"), *((method, kind) for method in METHODS for kind in ("ours", "full_logits"))]
TRL = [("dpo", "trl"), ("kd", "trl")]
COLUMNS = ("method", "variant", "length", "seconds", "memory_bytes", "tokens", "repeats", "operations", "loss")


def student(train="lora", device="cpu"):
    """The tiny student, its adapter away from zero so that every part of it has a gradient."""
    model = weights.load("tiny-student", device=device)[0]
    if train == "full":
        return model
    model = with_lora(model, RANK)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return model


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


def gradients(step):
    step.model.zero_grad()
    value = step.run()
    return value, {name: weight.grad for name, weight in step.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("train", ["lora", "full"])
def test_full_logits_give_our_losses_and_our_gradients(train, tmp_path, device):
    model = student(train, device)
    found = {step[:2]: gradients(step) for step in our_steps(model, make_batch(model, LENGTH), tmp_path)}
    for method in METHODS:
        (ours, by_ours), (naive, by_naive) = found[method, "ours"], found[method, "full_logits"]
        assert ours == pytest.approx(naive, rel=2e-5, abs=1e-6)
        assert by_ours.keys() == by_naive.keys()
        largest = max(grad.abs().max() for grad in by_naive.values())
        assert largest > 1e-4
        for name, grad in by_ours.items():
            torch.testing.assert_close(grad, by_naive[name], rtol=1e-3, atol=float(1e-4 * largest))


def test_a_run_has_a_row_for_every_step_in_the_print_and_in_the_file(whole):
    record, said, written = whole
    assert written == record
    assert [(row["method"], row["variant"]) for row in record["rows"]] == VARIANTS + TRL
    for row in record["rows"]:
        assert set(COLUMNS) <= row.keys()
        assert (row["length"], row["tokens"], row["repeats"]) == (LENGTH, 2 * PAIRS * LENGTH, 1)
        assert row["seconds_least"] <= row["seconds"] <= row["seconds_most"]
        assert row["memory_bytes"] > 0
        assert row["ceiling_share"] == pytest.approx(row["operations"] / record["products_per_second"] / row["seconds"])
    assert said.count("full_logits") == len(METHODS)
    assert record["notes"] == []
    assert {"student", "train", "checkpointing", "dtype", "threads"} <= record["settings"].keys()
    assert record["provenance"]["device"] == "cpu"


def test_trl_and_full_logits_take_the_very_step_that_ours_takes(whole):
    losses = {(row["method"], row["variant"]): row["loss"] for row in whole[0]["rows"]}
    for method, variant in [*VARIANTS[1:], *TRL]:
        assert losses[method, variant] == pytest.approx(losses[method, "ours"], rel=1e-4)
    assert len({round(losses[method, "ours"], 3) for method in METHODS}) == len(METHODS)


def test_a_missed_bar_brings_the_operators_that_took_the_time(whole):
    missed = [bar for bar in whole[0]["bars"] if bar["passed"] is False]
    assert any("ceiling" in bar["bar"] for bar in missed)  # a tiny model is nothing but overhead
    for bar in missed:
        assert list(bar["profile"]) == [f"{method} {variant}" for method, variant in bar["rows"]]
        for operators in bar["profile"].values():
            shares = [entry["share"] for entry in operators]
            assert shares == sorted(shares, reverse=True)
            assert 0 < sum(shares) <= 1
    assert all("profile" not in bar for bar in whole[0]["bars"] if bar["passed"])


def test_ratios_in_print_are_those_of_the_rows(whole):
    record, said, _ = whole
    rows = {(row["method"], row["variant"]): row for row in record["rows"]}
    (line,) = [line.split() for line in said.splitlines() if line.split()[:2] == ["adpa", "full_logits"]]
    naive, ours, nll = rows["adpa", "full_logits"], rows["adpa", "ours"], rows["nll", "nll"]
    assert float(line[5]) == pytest.approx(naive["seconds"] / ours["seconds"], abs=0.006)
    assert float(line[6]) == pytest.approx(naive["memory_bytes"] / ours["memory_bytes"], abs=0.006)
    assert float(line[7]) == pytest.approx(naive["seconds"] / nll["seconds"], abs=0.006)


def test_without_trl_and_peft_their_parts_are_left_out_and_said_to_be(monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *rest):
        return None if name in ("trl", "peft") else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    record, said = quick(train="lora")
    assert [(row["method"], row["variant"]) for row in record["rows"]] == VARIANTS
    assert record["settings"]["train"] == "full"
    assert record["trl"]["version"] is None
    assert "trl is not installed" in said
    assert "peft is not installed" in said
    assert [bar["passed"] for bar in record["bars"] if "TRL" in bar["bar"]] == [None]


def test_random_weights_stand_in_for_built_in_ones_that_cannot_be_had(monkeypatch):
    def refuse(source, **_):
        raise CannotContinue("no network")

    monkeypatch.setattr(weights, "load", refuse)
    small = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    monkeypatch.setattr(run, "SHAPE", small | {"num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2})
    notes = []
    model, tokenizer, name = load_student(weights.BUILT_IN, "cpu", notes)
    assert (model.config.num_hidden_layers, tokenizer, name) == (30, None, "random")
    assert "no network" in notes[0]
    with pytest.raises(CannotContinue):
        load_student("owner/other", "cpu", [])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lengths": (1,)}, BadInput, "at least 2 tokens"),
        ({"repeats": 0}, BadInput, "repeats must be at least 1"),
        ({"train": "all"}, UnknownName, "lora, full"),
        ({"lengths": (600,)}, BadInput, "room for responses of 480 tokens"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(options, error, words, monkeypatch):
    monkeypatch.setattr(run, "Table", None)
    with pytest.raises(error, match=words):
        run_bench(quick=True, device="cpu", **options)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="finds no GPU"):
        run_bench(quick=True, device="cuda")


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


def added_product(total, left, right, **_):
    """Operations of `total.addmm_(left, right)`, from the shapes."""
    return 2 * left[0] * left[1] * right[1]


def counted(model, method, examples, checkpointing):
    """Operations by torch's own counter, of a step on unpacked rows with attention as plain matrix products."""
    plain(model).set_attn_implementation("eager")
    if checkpointing:
        checkpoint_blocks(model)
    model.train()
    inputs = collate(examples)
    inputs["attention_mask"] = torch.zeros(inputs["attention_mask"].shape)
    head = plain(model).lm_head.weight.detach().clone()
    # A sum that a product is added to in place is no product to the counter unless it is told.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product}) as counter:
        our_loss(method, head)(model, inputs, token_counts(examples))[0].backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("train", "tolerance"), [("full", 0.01), ("lora", 0.06)])
@pytest.mark.parametrize(("method", "checkpointing"), [("nll", False), ("nll", True), ("kd", False), ("adpa", False)])
def test_operations_are_those_that_torch_counts(train, tolerance, method, checkpointing):
    model = student(train)
    examples = one_response_a_row(make_batch(model, LENGTH).examples(method))
    config = plain(model).config
    found = step_operations(config, examples, method, RANK if train == "lora" else None, checkpointing)
    # Torch counts pairs of positions that the causal mask hides.
    hidden = len(examples) * (PROMPT + LENGTH - 1) * (PROMPT + LENGTH - 2) // 2
    passes = 4 if checkpointing else 3
    expected = found.counted + passes * 4 * hidden * config.hidden_size * config.num_hidden_layers
    assert counted(model, method, examples, checkpointing) == pytest.approx(expected, rel=tolerance)


def test_a_packed_prompt_is_counted_once():
    model = student("full")
    pairs = make_batch(model, LENGTH).pairs
    packed, apart = (step_operations(model.config, rows, "nll").needed for rows in (pairs, one_response_a_row(pairs)))
    prompt_alone = [types.SimpleNamespace(prompt=pair.prompt, responses=[], signals={}) for pair in pairs]
    assert apart - packed == step_operations(model.config, prompt_alone, "nll").needed


def test_a_product_is_two_operations_to_a_multiply_add(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(operations.time, "perf_counter", lambda: next(clock))
    rate = ProductRate("cpu", torch.float32, quick=True)
    rate.measure()
    assert rate.median == 2 * 256 * 576 * 1536  # its largest product, by a clock that ticks once a product


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


def test_the_memory_of_a_step_repeats(tmp_path, device):
    model = student(device=device)
    step = our_steps(model, make_batch(model, LENGTH), tmp_path)[0]
    step.run()
    first = peak_memory(step.run, device)
    assert peak_memory(step.run, device) == pytest.approx(first, rel=0.02)


def test_seconds_are_of_the_call_alone(device):
    clock = seconds(lambda: sum(range(200_000)), device)
    assert clock.cpu > 0
    assert 0 < seconds(lambda: None, device).wall < clock.wall


def test_the_heaviest_operator_comes_first():
    heavy, light = torch.ones(600, 600), torch.ones(10)
    found = top_operators(lambda: [heavy @ heavy, light.exp()], "cpu", count=3)
    assert found[0]["operator"] == "aten::mm"
    assert found[0]["share"] > 0.5
    assert found[0]["calls"] == 1


def row(method, variant, length, seconds, memory=100, share=0.6):
    return {"method": method, "variant": variant, "length": length, "seconds": seconds, "memory_bytes": memory,
            "ceiling_share": share}  # fmt: skip


def rows_of(length, ours=1.0, nll=1.0, naive=2.0, trl=1.5, memory=100, share=0.6):
    made = [row("nll", "nll", length, nll), row("dpo", "trl", length, trl)]
    made += [row(method, "ours", length, ours, memory, share) for method in METHODS]
    return made + [row(method, "full_logits", length, naive, 400) for method in METHODS]


def verdicts(rows, device="cpu"):
    return {(bar["bar"].split(":")[0], bar["length"], bar["limit"]): bar["passed"] for bar in check_bars(rows, device)}


def test_every_bar_is_met_by_rows_that_meet_it():
    found = verdicts([*rows_of(32), *rows_of(512)])
    assert len(found) == 9
    assert set(found.values()) == {True}


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"memory": 101}, {("DCKD", 512, 0.25), ("ADPA", 512, 0.25)}),
        ({"naive": 0.99}, {("DCKD", 512, 1.0), ("ADPA", 512, 1.0)}),
        ({"trl": 0.99}, {("DPO", 512, 1.0)}),
        ({"nll": 0.75}, {("ADPA, cached teachers", 512, 1.3)}),
        ({"share": 0.49}, {("training step", 512, 0.5)}),
    ],
)
def test_each_bar_is_missed_by_rows_that_miss_it(worse, missed):
    found = verdicts([*rows_of(32), *rows_of(512, **worse)])
    assert {key for key, passed in found.items() if not passed} == missed


def test_speed_against_trl_and_the_nll_is_promised_at_every_length():
    found = verdicts([*rows_of(32, trl=0.9, nll=0.7, memory=400, naive=0.5), *rows_of(512)])
    missed = {key for key, passed in found.items() if not passed}
    assert missed == {("DPO", 32, 1.0), ("ADPA, cached teachers", 32, 1.3)}


def test_what_was_not_measured_is_neither_met_nor_missed():
    rows = [made for made in rows_of(512) if made["variant"] != "trl"]
    found = verdicts(rows, "cuda")
    assert found["DPO", 512, 1.0] is None
    assert found["training step", 512, 0.5] is None  # promised of a CPU
    assert found["ADPA", 512, 0.25] is True


def test_a_line_a_bar_says_verdict_figure_and_limit():
    lines = render_bars(check_bars(rows_of(512, memory=200, share=0.55), "cpu")).splitlines()
    assert lines[0].split()[0] == "MISSED"
    assert "0.50 ≤ 0.25" in lines[0]
    assert lines[-1].split()[0] == "pass"
    assert "0.55 ≥ 0.5" in lines[-1]
