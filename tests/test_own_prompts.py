"""`alignkd run` on one's own prompts, with a function of one's own as the reward and as the rule."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.experiment import run_experiment
from alignkd_lab.lm import weights
from alignkd_lab.lm.functions import call_reward, load_function
from alignkd_lab.lm.preference_data import encode_prompts, read_prompts
from alignkd_lab.lm.prompts import SPLITS, describe, digest, pin_file, prompts
from alignkd_lab.lm.request import check_request
from alignkd_lab.lm.templates import encode
from alignkd_lab.presets import override, preset
from alignkd_lab.recording import read_json

OWN = """
ASKED = []

def score(prompts, responses):
    ASKED.extend(prompts)
    return [float(sum(letter.isdigit() for letter in text)) for text in responses]

def rule(text):
    return any(letter.isdigit() for letter in text)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    Path("asked.jsonl").write_text("\n".join(json.dumps({"prompt": f"Say {at}"}) for at in range(60)))


def run(**overrides):
    target = overrides.pop("target", "own:rule")
    given = {"prompts": "asked.jsonl", "reward": "own:score", **overrides}
    (path,) = run_experiment(world="lm", preset="tiny", pipelines=["gkd"], out=Path("out"), device="cpu", target=target,
                             overrides=given, yardsticks=("base_aligned",))  # fmt: skip
    return read_json(path)


def test_a_run_reads_ones_own_prompts_and_maximises_ones_own_reward():
    record = run()
    function, name = load_function("reward", "own:score")
    made = {split: prompts(split, source="asked.jsonl") for split in SPLITS[1:]}
    assert record["settings"]["reward"] == name
    assert record["settings"]["target"] == record["target"] == name.replace("score", "rule")
    assert record["settings"]["prompts"] == pin_file("asked.jsonl")
    assert record["provenance"]["prompts"]["splits"] == {split: len(rows) for split, rows in made.items()}
    assert record["provenance"]["weights"]["prompts"] == digest("asked.jsonl") != digest("shipped")
    samples = record["pipelines"]["base_aligned"]["samples"]
    assert [row["prompt"] for row in samples] == made["test"][:8]
    assert all(row["reward"] == sum(map(str.isdigit, row["response"])) for row in samples)
    assert all(row["target"] == any(map(str.isdigit, row["response"])) for row in samples)
    asked = set(function.__globals__["ASKED"]) - {"What floats?"}
    assert asked == {*made["training"][:8], *made["validation"], *made["test"][:8]}


def test_what_changes_makes_another_run_and_what_does_not_is_found_again(monkeypatch):
    few = {"preference_prompts": 4, "distil_prompts": 4, "test_prompts": 2, "truth_responses": 1}
    first = run(**few)
    assert run(**few) == first
    before = pin_file("asked.jsonl")
    Path("own.py").write_text(OWN.replace("isdigit", "isalpha"))
    changed = run(**few)
    assert changed["settings"]["reward"] != first["settings"]["reward"]
    samples = changed["pipelines"]["base_aligned"]["samples"]
    assert [row["reward"] for row in samples] == [sum(map(str.isalpha, row["response"])) for row in samples]
    Path("asked.jsonl").write_text(Path("asked.jsonl").read_text().replace("Say", "Tell"))
    assert run(**few)["pipelines"]["base_aligned"]["samples"][0]["prompt"].startswith("Tell")
    with pytest.raises(BadInput, match=r"asked\.jsonl has changed"):
        run(prompts=before)


def test_splits_depend_on_the_texts_alone_and_share_none():
    made = {split: prompts(split, source="asked.jsonl") for split in SPLITS[1:]}
    assert sorted(chain(*made.values())) == sorted(f"Say {at}" for at in range(60))
    assert {split: len(rows) for split, rows in made.items()} == {"training": 27, "validation": 8, "test": 25}
    Path("turned.txt").write_text("\n".join(f"Say {at}" for at in reversed(range(60))) + "\nSay 3\n")
    assert {split: prompts(split, source="turned.txt") for split in made} == made
    assert describe("turned.txt")["skipped"] == {"repeats an earlier prompt": 1}
    # A chat template that takes white space off makes one prompt of two.
    rows = [{"prompt": f"Say {at}{end}"} for end in ("", " ") for at in range(60)]
    Path("spaces.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert {split: prompts(split, source="spaces.jsonl") for split in made} == made
    assert describe("spaces.jsonl")["skipped"] == {"repeats an earlier prompt": 60}
    Path("many.txt").write_text("\n".join(f"Say {at}" for at in range(2200)))
    assert describe("many.txt")["splits"] == {"test": 920, "validation": 32, "training": 1248}
    assert prompts("test", 5, source="shipped") == prompts("test", 5)


def test_prompts_are_read_from_texts_messages_and_pairs():
    Path("b.json").write_text(json.dumps(["Say 1", {"prompt": [{"role": "user", "content": "Say 2"}]}]))
    Path("c.jsonl").write_text(json.dumps({"chosen": "Why is it? Since.", "rejected": "Why is it? Cats."}))
    Path("e.csv").write_text('prompt,more\n"Say, 1",x\nSay 2,y\n')
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    Path("d.jsonl").write_text(f"{json.dumps({'prompt': turns})}\n{json.dumps({'prompt': turns[:2]})}\n7\n")
    said = {name: [row.said for row in read_prompts(name).rows] for name in ("b.json", "c.jsonl", "e.csv")}
    assert said == {"b.json": ["Say 1", "Say 2"], "c.jsonl": ["Why is it?"], "e.csv": ["Say, 1", "Say 2"]}
    found = read_prompts("d.jsonl")
    assert [row.prompt for row in found.rows] == [turns]
    assert [row for row, _ in found.skipped] == [2, 3]


def test_the_request_pins_what_is_ones_own_and_max_tokens_and_the_truth_are_as_asked():
    settings = override(preset("tiny").lm, {"prompts": "asked.jsonl", "max_tokens": 77, "base": "tiny-base"})
    asked = check_request(settings)
    assert asked.prompts == pin_file("asked.jsonl")
    assert (asked.max_tokens, asked.truth) == (77, "tiny-base")
    assert check_request(asked) == asked
    assert override(preset("tiny").lm, {"base": "tiny-base", "truth": "tiny-truth"}).truth == "tiny-truth"


def test_a_prompt_has_the_tokens_of_its_chat_turn_whoever_reads_it():
    tokenizer = weights.load_tokenizer("tiny-base")
    rows = encode_prompts(read_prompts("asked.jsonl").rows, tokenizer, 99).examples
    assert [list(row.prompt) for row in rows] == encode(tokenizer, [f"Say {at}" for at in range(60)])


@pytest.mark.parametrize("value", [[1, 2.5], (True, 0), [np.float32(1), 2]])
def test_numbers_of_any_kind_are_rewards(value):
    assert call_reward("f", lambda prompts, responses: value, ["a"] * 2, ["b"] * 2) == [float(one) for one in value]


def test_the_row_at_which_a_reward_raises_is_named():
    def score(prompts, responses):
        return [1 / len(text) for text in responses]

    with pytest.raises(BadInput, match=r"f raises ZeroDivisionError .* for row 3, the response ''"):
        call_reward("f", score, ["a"] * 4, ["b", "c", "", "d"])
