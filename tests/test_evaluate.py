"""`alignkd evaluate` against computations by plain logits, on tiny models."""

import json
import math
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch
from test_lm_reward_model import saved as save_reward_model
from test_training import run as train
from tiny_lm import folder_of, lines, prompt_ids, said, with_more_tokens
from tiny_lm import log_probs as plain_log_probs

import alignkd_lab
from alignkd_lab import cli
from alignkd_lab.errors import BadInput
from alignkd_lab.evaluation import METRICS, render
from alignkd_lab.lm import evaluate as metrics
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.functions import load_reward
from alignkd_lab.lm.preference_data import load_preferences, to_examples
from alignkd_lab.lm.reward_model import RewardModel
from alignkd_lab.lm.sampling import sample
from alignkd_lab.plots.measured import draw_evaluation
from alignkd_lab.stats import t_interval, wilson_interval

ASKED = [{"prompt": "Say 1"}, {"instruction": "Count to 20"}, {"turns": ["Hm?"]},
         {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go"}]}]  # fmt: skip
CONVERSATIONS = [[{"role": "user", "content": text}] for text in ("Say 1", "Count to 20", "Hm?")] + [ASKED[3]["prompt"]]
QUICK = {"max_tokens": 9, "device": "cpu"}


@pytest.fixture
def prompts(tmp_path):
    return lines(tmp_path / "prompts.jsonl", ASKED)


@pytest.fixture
def pairs(tmp_path):
    words = [("yes", "no"), ("no", "yes")]
    rows = [{"prompt": f"Say {at % 5}", "chosen": f"{words[at % 2][0]} {at}", "rejected": words[at % 2][1]}
            for at in range(9)]  # fmt: skip
    return lines(tmp_path / "pairs.jsonl", rows)


@pytest.mark.parametrize("role", ["against", "reference"])
def test_what_a_second_model_cannot_read_is_refused_before_the_first_one_writes(role, prompts, tmp_path, monkeypatch):
    short = folder_of("tiny-base", tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 24}))
    monkeypatch.setattr("alignkd_lab.lm.models.read", lambda *given: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=r"short: texts of up to .* it reads at most 24"):
        alignkd_lab.evaluate(
            "tiny-student", prompts=prompts, reward="digit", **{**QUICK, "max_tokens": 30, role: short}
        )


@cache
def plain(source):
    return weights.load(source)[0].double()


@torch.no_grad()
def log_probs(source, prompt, tokens):
    return plain_log_probs(plain(source), prompt, tokens)


def close(found, interval, rel=1e-4):
    assert [found["estimate"], found["low"], found["high"]] == pytest.approx(list(interval), rel=rel, abs=1e-6)


def test_what_is_measured_is_what_plain_logits_and_texts_give(prompts, tmp_path):
    record = alignkd_lab.evaluate(
        "tiny-student", prompts=prompts, reward="digit", reference="tiny-base", responses=3, seed=5,
        out=tmp_path / "out", **QUICK,
    )  # fmt: skip
    model, tokenizer = weights.load("tiny-student")
    ids = prompt_ids(tokenizer, CONVERSATIONS)
    drawn = sample(model, ids, 3, 9, tokenizer.eos_token_id, seed=5)
    texts = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in drawn.tokens]
    hits = np.array([any(letter.isdigit() for letter in text) for text in texts]).reshape(4, 3)
    own, other = ([log_probs(source, ids[at], tokens) for at, tokens in zip(drawn.prompt_of, drawn.tokens, strict=True)]
                  for source in ("tiny-student", "tiny-base"))  # fmt: skip
    ratios = np.array([float((a - b).sum()) for a, b in zip(own, other, strict=True)])
    count, found = sum(map(len, drawn.tokens)), record["metrics"]
    close(found["reward"], wilson_interval(float(hits.mean(1).sum()), 4))
    close(found["kl_per_response"], t_interval(ratios.reshape(4, 3).mean(1)))
    close(found["length"], t_interval(np.array([len(tokens) for tokens in drawn.tokens]).reshape(4, 3).mean(1)))
    ends = np.array([tokens[-1] == tokenizer.eos_token_id for tokens in drawn.tokens]).reshape(4, 3)
    close(found["ended"], wilson_interval(float(ends.mean(1).sum()), 4))
    assert found["kl_per_token"]["estimate"] == pytest.approx(ratios.sum() / count, rel=1e-4)
    assert found["entropy"]["estimate"] == pytest.approx(-float(torch.cat(own).mean()), rel=1e-4)
    for n in (1, 2):
        grams = [tuple(words[at : at + n]) for words in (text.lower().split() for text in texts)
                 for at in range(len(words) - n + 1)]  # fmt: skip
        assert found[f"distinct_{n}"]["estimate"] == pytest.approx(len(set(grams)) / len(grams))
    assert found["reward_accuracy"] is None
    written = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    assert [line["response"] for line in written] == texts
    assert [line["reward"] for line in written] == hits.ravel().tolist()
    assert [line["prompt"] for line in written[::3]] == ["Say 1", "Count to 20", "Hm?", ASKED[3]["prompt"]]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == record


