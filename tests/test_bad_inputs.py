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

import pytest
import torch
from bad_inputs import BROKEN_MODELS, FINE, HEAVY, LIGHT, MODELS, SHELL, prepare
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
    names = [name for name, *_ in LIGHT + HEAVY + MODELS + FINE]
    assert len(names) == len(set(names)) > 160


def test_what_needs_no_model_is_refused_by_name_without_torch_and_at_once(tmp_path):
    found = outcome(tmp_path, "light")
    assert not faults(LIGHT, found)
    assert not [name for name in found if found[name]["torch"]]
    assert max(row["seconds"] for row in found.values()) < 3
    assert not (tmp_path / "out").exists()


def test_what_needs_a_model_or_a_run_is_refused_by_name_and_what_is_undefined_is_null(tmp_path):
    found = outcome(tmp_path, "heavy")
    assert not faults(HEAVY + FINE, found)
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*.json")]
    held = {record["target"]: record["pipelines"]["kd_only"]["metrics"] for record in records}
    assert set(held) == {"lengthy", "never"}
    assert held["lengthy"]["second_rule_rate"] is None
    assert held["never"]["reward_accuracy"] is None


def test_a_broken_model_tokenizer_or_template_is_refused_by_name_before_any_work(tmp_path):
    assert set(BROKEN) == set(BROKEN_MODELS)
    assert not faults(MODELS, outcome(tmp_path, "models"))
    assert [path.name for path in (tmp_path / "out" / "trained").iterdir()] == ["request.json"]


@pytest.mark.parametrize("name", SHELL)
def test_a_shell_sees_the_same_code_and_message_and_no_traceback(name, tmp_path):
    prepare(tmp_path)
    ((command, code, words),) = [row[1:] for row in LIGHT if row[0] == name]
    command = command.replace("FILES", str(tmp_path)).replace("OUT", str(tmp_path / "out"))
    command = [sys.executable, "-m", "alignkd_lab.cli", *shlex.split(command)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


HIDDEN, HEAD, LABELS = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3])
TEACHER, CHOSEN = Full(HIDDEN, HEAD), torch.tensor([True, True, False, False])
RESPONSE, REFERENCE, OTHERS = torch.tensor([0, 0, 1, 1]), torch.zeros(2), Full(HIDDEN[2:], HEAD)


def dpo(**options):
    return losses.dpo(HIDDEN, HEAD, LABELS, RESPONSE, REFERENCE, **{"beta": 0.1, **options})


def adpa(**options):
    return losses.adpa(HIDDEN, HEAD, LABELS, OTHERS, OTHERS, CHOSEN, **options)


ARGUMENTS = [
    *(
        (dpo, {"beta": beta}, "beta must be a finite number above 0")
        for beta in (-0.1, 0, math.nan, math.inf, "0.1", None)
    ),
    *((dpo, {"chunk": chunk}, "chunk must be a whole number of at least 1") for chunk in (0, -1, 2.5)),
    (losses.dckd, {"alpha": -1}, "alpha must be a finite number of at least 0, not -1"),
    (losses.kd, {"mix": 1.0}, "mix must be"),
    (losses.kd, {"mix": 0}, "mix must be"),
    (losses.kd, {"temperature": 0}, "temperature must be"),
    (losses.kd, {"teacher_temperature": -1}, "teacher_temperature must be"),
    (losses.kd, {"divergence": "backward"}, "divergence 'backward' is unknown"),
    (adpa, {"gamma": -1}, "gamma must be"),
    (adpa, {"gamma": math.nan}, "gamma must be"),
    (adpa, {"regulariser_weight": -0.1}, "regulariser_weight must be"),
    (adpa, {"regulariser": "hand"}, "regulariser 'hand' is unknown"),
    (adpa, {"as_released": True}, "end_token: as_released leaves the end token out"),
    (Example, {"prompt": [], "responses": [[1]]}, "prompt: holds no token"),
    (Example, {"prompt": [1], "responses": [[1], []]}, "response 2 is empty"),
    (Example, {"prompt": [1], "responses": [[1]], "roles": ["best"]}, "roles: "),
    (Example, {"prompt": [1], "responses": [[1]], "roles": ["chosen", "rejected"]}, "for each of 1"),
]


