"""`alignkd sample`: what a model answers, turn by turn, in the formats that judges read."""

import json

import pytest
from tiny_lm import folder_of, lines, prompt_ids

from alignkd_lab import cli
from alignkd_lab.answering import sample_to
from alignkd_lab.errors import BadInput
from alignkd_lab.lm import weights
from alignkd_lab.lm.preference_data import read_prompts
from alignkd_lab.lm.sampling import sample

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Again, shorter."]},
    {"question_id": 82, "category": "roleplay", "turns": ["Who are you?"]},
    {"question_id": 99, "category": "math", "turns": ["1 + 1?", "And 2 more?", "And now?"]},
]
QUICK = {"max_tokens": 8, "seed": 3, "device": "cpu"}


def expected(conversations, seed, temperature=1.0):
    """What the sampler gives to these messages at once."""
    model, tokenizer = weights.load("tiny-student")
    found = sample(
        model, prompt_ids(tokenizer, conversations), 1, 8, tokenizer.eos_token_id, seed=seed, temperature=temperature
    )
    return [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in found.tokens]


def user(text):
    return {"role": "user", "content": text}


def test_every_turn_is_asked_after_the_answers_so_far(tmp_path):
    """A line a question, with the fields that FastChat's judge reads, in the order of the questions."""
    path = lines(tmp_path / "question.jsonl", QUESTIONS)
    assert sample_to("tiny-student", prompts=path, out=tmp_path / "answers.jsonl", format="mt-bench", **QUICK) == 3
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [set(line) for line in found] == [{"question_id", "answer_id", "model_id", "choices", "tstamp"}] * 3
    assert [line["question_id"] for line in found] == [81, 82, 99]
    assert {line["model_id"] for line in found} == {"tiny-student"}
    assert len({line["answer_id"] for line in found}) == 3
    turns = [line["choices"][0]["turns"] for line in found]
    assert [line["choices"] for line in found] == [[{"index": 0, "turns": said}] for said in turns]
    assert [len(said) for said in turns] == [2, 1, 3]
    conversations = [[user(row["turns"][0])] for row in QUESTIONS]
    assert [said[0] for said in turns] == expected(conversations, 3)
    second = [[*conversations[at], {"role": "assistant", "content": turns[at][0]}, user(QUESTIONS[at]["turns"][1])]
              for at in (0, 2)]  # fmt: skip
    assert [turns[0][1], turns[2][1]] == expected(second, 4)
    third = [*second[1], {"role": "assistant", "content": turns[2][1]}, user(QUESTIONS[2]["turns"][2])]
    assert [turns[2][2]] == expected([third], 5)


def test_turns_that_were_answered_are_kept_where_a_later_one_cannot_be(tmp_path):
    path, (model, tokenizer) = lines(tmp_path / "question.jsonl", QUESTIONS), weights.load("tiny-student")
    first = prompt_ids(tokenizer, [[user(question["turns"][0])] for question in QUESTIONS])
    long = {**QUICK, "max_tokens": model.config.max_position_embeddings - max(map(len, first))}
    with pytest.raises(BadInput, match="it reads at most"):
        sample_to("tiny-student", prompts=path, out=tmp_path / "answers.jsonl", format="mt-bench", **long)
    kept = [json.loads(line) for line in (tmp_path / "answers.jsonl.part").read_text().splitlines()]
    assert [row["prompt"] for row in kept] == [question["turns"][0] for question in QUESTIONS]


def test_alpaca_eval_reads_a_list_of_instruction_output_and_generator(tmp_path):
    rows = [{"instruction": "Name a bird.", "output": "A wren.", "generator": "other", "dataset": "helpful_base"},
            {"instruction": "Count."}]  # fmt: skip
    path, mine = lines(tmp_path / "set.jsonl", rows), folder_of("tiny-student", tmp_path / "mine")
    sample_to(str(mine), prompts=path, out=tmp_path / "new" / "outputs.json", format="alpaca-eval", **QUICK)
    said = expected([[user("Name a bird.")], [user("Count.")]], 3)
    assert json.loads((tmp_path / "new" / "outputs.json").read_text()) == [
        {"dataset": "helpful_base", "instruction": "Name a bird.", "output": said[0], "generator": "mine"},
        {"instruction": "Count.", "output": said[1], "generator": "mine"},
    ]


def test_json_lines_hold_the_prompt_as_it_was_asked_last(tmp_path, capsys):
    path = lines(tmp_path / "prompts.jsonl", [{"prompt": "Count."}, QUESTIONS[0]])
    command = ["sample", "tiny-student", "--prompts", str(path), "--out", str(tmp_path / "out.jsonl")]
    command += ["--max-tokens", "8", "--seed", "3", "--device", "cpu", "--temperature", "0.6"]
    assert cli.main(command) == 0
    one, two = (json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines())
    assert one["prompt"] == "Count."
    first = expected([[user("Count.")], [user("Write a line.")]], 3, 0.6)
    assert (one["response"], one["ended"]) == (first[0], False)
    assert two["prompt"] == [user("Write a line."), {"role": "assistant", "content": first[1]}, user("Again, shorter.")]
    assert [two["response"]] == expected([two["prompt"]], 4, 0.6)
    again = read_prompts(tmp_path / "out.jsonl", strict=True).rows[1]
    assert again.prompt == two["prompt"]
    assert cli.main(command) == 2
    assert "out.jsonl is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "format", "words"),
    [
        ([{"prompt": "a"}], "mt-bench", "row 1 has no question_id"),
        (["a"], "mt-bench", "row 1 has no question_id"),
        ([QUESTIONS[0], QUESTIONS[0]], "mt-bench", "rows 1 and 2 share question_id 81"),
        ([{"question_id": 1, "prompt": [user("a"), {"role": "assistant", "content": "b"}, user("c")]}], "mt-bench",
         "row 1 holds messages"),
        ([{"prompt": "a"}, QUESTIONS[0]], "alpaca-eval", "row 2 has several turns"),
        ([{"prompt": "a"}], "yaml", "format must be one of jsonl, mt-bench, alpaca-eval"),
    ],
)  # fmt: skip
def test_a_prompt_that_a_format_cannot_hold_is_refused_by_its_row(rows, format, words, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "load", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(BadInput, match=words):
        sample_to("tiny-student", prompts=lines(tmp_path / "p.jsonl", rows), out=tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()
