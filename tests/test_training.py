"""`alignkd train`: its options, what it measures, what it leaves, and that a stopped training goes on."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from peft import AutoPeftModelForCausalLM
from tiny_lm import away_from_zero, folder_of, lines, log_prob, said_of, with_more_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import alignkd_lab
from alignkd_lab import cli, nano, training
from alignkd_lab.errors import BadInput
from alignkd_lab.evaluation import evaluate
from alignkd_lab.experiment import run_experiment
from alignkd_lab.lm import own_pairs, saved, teacher_cache, weights
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.trainer import adapter_tensors, merge_adapter, with_lora
from alignkd_lab.options import METHODS
from alignkd_lab.paths import alone
from alignkd_lab.plots.measured import draw_curves
from alignkd_lab.provenance import resolve_dtype
from alignkd_lab.training import train

TEACHERS = {"kd": {"teacher": "tiny-base"}, "dckd": {"teacher": "tiny-base"}}
TEACHERS["gkd"], TEACHERS["rloo"] = TEACHERS["kd"], {"reward": "digit"}
TEACHERS["adpa"] = TEACHERS["adpa_plus"] = {"teacher": "tiny-truth", "reference": "tiny-base"}
QUICK = {"max_steps": 3, "learning_rate": 1e-2, "max_length": 48, "per_device_train_batch_size": 4, "heldout": 0.25,
         "disable_tqdm": True, "use_cpu": True, "logging_steps": 1}  # fmt: skip
TARGETS = ["q_proj", "up_proj"]
IDS = torch.tensor([[1, 40, 41, 60, 61, 2, 70]])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    words = [(f"yes {at}"[: 4 + at % 3], f"no {at}") for at in range(16)]
    rows = [{"prompt": f"Say {at % 12}", "chosen": one, "rejected": two} for at, (one, two) in enumerate(words)]
    return lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    folder = folder_of("tiny-student", tmp_path_factory.mktemp("student"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture(scope="module")
def trained(pairs, tmp_path_factory):
    """By method, a training with nothing special, or one of all weights: its folder, its record and what `Last` saw."""

    @cache
    def made(kind):
        method, _, full = kind.partition(", ")
        out, last = tmp_path_factory.mktemp(method) / "out", Last()
        options = {"full": bool(full), "cache_teachers": out.with_name("kept")}
        return out, run(method, pairs, out, callbacks=[last], **options), last

    return made


@pytest.fixture(scope="module")
def adapter(pairs, student, tmp_path_factory):
    """The folder of an adapter beside its base, its record and the logits of what was trained."""
    folder, last = tmp_path_factory.mktemp("adapter") / "out", Last()
    record = run("sft", pairs, folder, os.path.relpath(student), callbacks=[last], lora_targets=TARGETS)
    return folder, record, last.logits


def run(method, pairs, out, student="tiny-student", **options):
    return train(method, student=student, data=pairs, out=out, **{**QUICK, **TEACHERS.get(method, {}), **options})


@pytest.mark.parametrize("live", [False, True])
def test_a_teacher_that_reads_less_than_the_texts_hold_is_refused(live, pairs, tmp_path):
    short = folder_of("tiny-base", tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 16}))
    with pytest.raises(BadInput, match=r"short: texts of up to .* it reads at most 16"):
        run("kd", pairs, tmp_path / "out", teacher=str(short), live_teachers=live)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


class Last(TrainerCallback):
    """The logits of the trained model, and all that was logged."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.logits = logits(model)