def test_the_kl_estimate_is_unbiased(tmp_path):
    """One token a response, so that the KL is a sum over the vocabulary."""
    path = lines(tmp_path / "one.jsonl", ASKED[:2])
    found = alignkd_lab.evaluate("tiny-student", prompts=path, reference="tiny-base", responses=3000, max_tokens=1)
    exact, error = [], []
    for ids in prompt_ids(weights.load_tokenizer("tiny-base"), CONVERSATIONS[:2]):
        own, other = (said(plain(source), ids, [0])[0].detach() for source in ("tiny-student", "tiny-base"))
        exact.append(float((own.exp() * (own - other)).sum()))
        error.append(float((own.exp() * (own - other).square()).sum() - exact[-1] ** 2) / 3000)
    spread, of_response = math.sqrt(sum(error)) / 2, found["metrics"]["kl_per_response"]["estimate"]
    assert abs(of_response - np.mean(exact)) < 3.5 * spread < 0.2 * np.mean(exact)
    assert found["metrics"]["kl_per_token"]["estimate"] == pytest.approx(of_response)


def test_reward_accuracy_is_the_share_of_pairs_that_plain_logits_rank_right_and_what_cannot_be_read_is_counted(pairs):
    unread = [{"prompt": "x" * 200, "chosen": "a", "rejected": "b"}, {"chosen": "a"}]
    pairs.write_text("\n".join([pairs.read_text(), *map(json.dumps, unread)]))
    found = alignkd_lab.evaluate("tiny-student", pairs=pairs, reference="tiny-base", max_length=64, device="cpu")
    limits = {"max_prompt_tokens": 32, "max_response_tokens": 32}
    examples = to_examples(load_preferences(pairs), weights.load_tokenizer("tiny-base"), **limits).examples
    right = []
    for row in examples:
        ratios = [log_probs("tiny-student", row.prompt, tokens) - log_probs("tiny-base", row.prompt, tokens)
                  for tokens in row.responses]  # fmt: skip
        won, lost = (float(tokens.sum()) for tokens in ratios)
        right.append(won > lost)
    assert 0 < np.mean(right) < 1
    assert found["pairs"]["count"] == len(examples) == 9
    assert found["pairs"]["skipped"] == {"missing rejected": 1, "prompt longer than 32 tokens": 1}
    pairs_of = np.unique([str(row.prompt) for row in examples], return_counts=True)[1]
    draws = 81 / float((pairs_of**2).sum())  # fewer than the five prompts, since one has more pairs than another
    assert draws < len(pairs_of) == 5
    close(found["metrics"]["reward_accuracy"], wilson_interval(float(np.mean(right)) * draws, draws))
    assert found["weights"]["reference"] == {"source": "tiny-base", "checksum": "random:tiny-base"}
    assert {name for name, value in found["metrics"].items() if value} == {"reward_accuracy"}


def test_pairs_within_rounding_are_ties():
    pairs = [Example([at], [[3], [4]]) for at in range(1, 5)]
    policy, reference = [0.0] * 8, [0, 1.0, 0, 1e-5, 1.0, 0, 0, 1.0]
    assert metrics.reward_accuracy(pairs, policy, reference).estimate == pytest.approx((1 + 0.5 + 0 + 1) / 4)