@pytest.mark.parametrize(("function", "options", "words"), ARGUMENTS, ids=[words for *_, words in ARGUMENTS])
def test_an_argument_of_a_loss_or_an_example_that_cannot_be_is_refused_by_name(function, options, words):
    given = {losses.dckd: (HIDDEN, HEAD, LABELS, TEACHER, CHOSEN), losses.kd: (HIDDEN, HEAD, TEACHER)}.get(function, ())
    with pytest.raises(BadInput, match=words):
        function(*given, **options)


def test_what_is_sampled_trained_on_or_cached_is_looked_at_before_any_work(tmp_path):
    model, tokenizer = weights.load("tiny-student")
    examples = [Example([5, 6], [[7, 2]])]
    usual = {"learning_rate": 1e-3, "steps": 1, "batch": 1, "seed": 0}
    wrong = {"learning_rate": -1e-3, "steps": 0, "batch": 0.5, "micro_batch": -2, "warmup": 2}
    refused = [
        ("temperature must be", lambda: sample(model, [[5]], 1, 4, 2, 0, temperature=0)),
        ("max_tokens must be", lambda: sample(model, [[5]], 1, 0, 2, 0)),
        ("responses_per_prompt must be", lambda: sample(model, [[5]], 0, 4, 2, 0)),
        ("prompts: one holds no token", lambda: sample(model, [[5], []], 1, 4, 2, 0)),
        ("examples: there are none", lambda: train(model, [], losses.nll, **usual)),
        *((f"{name} must be", lambda name=name: train(model, examples, losses.nll, **{**usual, name: wrong[name]}))
          for name in wrong),
    ]  # fmt: skip
    for words, call in refused:
        with pytest.raises(BadInput, match=words):
            call()
    with pytest.raises(BadInput, match="max_prompt_tokens must be"):
        to_examples(None, tokenizer, max_prompt_tokens=0, max_response_tokens=3)


PAIR = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


FILES = {
    "rows.txt": (PAIR, {}, "not an object with fields"),
    "quote.csv": (b'prompt,chosen,rejected\na,"b,c\n', {}, "quote.csv cannot be read as .csv"),
    "comma.csv": (b"prompt,chosen,rejected\na,b\na,b, c,d\n", {}, "line 3 has more cells than the header"),
    "twice.csv": (b"prompt,chosen,rejected,chosen\na,b,c,d\n", {}, "its header names a column twice"),
    "deep.jsonl": (b"[" * 100_000, {}, "deep.jsonl cannot be read as .jsonl in UTF-8 (maximum recursion"),
    "rows.jsonl": (PAIR + b'{"prompt": ', {}, "rows.jsonl is wrong JSON at line 2"),
    "object.json": (PAIR, {}, "holds no list of rows; one object a line goes in .jsonl"),
    "latin.jsonl": ("é".encode("latin-1"), {}, "latin.jsonl cannot be read as .jsonl in UTF-8"),
    "cut.jsonl.gz": (gzip.compress(PAIR * 99)[:-20], {}, "cut.jsonl.gz cannot be read as .gz"),
    "garbled.parquet": (b"PAR1 and no more", {}, "garbled.parquet cannot be read as .parquet"),
    "empty.jsonl": (b"", {}, "holds no rows"),
    "field.jsonl": (PAIR, {"columns": {"answer": "b"}}, "unknown field 'answer'; the fields are prompt, chosen"),
    "column.jsonl": (PAIR, {"columns": {"chosen": "good"}}, "has no 'good' to be its chosen; it has prompt, chosen"),
    "limit.jsonl": (PAIR, {"limit": 0}, "limit must be a whole number of at least 1, not 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_preference_file_that_cannot_be_used_is_refused_with_the_row_and_the_way_out(name, tmp_path):
    content, options, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load_preferences(tmp_path / name, **options)
    assert words in str(refused.value)
