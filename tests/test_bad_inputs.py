"""Every bad input of the table is refused by name, with the exit code that the command line promises.

The table is `bad_inputs.py`: over a hundred commands; what has no command is called here.
"""

import gzip
import json
import math
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bad_inputs import FINE, HEAVY, LIGHT, SHELL, UNREAD, of_models, prepare
from own_models import BROKEN

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import Example
from alignkd_lab.lm.preference_data import load_preferences, to_examples
from alignkd_lab.lm.sampling import sample
from alignkd_lab.lm.teachers import Full
from alignkd_lab.lm.trainer import train

TABLE = Path(__file__).with_name("bad_inputs.py")


def outcome(folder: Path, kind: str) -> dict:
    done = subprocess.run([sys.executable, str(TABLE), str(folder), kind], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def faults(rows, found: dict) -> list[str]:
    """The rows whose exit code or message is another, or where a traceback was said."""
    return [
        f"{name}: {found[name]['code']}, {found[name]['said'][-300:]}"
        for name, _, code, words in rows
        if found[name]["code"] != code
        or (code and (words not in found[name]["said"] or "Traceback" in found[name]["said"]))
    ]


def test_the_table_has_over_a_hundred_rows_each_with_a_name_of_its_own():
    names = [name for name, *_ in LIGHT + UNREAD + HEAVY + of_models(BROKEN) + FINE]
    assert len(names) == len(set(names)) > 200


def test_what_needs_no_model_is_refused_by_name_without_torch_and_at_once(tmp_path):
    found = outcome(tmp_path, "light")
    assert not faults(LIGHT, found)
    assert not [name for name in found if found[name]["torch"]]
    assert max(row["seconds"] for row in found.values()) < 3
    assert not (tmp_path / "out").exists()


def test_what_needs_no_weights_is_refused_by_name_before_they_are_read(tmp_path):
    assert not faults(UNREAD, outcome(tmp_path, "unread"))
    assert not list((tmp_path / "out").rglob("*"))


def test_what_needs_a_model_or_a_run_is_refused_by_name_and_what_is_undefined_is_null(tmp_path):
    found = outcome(tmp_path, "heavy")
    assert not faults(HEAVY + FINE, found)
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*.json")]
    held = {record["target"]: record["pipelines"]["kd_only"]["metrics"] for record in records}
    assert set(held) == {"lengthy", "never"}
    assert held["lengthy"]["second_rule_rate"] is None
    assert held["never"]["reward_accuracy"] is None


def test_a_broken_model_tokenizer_or_template_is_refused_by_name_before_any_work(tmp_path):
    assert not faults(of_models(BROKEN), outcome(tmp_path, "models"))
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["request.json", "trained"]


@pytest.mark.parametrize("name", SHELL)
def test_a_shell_sees_the_same_code_and_message_and_no_traceback(name, tmp_path):
    prepare(tmp_path)
    ((command, code, words),) = [row[1:] for row in LIGHT if row[0] == name]
    command = command.replace("FILES", str(tmp_path)).replace("OUT", str(tmp_path / "out"))
    command = [sys.executable, "-m", "alignkd_lab", *shlex.split(command)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


HIDDEN, HEAD, LABELS = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3])
TEACHER, OTHERS = Full(HIDDEN, HEAD), Full(HIDDEN[2:], HEAD)
NLL, CHOSEN = {"hidden": HIDDEN, "head": HEAD, "labels": LABELS}, torch.tensor([True, True, False, False])
SOUND = {
    losses.nll: NLL,
    losses.kd: {"hidden": HIDDEN, "head": HEAD, "teacher": TEACHER},
    losses.dpo: {**NLL, "response": torch.tensor([0, 0, 1, 1]), "reference_log_probs": torch.zeros(2), "beta": 0.1},
    losses.dckd: {**NLL, "teacher": TEACHER, "chosen": CHOSEN},
    losses.adpa: {**NLL, "teacher": OTHERS, "reference": OTHERS, "chosen": CHOSEN},
}
ARGUMENTS = [
    *(
        (losses.dpo, {"beta": beta}, "beta must be a finite number above 0")
        for beta in (-0.1, 0, math.nan, math.inf, "0.1", None)
    ),
    *((losses.dpo, {"chunk": chunk}, "chunk must be a whole number of at least 1") for chunk in (0, -1, 2.5)),
    (losses.dckd, {"alpha": -1}, "alpha must be a finite number of at least 0, not -1"),
    (losses.kd, {"mix": 1.0}, "mix must be"),
    (losses.kd, {"mix": 0}, "mix must be"),
    (losses.kd, {"temperature": 0}, "temperature must be"),
    (losses.kd, {"teacher_temperature": -1}, "teacher_temperature must be"),
    (losses.kd, {"divergence": "backward"}, "divergence 'backward' is unknown"),
    (losses.adpa, {"gamma": -1}, "gamma must be"),
    (losses.adpa, {"regulariser_weight": -0.1}, "regulariser_weight must be"),
    (losses.adpa, {"regulariser": "kl"}, "a regulariser and its weight above 0 go together"),
    (losses.adpa, {"regulariser_weight": 0.1}, "a regulariser and its weight above 0 go together"),
    (losses.adpa, {"regulariser": "hand"}, "regulariser 'hand' is unknown"),
    (losses.adpa, {"as_released": True}, "end_token: as_released leaves the end token out"),
    (losses.nll, {"labels": LABELS[1:]}, "labels: 3 rows for 4"),
    (losses.kd, {"teacher": OTHERS}, "teacher: 2 rows for the 4"),
    (losses.kd, {"teacher": Full(HIDDEN, HEAD[1:])}, "vocabulary has 4 tokens and the student's 5"),
    (losses.dpo, {"reference_log_probs": torch.zeros(3)}, "make no pairs"),
    (losses.dckd, {"chosen": CHOSEN[1:]}, "chosen: 3 rows"),
    (losses.adpa, {"reference": Full(HIDDEN[2:], torch.randn(7, 3))}, "reference: its vocabulary has 7 tokens"),
    (losses.adpa, {"teacher": TEACHER}, "teacher: 4 rows for the 2"),
    (Example, {"prompt": [], "responses": [[1]]}, "prompt: holds no token"),
    (Example, {"prompt": [1], "responses": [[1], []]}, "response 2 is empty"),
    (Example, {"prompt": [1], "responses": [[1]], "roles": ["best"]}, "roles: "),
    (Example, {"prompt": [1], "responses": [[1]], "roles": ["chosen", "rejected"]}, "for each of 1"),
]