def test_the_measure_is_that_of_training(pairs, tmp_path):
    """The same pairs, held out of a training; its adapter is a source, and so is the folder of its base."""
    student = folder_of("tiny-student", tmp_path / "student")
    rows = [{"prompt": "Go", "chosen": f"one {at}", "rejected": "two"} for at in range(8)]
    data, out = lines(tmp_path / "data.jsonl", rows), tmp_path / "out"
    record = train("dpo", data, out, student, heldout=str(pairs), max_length=64)
    found = alignkd_lab.evaluate(str(out), pairs=pairs, reference=str(student), max_length=64, device="cpu")
    accuracy = found["metrics"]["reward_accuracy"]["estimate"]
    assert accuracy == pytest.approx(record["result"]["eval_reward_accuracy"])
    assert accuracy != 0.5
    assert found["weights"]["reference"]["checksum"] == record["weights"]["student"]["checksum"]


def test_a_win_rate_compares_all_responses_to_a_prompt_and_halves_ties():
    first, second = np.array([[1, 2, 2], [0, 5, 1]]), np.array([[2, 2], [1, 7]])
    scores = [
        np.mean([(a > b) + 0.5 * (a == b) for a, b in product(*rows)]) for rows in zip(first, second, strict=True)
    ]
    assert metrics.win_rate(first, second) == pytest.approx(wilson_interval(sum(scores), 2))
    assert metrics.win_rate(second, first).estimate == pytest.approx(1 - np.mean(scores))
    tied = metrics.win_rate(np.zeros((30, 2)), np.zeros((30, 1)))
    assert tied.estimate == 0.5
    assert tied.low == pytest.approx(1 - tied.high)
    assert metrics.win_rate(np.ones((5, 1)), np.zeros((5, 1))).low < 0.6  # five wins prove little