class Stop(TrainerCallback):
    """Ctrl-C in a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [*METHODS, *(f"{name}, full" for name in ("dpo", "adpa", "gkd", "rloo"))])
def test_transformers_loads_what_was_trained(kind, trained):
    (out, record, last), method = trained(kind), kind.partition(",")[0]
    for loaded in (AutoModelForCausalLM.from_pretrained(out), weights.load(str(out))[0]):
        torch.testing.assert_close(logits(loaded), last.logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(last.logits, logits(weights.load("tiny-student")[0]), atol=1e-3)
    assert record["method"] == method
    told = {"loss", "eval_kl", "eval_mean_reward" if method == "rloo" else "eval_loss"}
    if not METHODS[method].on_policy:
        told.add("eval_reward_accuracy")
    assert told <= {name for log in last.logs for name in log}
    if method != "rloo":  # which three steps do not teach for sure; `test_training_on_policy` has more
        assert record["result"]["eval_loss"] < record["result"]["eval_loss_before"]
    assert json.loads((out / "record.json").read_text())["files"] == record["files"]
    assert len(pd.read_csv(out / "curves.csv")) == 4  # before the first step, and after each


def test_an_adapter_lies_beside_its_base_or_is_merged_into_it(adapter, pairs, student, tmp_path):
    folder, record, expected = adapter
    run("sft", pairs, tmp_path / "merged", student, merge=True, lora_targets=TARGETS)
    assert list(record["files"]) == ["adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(student.resolve())
    for loaded in (
        AutoPeftModelForCausalLM.from_pretrained(folder),
        alignkd_lab.load(folder)[0],
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
    ):
        torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)
    for full in (False, True):
        again = run("sft", pairs, tmp_path / f"again {full}", folder, full=full)  # an adapter is a source as any other
        assert list(again["files"]) == ["model.safetensors"]
        assert again["weights"]["student"]["checksum"].count("sha256:") == 2


def test_an_adapter_of_another_base_is_refused(adapter, tmp_path):
    path = shutil.copytree(adapter[0], tmp_path / "adapter") / "adapter_config.json"
    config = json.loads(path.read_text())
    for base, words in ((folder_of("tiny-base", tmp_path / "base"), "does not fit"), (None, "names no base")):
        path.write_text(json.dumps({**config, "base_model_name_or_path": base and str(base)}))
        with pytest.raises(BadInput, match=words):
            weights.load(str(path.parent))
    path.write_text(json.dumps({**config, "target_modules": ["q_proj"]}))  # peft would drop the rest without a word
    with pytest.raises(BadInput, match="other layers"):
        weights.load(str(path.parent))


def test_tokenizer_and_licence_are_those_of_the_base(adapter, student, tmp_path):
    before, after = (AutoTokenizer.from_pretrained(path) for path in (student, adapter[0]))
    turns = [{"role": "user", "content": "What floats?"}, {"role": "assistant", "content": "A boat."}]
    assert after.apply_chat_template(turns) == before.apply_chat_template(turns)
    assert (after.eos_token, after.pad_token) == (before.eos_token, before.pad_token)
    assert saved.licence("healed-16") == saved.licence("healed:smollm2-135m-instruct") == "apache-2.0"
    bare = folder_of("tiny-student", tmp_path / "bare")
    assert saved.licence(str(bare)) == "unknown"
    (bare / "README.md").write_bytes("---\nlicense: mit\n---\nä".encode("latin-1"))
    assert saved.licence(str(bare)) == "unknown"  # a card that cannot be read stops no finished training
    assert saved.licence(str(student)) == saved.licence(str(adapter[0])) == "mit"
    assert "license: mit" in (adapter[0] / "README.md").read_text()


def test_what_is_measured_is_what_plain_logits_give(pairs, tmp_path):
    record = run("dpo", pairs, tmp_path / "out", reference="tiny-student", beta=0.3)
    held = own_pairs.read_texts(pairs, "0.25", weights.load_tokenizer("tiny-student"), 48, None, 42, pairs=True).heldout
    policy, reference = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), weights.load("tiny-student")[0]
    own, other = (said_of(model, held).detach() for model in (policy, reference))
    rewards = torch.tensor(
        [[log_prob(policy, row.prompt, tokens) - log_prob(reference, row.prompt, tokens) for tokens in row.responses]
         for row in held]
    )  # fmt: skip
    margins, found = rewards[:, 0] - rewards[:, 1], record["result"]
    assert found["eval_kl"] == pytest.approx(float(nano.kl(own, other).mean()), rel=1e-3)
    assert found["eval_reward_margin"] == pytest.approx(float(margins.mean()), rel=1e-3)
    assert found["eval_reward_accuracy"] == pytest.approx(float((margins > 0).double().mean()))
    assert found["eval_loss"] == pytest.approx(float(-torch.nn.functional.logsigmoid(0.3 * margins).mean()), rel=1e-3)
    assert found["eval_reward_accuracy_before"] == 0.5
    assert found["eval_kl_before"] == pytest.approx(0, abs=1e-6)


def test_before_the_first_step_the_policy_is_its_reference_in_bfloat16_too(tmp_path):
    tokenizer = weights.load_tokenizer("tiny-base")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=576, intermediate_size=576, num_hidden_layers=1, num_attention_heads=9,
        num_key_value_heads=3, initializer_range=0.1, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)  # so wide that products of other shapes round otherwise
    model.save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    words = [("yes " * (1 + at % 9), "no " * (1 + at % 4)) for at in range(12)]
    rows = [{"prompt": f"Say {at}", "chosen": one, "rejected": two} for at, (one, two) in enumerate(words)]
    pairs = lines(tmp_path / "pairs.jsonl", rows)
    options = {"heldout": 0.5, "dtype": "bfloat16", "per_device_eval_batch_size": 3, "max_length": 120, "max_steps": 1}
    found = run("dpo", pairs, tmp_path / "out", str(tmp_path / "wide"), **options)["result"]
    assert found["eval_reward_accuracy_before"] == 0.5
    assert found["eval_kl_before"] == pytest.approx(0, abs=1e-6)
    assert found["eval_kl"] > 1e-4


def test_a_stopped_training_goes_on_with_all_its_curves_from_its_last_whole_checkpoint(pairs, tmp_path):
    options = {"max_steps": 6, "save_steps": 2, "eval_steps": 2, "lora_dropout": 0.1, "save_total_limit": 3}
    whole = run("adpa", pairs, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run("adpa", pairs, tmp_path / "out", callbacks=[Stop(5)], **options)
    assert not (tmp_path / "out" / "record.json").exists()
    (tmp_path / "out" / "checkpoints" / "checkpoint-4 (copy)").mkdir()  # somebody's own
    damaged = shutil.copytree(tmp_path / "out", tmp_path / "damaged") / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])  # so it goes on from the one before
    expected = pd.read_csv(tmp_path / "whole" / "curves.csv", index_col="step")
    for name in ("out", "damaged"):
        assert run("adpa", pairs, tmp_path / name, **options)["files"] == whole["files"]
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / name / "curves.csv", index_col="step"), expected)


def test_a_folder_holds_one_training(trained, pairs, tmp_path):
    out, record, _ = trained("sft")
    assert run("sft", pairs, out, callbacks=[Stop(1)]) == record  # done: no step is taken
    with pytest.raises(BadInput, match=r"another training \(training.learning_rate differ\)"):
        run("sft", pairs, out, learning_rate=1e-3)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(BadInput, match="no training of ours"):
        run("sft", pairs, tmp_path / "mine")


def test_both_parts_of_adpa_plus_are_measured_from_the_student_that_was_named_and_its_folder_may_be_moved(
    trained, pairs, tmp_path
):
    out, record, _ = trained("adpa_plus")
    first = json.loads((out / "dckd" / "record.json").read_text())["result"]
    assert record["result"]["eval_kl_before"] == pytest.approx(first["eval_kl"], rel=1e-4)
    moved = shutil.copytree(out, tmp_path / "moved")
    assert run("adpa_plus", pairs, moved)["files"] == record["files"]


@pytest.mark.parametrize(("method", "options", "words"), [
    ("kd", {"teacher": "other"}, "ids differ between the student"),
    ("adpa_plus", {"reference": "other"}, "ids differ between the student"),
    ("adpa_plus", {"out": "mine"}, "no training of ours"),
    ("sft", {"dataloader_drop_last": True, "per_device_train_batch_size": 99}, "make no batch of 99"),
    ("kd", {"metric_for_best_model": "bleu"}, "'bleu' is not measured here; use one of loss"),
])  # fmt: skip
def test_what_cannot_work_is_refused_before_weights_are_read(method, options, words, pairs, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    other = with_more_tokens("tiny-base", tmp_path / "other")
    options = {"out": "out", **{name: other if value == "other" else value for name, value in options.items()}}
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=words):
        run(method, pairs, tmp_path / options.pop("out"), **options)


def test_two_commands_do_not_write_to_one_folder_at_once(pairs, tmp_path):
    out = tmp_path / "out"
    with alone(out):
        with pytest.raises(BadInput, match="another command is writing to"):
            run("sft", pairs, out)
        with pytest.raises(BadInput, match="another command is writing to"):
            evaluate("tiny-student", pairs=pairs, reference="tiny-base", out=out)
    assert run("sft", pairs, out)["method"] == "sft"


def test_unusable_rows_of_held_out_pairs_or_prompts_are_counted_and_other_pairs_are_another_training(pairs, tmp_path):
    held = lines(tmp_path / "held.jsonl", [{"prompt": "Ask", "chosen": "yes", "rejected": end} for end in ("no", "")])
    asked = lines(tmp_path / "prompts.jsonl", [{"prompt": "Go"}, {"prompt": ""}, {"prompt": "Go"}])
    options = {"heldout": held, "prompts": asked, "reward": "digit"}
    found = run("sft", pairs, tmp_path / "out", **options)["data"]
    assert found["heldout"]["skipped"] == {"empty rejected": 1}
    assert found["reward"]["skipped"] == {"empty prompt": 1, "repeats an earlier prompt": 1}
    lines(held, [{"prompt": "Ask", "chosen": "no", "rejected": "yes"}])
    with pytest.raises(BadInput, match=r"another training \(data.heldout differ\)"):
        run("sft", pairs, tmp_path / "out", **options)


def test_rows_in_memory_that_are_no_data_set_or_an_empty_one_are_refused(tmp_path):
    for rows, words in ((pd.DataFrame([{"prompt": "a"}]), "a DataFrame is"), (Dataset.from_list([]), "no rows")):
        with pytest.raises(BadInput, match=words):
            run("sft", rows, tmp_path / "out")


def test_a_training_that_was_cut_off_while_it_saved_takes_no_step_more(trained, pairs, tmp_path, monkeypatch):
    _, whole, _ = trained("dpo")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "kl", "greater_is_better": False, "eval_steps": 1,
            "save_steps": 1, "save_total_limit": 3}  # fmt: skip
    first = run("sft", pairs, tmp_path / "first", **best)
    with monkeypatch.context() as patch:
        patch.setattr(training.saved, "save", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("dpo", pairs, tmp_path / "out")
        for name, options in (("best", best), ("silent", {"logging_strategy": "no", "heldout": 0})):
            with pytest.raises(KeyboardInterrupt):
                run("sft", pairs, tmp_path / name, **options)
    again = run("dpo", pairs, tmp_path / "out", callbacks=[Stop(4)])
    assert (again["files"], again["result"]) == (whole["files"], whole["result"])
    assert run("sft", pairs, tmp_path / "best", **best)["files"] == first["files"]
    assert run("sft", pairs, tmp_path / "silent", logging_strategy="no", heldout=0)["result"]["steps"] == 3
    draw_curves(tmp_path / "silent" / "curves.csv")  # there are none


def test_the_best_weights_are_saved_where_they_are_asked_for(pairs, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "kl", "greater_is_better": False}
    record = run("sft", pairs, tmp_path / "out", eval_steps=1, save_steps=1, **best)
    assert record["result"]["best_step"] == 1  # the KL to where it started grows
    curves = pd.read_csv(tmp_path / "out" / "curves.csv", index_col="step")
    assert record["result"]["eval_kl"] == pytest.approx(curves["eval_kl"][1], rel=1e-5)


def test_what_is_undefined_at_the_end_is_null_and_not_what_was_measured_before(pairs, tmp_path, monkeypatch):
    measure = training.Heldout.measure
    found = iter([{}, {"kl": float("nan")}])
    monkeypatch.setattr(training.Heldout, "measure", lambda *given: measure(*given) | next(found))
    result = run("sft", pairs, tmp_path, eval_steps=3)["result"]
    assert (result["eval_kl_before"], result["eval_kl"]) == (0, None)
    assert result["eval_loss"] < result["eval_loss_before"]


@pytest.mark.parametrize(("method", "micro"), [("sft", None), ("dpo", 3), ("adpa", None)])
def test_an_accumulated_batch_is_the_batch(method, micro, pairs, tmp_path):
    found = []
    for size, parts, micro_batch in ((4, 1, None), (1, 4, micro)):
        last, sizes = Last(), {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        more = {"micro_batch": micro_batch, "optim": "sgd", "learning_rate": 0.1}
        run(method, pairs, tmp_path / str(size), callbacks=[last], **sizes, **more)
        found.append(last.logits)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["kd", "dckd", "adpa"])
def test_live_teachers_teach_as_cached_ones(method, trained, pairs, tmp_path, monkeypatch):
    (_, _, cached), live = trained(method), Last()
    monkeypatch.setattr(training, "cache_teacher", lambda *rest, **more: pytest.fail("a cache was made") if rest[3] in
                        ("teacher", "reference") else teacher_cache.cache_teacher(*rest, **more))  # fmt: skip
    run(method, pairs, tmp_path / "live", callbacks=[live], live_teachers=True)
    torch.testing.assert_close(live.logits, cached.logits, rtol=1e-4, atol=1e-5)


def test_caches_are_kept_and_read_again(trained, pairs, tmp_path, monkeypatch):
    out, record, _ = trained("adpa")
    monkeypatch.setattr(teacher_cache, "_read", lambda *_: pytest.fail("a teacher was asked again"))
    monkeypatch.setattr(own_pairs, "sample", lambda *_, **__: pytest.fail("the student wrote again"))
    again = run("adpa", pairs, tmp_path / "two", cache_teachers=out.parent / "kept")
    assert again["files"] == record["files"]
    assert not (tmp_path / "two" / "kept").exists()


def test_a_caching_that_was_cut_off_goes_on(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "PART", 4)
    read, before = [], teacher_cache._read

    def some(teacher, rows, *more):
        read.append(sum(len(row.responses) for row in rows))
        if len(read) == 3:
            raise KeyboardInterrupt
        before(teacher, rows, *more)

    monkeypatch.setattr(teacher_cache, "_read", some)
    with pytest.raises(KeyboardInterrupt):
        run("kd", pairs, tmp_path / "out")
    run("kd", pairs, tmp_path / "out")
    # The chosen responses of all pairs, and both of the held-out ones, each read once beside the part that was cut off.
    data = json.loads((tmp_path / "out" / "record.json").read_text())["data"]
    assert sum(read) - read[2] == data["training"]["pairs"] + 3 * data["heldout"]["pairs"]


def test_a_writing_that_was_cut_off_goes_on(trained, pairs, tmp_path, monkeypatch):
    (_, whole, _), wrote, sample = trained("adpa"), [], own_pairs.sample
    monkeypatch.setattr(own_pairs, "BATCH", 4)

    def some(*args, only, **options):
        if len(wrote) == 2:
            raise KeyboardInterrupt
        wrote.append(only)
        return sample(*args, only=only, **options)

    monkeypatch.setattr(own_pairs, "sample", some)
    with pytest.raises(KeyboardInterrupt):
        run("adpa", pairs, tmp_path / "out")
    written = wrote[:]
    wrote.clear()
    monkeypatch.setattr(own_pairs, "sample", lambda *args, **more: wrote.append(more["only"]) or sample(*args, **more))
    assert run("adpa", pairs, tmp_path / "out")["files"] == whole["files"]
    count = sum(whole["data"][part]["pairs"] for part in ("training", "heldout"))
    assert sorted(at for only in written + wrote for at in only) == list(range(count))


def test_texts_that_are_too_long_are_counted(pairs):
    texts = own_pairs.read_texts(pairs, "0.25", weights.load_tokenizer("tiny-student"), 40, 36, 42, pairs=True)
    assert sum(texts.about["training"]["cut"].values()) == 2 * len(texts.training) > 0


def test_a_file_and_the_command_line_say_the_same_as_python(trained, pairs, tmp_path, capsys):
    _, record, _ = trained("dpo")
    config = tmp_path / "dpo.yaml"
    lines = {**QUICK, "method": "dpo", "student": "tiny-student", "data": str(pairs), "beta": 9}
    config.write_text("\n".join(f"{name}: {value}" for name, value in lines.items()).replace("0.01", "1e-2"))
    asked = ["train", "--config", str(config), "--out", str(tmp_path / "line"), "--beta", "0.1"]
    assert cli.main(asked) == 0
    assert json.loads((tmp_path / "line" / "record.json").read_text())["files"] == record["files"]
    assert "Model, record and curves" in capsys.readouterr().out
    assert (tmp_path / "line" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_device_that_nothing_was_tried_on_is_named(pairs, tmp_path, monkeypatch):
    real = transformers.TrainingArguments.device
    mps = property(lambda self: torch.device("mps") if real.fget(self) else None)
    monkeypatch.setattr(transformers.TrainingArguments, "device", mps)
    with pytest.raises(BadInput, match="device: mps is untried here; use --use-cpu"):
        run("sft", pairs, tmp_path / "out", use_cpu=False)
    with pytest.raises(BadInput, match="device: mps is untried here; use one of cpu, cuda"):
        resolve_dtype("float32", "mps:0")
    with pytest.raises(BadInput, match="device 'mps' is unknown"):
        run_experiment(world="lm", device="mps", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_built_in_model_learns_is_saved_whole_and_names_its_origin(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "BUILT_IN", "tiny-student")
    assert not saved.can_be_base("tiny-student")
    assert list(run("sft", pairs, tmp_path / "out")["files"]) == ["model.safetensors"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_a_policy_of_a_run_is_exported(tmp_path):
    model, _ = weights.load("tiny-student")
    tensors = adapter_tensors(away_from_zero(with_lora(model, 4)))
    (tmp_path / "stage").mkdir()
    Policy("tiny-student", [tensors, tensors]).save(tmp_path / "stage")
    assert cli.main(["export", str(tmp_path / "stage"), str(tmp_path / "out")]) == 0
    expected = weights.load("tiny-student")[0]
    merge_adapter(expected, tensors)
    merge_adapter(expected, tensors)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(loaded), logits(expected), rtol=0, atol=0)
    assert json.loads((tmp_path / "out" / "record.json").read_text())["policy"]["adapters"] == 2
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|im_end|>"
    assert cli.main(["export", str(tmp_path / "stage"), str(tmp_path / "out")]) == 2
    assert cli.main(["export", str(tmp_path), str(tmp_path / "other")]) == 2


def test_the_packages_names_are_imported_when_they_are_asked_for():
    code = (
        "import sys, alignkd_lab as lab; assert 'train' in dir(lab); assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(alignkd_lab, name) is not None for name in alignkd_lab.__all__)
    assert alignkd_lab.train is train
    with pytest.raises(AttributeError, match="nosuch"):
        alignkd_lab.nosuch  # noqa: B018