@pytest.mark.parametrize(("function", "options", "words"), ARGUMENTS, ids=[words for *_, words in ARGUMENTS])
def test_an_argument_of_a_loss_or_an_example_that_cannot_be_is_refused_by_name(function, options, words):
    with pytest.raises(BadInput, match=words):
        function(**{**SOUND.get(function, {}), **options})


def test_what_is_sampled_trained_on_or_cached_is_looked_at_before_any_work(tmp_path):
    model, tokenizer = weights.load("tiny-student")
    bare = SimpleNamespace(chat_template=None, eos_token_id=2)
    examples = [Example([5, 6], [[7, 2]])]
    usual = {"learning_rate": 1e-3, "steps": 1, "batch": 1, "seed": 0}
    wrong = {"learning_rate": -1e-3, "steps": 0, "batch": 0.5, "micro_batch": -2, "warmup": 2, "seed": 2**32}
    refused = [
        ("temperature must be", lambda: sample(model, [[5]], 1, 4, 2, 0, temperature=0)),
        ("max_tokens must be", lambda: sample(model, [[5]], 1, 0, 2, 0)),
        ("responses_per_prompt must be", lambda: sample(model, [[5]], 0, 4, 2, 0)),
        ("prompts: one holds no token", lambda: sample(model, [[5], []], 1, 4, 2, 0)),
        ("examples: there are none", lambda: train(model, [], losses.nll, **usual)),
        *((f"{name} must be", lambda name=name: train(model, examples, losses.nll, **{**usual, name: wrong[name]}))
          for name in wrong),
        ("max_prompt_tokens must be",
         lambda: to_examples(None, tokenizer, max_prompt_tokens=0, max_response_tokens=3)),
        ("needs a chat template", lambda: to_examples(None, bare, max_prompt_tokens=9, max_response_tokens=3)),
    ]  # fmt: skip
    for words, call in refused:
        with pytest.raises(BadInput, match=words):
            call()


PAIR = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


FILES = {
    "rows.txt": (PAIR, {}, "not an object with fields"),
    "quote.csv": (b'prompt,chosen,rejected\na,"b,c\n', {}, "quote.csv cannot be read as .csv"),
    "comma.csv": (b"prompt,chosen,rejected\na,b\na,b, c,d\n", {}, "line 3 has more cells than the header"),
    "twice.csv": (b"prompt,chosen,rejected,chosen\na,b,c,d\n", {}, "its header names a column twice"),
    "deep.jsonl": (b"[" * 100_000, {}, "deep.jsonl cannot be read as .jsonl in UTF-8 (maximum recursion"),
    "rows.jsonl": (PAIR + b'{"prompt": ', {}, "rows.jsonl is wrong JSON at line 2"),
    "lines.json": (PAIR * 2, {}, "wrong JSON at line 2, column 1: Extra data; one object a line goes in .jsonl"),
    "object.json": (PAIR, {}, "holds no list of rows; one object a line goes in .jsonl"),
    "latin.jsonl": ("é".encode("latin-1"), {}, "latin.jsonl cannot be read as .jsonl in UTF-8"),
    "cut.jsonl.gz": (gzip.compress(PAIR * 99)[:-20], {}, "cut.jsonl.gz cannot be read as .gz"),
    "garbled.parquet": (b"PAR1 and no more", {}, "garbled.parquet cannot be read as .parquet"),
    "empty.jsonl": (b"", {}, "holds no rows"),
    "field.jsonl": (PAIR, {"columns": {"answer": "b"}}, "unknown field 'answer'; the fields are prompt, chosen"),
    "column.jsonl": (PAIR, {"columns": {"chosen": "good"}}, "has no 'good' to be its chosen; it has prompt, chosen"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_preference_file_that_cannot_be_used_is_refused_with_the_row_and_the_way_out(name, tmp_path):
    content, options, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load_preferences(tmp_path / name, **options)
    assert words in str(refused.value)