def test_a_model_wins_half_the_time_against_itself(tmp_path):
    path = lines(tmp_path / "many.jsonl", [{"prompt": f"Count {at}"} for at in range(40)])
    options = {"prompts": path, "reward": "digit", "against": "tiny-student", "reference": "tiny-student", **QUICK}
    found = alignkd_lab.evaluate("tiny-student", **options, out=tmp_path / "out")
    assert found["win_rate"]["low"] < 0.5 < found["win_rate"]["high"]
    assert found["metrics"]["kl_per_response"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert found["against"]["kl_per_response"] is None
    written = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    first, second = written[:40], written[40:]
    assert [line["row"] for line in first] == [line["row"] for line in second] == list(range(1, 41))
    assert [line["response"] for line in first] != [line["response"] for line in second]  # random numbers of their own
    won = [(a["reward"] > b["reward"]) + 0.5 * (a["reward"] == b["reward"]) for a, b in zip(first, second, strict=True)]
    assert found["win_rate"]["estimate"] == pytest.approx(np.mean(won))
    alone = alignkd_lab.evaluate("tiny-student", prompts=path, reward="digit", **QUICK)
    assert alone["metrics"]["reward"] == found["metrics"]["reward"]


def test_what_was_not_asked_is_null(prompts, tmp_path):
    record = alignkd_lab.evaluate("tiny-student", prompts=prompts, out=tmp_path / "out", max_tokens=60)
    held = json.loads((tmp_path / "out" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert held == record
    assert list(held["metrics"]) == list(METRICS)
    assert {name for name, value in held["metrics"].items() if value is None} == {
        "reward", "reward_accuracy", "kl_per_response", "kl_per_token"
    }  # fmt: skip
    assert [held[name] for name in ("against", "win_rate", "tasks", "pairs")] == [None] * 4
    one = lines(tmp_path / "one.jsonl", ASKED[:1])
    found = alignkd_lab.evaluate("tiny-student", prompts=one, reference="tiny-base", **QUICK)["metrics"]
    assert found["kl_per_response"]["low"] is None  # of one prompt
    assert metrics.as_json(metrics.Interval(math.nan, math.nan, math.nan)) is None


def test_a_reward_model_pays_as_it_scores(tmp_path):
    path, source = lines(tmp_path / "texts.jsonl", ASKED[:3]), save_reward_model(tmp_path / "model")
    options = {"reward": f"model:{source}", "against": "tiny-base", "responses": 2, "out": tmp_path / "out"}
    found = alignkd_lab.evaluate("tiny-student", prompts=path, **options, **QUICK)
    written = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    scores = RewardModel(source)([line["prompt"] for line in written], [line["response"] for line in written])
    assert [line["reward"] for line in written] == pytest.approx(scores, abs=1e-5)
    first, second = np.array(scores).reshape(2, 3, 2)
    close(found["metrics"]["reward"], t_interval(first.mean(1)))
    close(found["win_rate"], metrics.win_rate(first, second))


def test_a_reward_reads_a_prompt_of_many_turns_as_its_messages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = "[1.0 if isinstance(one, str) else len(one) for one in prompts]"
    (tmp_path / "own.py").write_text(f"def turns(prompts, responses):\n    return {count}\n")
    path = lines(tmp_path / "texts.jsonl", [*ASKED, ASKED[0]])
    record = alignkd_lab.evaluate("tiny-student", prompts=path, reward="own:turns", **QUICK)
    assert record["options"]["reward"] == load_reward("own:turns")[1]  # with the hash of its source
    found, counts = record["metrics"]["reward"], [record["prompts"][name] for name in ("count", "repeated")]
    assert counts == [len(ASKED), 1]  # a prompt that repeats an earlier one is not asked again
    turns = [len(row["prompt"]) if isinstance(row.get("prompt"), list) else 1 for row in ASKED]
    assert max(turns) > 1
    assert found["estimate"] == pytest.approx(sum(turns) / len(turns))


def test_a_reward_that_fails_late_loses_no_response(prompts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    late = "def late(prompts, responses):\n    return [1.0] if len(responses) == 1 else {}[0]\n"
    (tmp_path / "own.py").write_text(late)
    with pytest.raises(BadInput, match="KeyError"):
        alignkd_lab.evaluate("tiny-student", prompts=prompts, reward="own:late", out=tmp_path / "out", **QUICK)
    kept = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    assert [line["row"] for line in kept] == [1, 2, 3, 4]


def test_the_command_prints_a_table_and_leaves_a_record_and_a_picture(prompts, pairs, tmp_path, capsys):
    command = ["evaluate", "tiny-student", "--prompts", str(prompts), "--reward", "digit", "--against", "tiny-base",
               "--pairs", str(pairs), "--reference", "tiny-truth", "--max-tokens", "9", "--device", "cpu",
               "--out", str(tmp_path / "out")]  # fmt: skip
    assert cli.main(command) == 0
    said, record = capsys.readouterr().out, json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for words in (*METRICS.values(), "win rate against tiny-base", "reference: tiny-truth"):
        assert words in said
    assert f"{record['metrics']['kl_per_token']['estimate']:.4g}" in said
    assert (tmp_path / "out" / "evaluation.png").read_bytes()[:4] == b"\x89PNG"
    assert cli.main(command) == 2
    assert "holds an evaluation already" in capsys.readouterr().err


def test_benchmarks_stand_in_the_table_and_in_a_picture_of_their_own(tmp_path):
    metrics = {"acc": {"estimate": 0.25, "stderr": 0.125}, "bleu": {"estimate": 3.5, "stderr": None},
               "none": {"estimate": None, "stderr": None}}  # fmt: skip
    record = {"metrics": dict.fromkeys(METRICS), "against": None, "win_rate": None,
              "judge": None, "tasks": {"own": {"metrics": metrics}},
              "weights": {"model": {"source": "tiny-base", "checksum": ""}}}  # fmt: skip
    table = dict(line.split("  ", 1) for line in render(record).splitlines()[2:])
    assert {name: table[name].strip() for name in ("own, acc", "own, bleu", "own, none", "reward")} == {
        "own, acc": "0.25 ± 0.125", "own, bleu": "3.5 ± –", "own, none": "– ± –", "reward": "–"
    }  # fmt: skip
    draw_evaluation(record, tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").read_bytes()[:4] == b"\x89PNG"


def test_a_reference_with_other_tokens_is_refused_before_weights_are_read(prompts, tmp_path, monkeypatch):
    other = with_more_tokens("tiny-base", tmp_path / "other")
    tokenizer = weights.load_tokenizer(other)
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=r"1 of \d+ ids differ"):
        alignkd_lab.evaluate("tiny-student", prompts=prompts, reference=other)
    template = tokenizer.chat_template
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + template
    tokenizer.save_pretrained(other)
    with pytest.raises(BadInput, match="the chat template refuses row 4"):
        alignkd_lab.evaluate("tiny-student", prompts=prompts, against=other, reward="digit")
