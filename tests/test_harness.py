"""Benchmarks by lm-evaluation-harness, on items of our own; without it, one error that names the extra."""

import importlib.util
import json
import sys

import pytest
import torch
from test_training import run as train
from tiny_lm import folder_of, lines, log_prob

import alignkd_lab
from alignkd_lab import cli
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights

needs_harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="lm-evaluation-harness (the extra eval) is not installed"
)
QUESTIONS = [
    {"question": f"What is {at}?", "choices": ["a boat", "no", "seven of nine"], "gold": at % 3} for at in range(7)
]


def items(**_):
    import datasets

    return {"test": datasets.Dataset.from_list(QUESTIONS), "train": datasets.Dataset.from_list(QUESTIONS[-1:])}


CHOICE = {"task": "own_choice", "custom_dataset": items, "output_type": "multiple_choice", "test_split": "test",
          "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}", "num_fewshot": 0,
          "metadata": {"version": 3},
          "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True}
                          for name in ("acc", "acc_norm")]}  # fmt: skip
WRITTEN = {"task": "own_words", "custom_dataset": items, "output_type": "generate_until", "test_split": "test",
           "doc_to_text": "{{question}}", "doc_to_target": "{{choices[gold]}}", "num_fewshot": 0,
           "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
           "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]}  # fmt: skip


def chosen(model, tokenizer, question):
    """The index of the likeliest choice, and of the likeliest a letter, by plain logits."""
    prompt, found = tokenizer(question["question"], add_special_tokens=False).input_ids, []
    for choice in question["choices"]:
        answer = tokenizer(f" {choice}", add_special_tokens=False).input_ids
        found.append(log_prob(model, prompt, answer))
    each = [value / len(choice) for value, choice in zip(found, question["choices"], strict=True)]
    return found.index(max(found)), each.index(max(each))


@needs_harness
@pytest.mark.parametrize("kind", ["folder", "adapter"])
def test_accuracy_is_that_of_plain_log_probabilities(kind, tmp_path):
    source = folder_of("tiny-student", tmp_path / "student")
    if kind == "adapter":
        rows = [{"prompt": f"Say {at}", "chosen": "a boat", "rejected": "no"} for at in range(8)]
        train("sft", lines(tmp_path / "pairs.jsonl", rows), tmp_path / "adapter", source)
        source = tmp_path / "adapter"
    record = alignkd_lab.evaluate(str(source), tasks=[CHOICE], device="cpu", out=tmp_path / "out")
    model, tokenizer = weights.load(str(source))
    right = [[at == row["gold"] for at in chosen(model, tokenizer, row)] for row in QUESTIONS]
    means = torch.tensor(right).double().mean(0)
    held = record["tasks"]["own_choice"]
    assert [held["metrics"][name]["estimate"] for name in ("acc", "acc_norm")] == pytest.approx(means.tolist())
    error = torch.tensor(right).double().std(0) / len(QUESTIONS) ** 0.5
    assert [held["metrics"][name]["stderr"] for name in ("acc", "acc_norm")] == pytest.approx(error.tolist())
    assert {name: held[name] for name in ("items", "few_shot", "version")} == {"items": 7, "few_shot": 0, "version": 3}
    assert not any(record["metrics"].values())
    assert record["provenance"]["lm_eval"] == importlib.metadata.version("lm_eval")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == record


@needs_harness
def test_the_chat_template_and_the_limit_are_those_that_were_asked_for(tmp_path, monkeypatch):
    """What is generated is what the model itself writes to the rendered prompt."""
    seen, generate = [], type(weights.load("tiny-student")[0]).generate

    def watched(self, *args, **options):
        found = generate(self, *args, **options)
        seen.extend((options["input_ids"][at], found[at]) for at in range(len(found)))
        return found

    monkeypatch.setattr(type(weights.load("tiny-student")[0]), "generate", watched)
    options = {"tasks": [WRITTEN], "device": "cpu", "limit": 2}
    found = alignkd_lab.evaluate("tiny-student", chat_template=True, **options)
    assert found["tasks"]["own_words"]["items"] == 2
    tokenizer, prompts = weights.load_tokenizer("tiny-student"), {tokenizer_text(ids) for ids, _ in seen}
    turns = [[{"role": "user", "content": row["question"]}] for row in QUESTIONS[:2]]
    assert prompts == {
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns
    }
    seen.clear()
    alignkd_lab.evaluate("tiny-student", **options)
    assert {tokenizer_text(ids) for ids, _ in seen} == {row["question"] for row in QUESTIONS[:2]}
    seen.clear()
    shown = {**WRITTEN, "task": "own_shots", "training_split": "train", "num_fewshot": 1}
    alignkd_lab.evaluate("tiny-student", chat_template=True, **{**options, "tasks": [shown]})
    assert {tokenizer_text(ids).count("<|im_start|>user") for ids, _ in seen} == {2}  # an example is a turn of its own


def tokenizer_text(ids):
    tokenizer = weights.load_tokenizer("tiny-student")
    return tokenizer.decode(ids).replace(tokenizer.pad_token, "")


@needs_harness
def test_an_unknown_task_is_named_before_weights_are_read(monkeypatch, capsys):
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    assert cli.main(["evaluate", "tiny-student", "--tasks", "arc_easy,nosuch_task"]) == 2
    assert "lm-evaluation-harness has no nosuch_task" in capsys.readouterr().err


def test_without_the_harness_one_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=r"tasks: lm-evaluation-harness is not installed; pip install .*\[eval\]"):
        alignkd_lab.evaluate("tiny-student", tasks=["arc_easy"], out=tmp_path / "out")
    with pytest.raises(BadInput, match="tasks: give a list of names"):
        alignkd_lab.evaluate("tiny-student", tasks="arc_easy")
    assert not (tmp_path / "out").exists()
