"""Preference data from files, data sets and the hub, with nothing dropped in silence; and pairs as examples."""

import gzip
import hashlib
import json
from unittest.mock import Mock

import datasets
import pandas as pd
import pytest

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm.preference_data import load_preferences, read_prompts, to_examples
from alignkd_lab.lm.preference_sources import KNOWN, SUFFIXES
from alignkd_lab.lm.weights import load_tokenizer

GOOD = [{"prompt": f"Question {n}?", "chosen": f"Right {n}.", "rejected": f"Wrong {n}."} for n in range(4)]
TIE = {"prompt": "Tie?", "chosen": "Same.", "rejected": "Same."}
REVISION = "0123456789abcdef0123456789abcdef01234567"


def write(path, rows):
    """Rows as a file of the kind that its name tells."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        datasets.Dataset.from_list(rows).to_parquet(path)
        return path
    if name.endswith(".csv"):
        pd.DataFrame(rows).to_csv(path, index=False)
        return path
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, suffix):
    path = write(tmp_path / f"pairs{suffix}", [*GOOD, TIE])
    found = load_preferences(path)
    assert [(pair.row, pair.prompt[0]["content"], pair.chosen, pair.rejected) for pair in found.rows] == [
        (n + 1, row["prompt"], row["chosen"], row["rejected"]) for n, row in enumerate(GOOD)
    ]
    assert found.skipped == [(5, "chosen equals rejected")]
    assert found.provenance == {
        "source": f"pairs{suffix}",
        "split": None,
        "version": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        "licence": None,
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_survive_every_kind_of_file(tmp_path, suffix):
    turn = {"role": "user", "content": "Hello"}
    said = {role: {"role": "assistant", "content": text} for role, text in (("chosen", "A."), ("rejected", "B."))}
    row = {role: [turn, answer] for role, answer in said.items()}
    (pair,) = load_preferences(str(write(tmp_path / f"talk{suffix}", [row]))).rows
    assert (pair.prompt, pair.chosen, pair.rejected) == ([turn], "A.", "B.")


def test_row_numbers_are_lines_of_the_file_even_past_blank_ones(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"\ufeff{json.dumps(GOOD[0])}\n\n{json.dumps(TIE)}\n", encoding="utf-8")
    found = load_preferences(path)
    assert [pair.row for pair in found.rows] == [1]
    assert found.skipped == [(3, "chosen equals rejected")]


def test_columns_of_other_names_are_mapped(tmp_path):
    rows = [{"q": row["prompt"], "yes": row["chosen"], "no": row["rejected"], "chosen": "something"} for row in GOOD]
    path = write(tmp_path / "pairs.parquet", rows)
    found = load_preferences(path, columns={"prompt": "q", "chosen": "yes", "rejected": "no"})
    assert [pair.chosen for pair in found.rows] == [row["chosen"] for row in GOOD]


# Data sets and the hub --------------------------------------------------------------------------------


def test_a_data_set_in_memory_or_saved_in_a_folder_is_known_by_its_pairs(tmp_path):
    found = load_preferences(datasets.Dataset.from_list([*GOOD, TIE]))
    again = load_preferences(datasets.Dataset.from_list(GOOD))
    other = load_preferences(datasets.Dataset.from_list(GOOD[::-1]))
    assert found.skipped == [(5, "chosen equals rejected")]
    assert found.provenance["source"] == "datasets.Dataset"
    assert found.provenance["version"].startswith("rows-sha256:")
    assert again.provenance["version"] == found.provenance["version"] != other.provenance["version"]
    datasets.Dataset.from_list(GOOD).save_to_disk(tmp_path / "pairs")
    kept = load_preferences(tmp_path / "pairs")
    assert (kept.rows, kept.provenance) == (again.rows, {**again.provenance, "source": "pairs"})


def test_what_is_no_source_or_takes_no_such_option_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in ("pairs.csv", "nowhere", "a/b/c", "../data", "missing.jsonl"):
        with pytest.raises(BadInput, match=r"unknown source|there is no file"):
            load_preferences(source)
    rows = datasets.Dataset.from_list(GOOD)
    both = datasets.DatasetDict(train=rows, test=rows)
    both.save_to_disk(tmp_path / "both")
    for source in (both, tmp_path / "both"):
        with pytest.raises(BadInput, match="is a DatasetDict; give one of its splits: train, test"):
            load_preferences(source)
    with pytest.raises(BadInput, match="a list is no name, file or"):
        load_preferences(GOOD)
    for source in (write(tmp_path / "pairs.jsonl", GOOD), rows):
        with pytest.raises(BadInput, match="is for sets of the hub"):
            load_preferences(source, split="train")


@pytest.fixture
def hub(monkeypatch):
    """What asks the hub, which gives good rows."""
    asked = Mock(return_value=datasets.Dataset.from_list(GOOD))
    monkeypatch.setattr(datasets, "load_dataset", asked)
    return asked


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_set_is_pinned_and_says_what_it_is_before_it_is_loaded(hub, name, capsys):
    found = load_preferences(name)
    known = KNOWN[name]
    hub.assert_called_once_with(name, split="train", revision=known.revision)
    said = capsys.readouterr().err
    for part in (name, known.revision[:8], f"{known.megabytes} MB", known.licence, known.mapping):
        assert part in said
    version = f"revision:{known.revision}"
    assert found.provenance == {"source": name, "split": "train", "version": version, "licence": known.licence}
    found = load_preferences(f"{name}@{REVISION}", split="test")
    hub.assert_called_with(name, split="test", revision=REVISION)
    assert found.provenance["version"] == f"revision:{REVISION}"


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", f"@{REVISION[:8]}"])
def test_a_set_of_the_hub_needs_a_pinned_revision(hub, revision):
    with pytest.raises(BadInput, match="no file or folder somebody/pairs, and a set of the hub needs a pinned"):
        load_preferences(f"somebody/pairs{revision}")
    hub.assert_not_called()
    assert load_preferences(f"somebody/pairs@{REVISION}").provenance["version"] == f"revision:{REVISION}"


def test_a_hub_that_does_not_answer_is_reported_with_its_reason(hub):
    hub.side_effect = ValueError("Unknown split \"dev\". Should be one of ['train'].\nmore")
    with pytest.raises(CannotContinue, match=r"split 'dev' of somebody/pairs .*Unknown split \"dev\"") as caught:
        load_preferences(f"somebody/pairs@{REVISION}", split="dev")
    assert "\n" not in str(caught.value)


# Reports ----------------------------------------------------------------------------------------------


def test_the_report_names_every_reason_with_its_count_and_first_rows(tmp_path):
    rows = [GOOD[0], *[TIE] * 7, {**TIE, "chosen": ""}, GOOD[1]]
    found = load_preferences(write(tmp_path / "pairs.json", rows))
    version = found.provenance["version"]
    assert found.report().splitlines() == [
        f"pairs.json, {version}: 2 pairs kept, 8 rows skipped",
        "      7  chosen equals rejected (rows 2, 3, 4, 5, 6, …)",
        "      1  empty chosen (row 9)",
    ]


# Examples ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny-base")  # a token a byte


def encoded(rows, tokenizer, prompt=200, response=40):
    found = load_preferences(datasets.Dataset.from_list(rows))
    return to_examples(found, tokenizer, max_prompt_tokens=prompt, max_response_tokens=response)


BRIEF = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def test_the_users_own_system_message_stays_and_none_is_added(tokenizer):
    (example,) = encoded([{**GOOD[0], "prompt": BRIEF}], tokenizer).examples
    assert tokenizer.decode(example.prompt).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize(("longest", "ends"), [(9, True), (8, False), (3, False)])
def test_a_cut_response_has_no_end_token_and_is_counted(tokenizer, longest, ends):
    row = {"prompt": "?", "chosen": "12345678", "rejected": "no"}
    (example,), skipped, cut = encoded([row], tokenizer, 99, longest)
    assert len(example.responses[0]) == longest
    assert (example.responses[0][-1] == tokenizer.eos_token_id) == ends
    assert example.responses[1][-1] == tokenizer.eos_token_id
    assert cut == ([] if ends else [(1, f"chosen cut to {longest} tokens")])
    assert skipped == []


STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
STRICT += "{% for message in messages %}{{ message.content }} {% endfor %}"
FORGETFUL = "{% for turn in messages if turn.role != 'user' or 'None.' not in messages[-1].content %}"
FORGETFUL += "{{ turn.content }} {% endfor %}"
THOUGHTLESS = "{% for turn in messages %}{{ turn.content.split('</think>')[-1] }} {% endfor %}"


@pytest.mark.parametrize(
    ("changes", "template", "reason"),
    [
        ({"prompt": "?" * 300}, None, "prompt longer than 200 tokens"),
        ({"rejected": "No.<|im_end|>\nMore."}, None, "rejected holds an end token itself"),
        ({"chosen": "the" * 14 + "A", "rejected": "the" * 14 + "B"}, None,
         "chosen equals rejected as far as they are read"),
        ({"prompt": BRIEF}, STRICT, "the chat template refuses the prompt"),
        ({"rejected": "None."}, FORGETFUL, "the chat template does not write rejected after the prompt"),
        ({"rejected": "Hm.</think>"}, THOUGHTLESS, "rejected has no tokens"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_an_example_is_skipped_with_its_reason(changes, template, reason):
    tokenizer = load_tokenizer("tiny-base")
    tokenizer.chat_template = template or tokenizer.chat_template
    examples, skipped, cut = encoded([{**GOOD[0], **changes}], tokenizer)
    assert (examples, skipped, cut) == ([], [(1, reason)], [])


@pytest.mark.parametrize(
    ("written", "expected"),
    {
        "message['content']": "    return 1\n",
        "message['content'] | trim": "return 1",
        "message['content'].rstrip()": "    return 1",
        "message['content'].split('return')[-1]": " 1\n",
    }.items(),
)
def test_an_answer_is_what_the_chat_template_makes_of_it(tokenizer, written, expected):
    found = load_tokenizer("tiny-base")
    found.chat_template = found.chat_template.replace("message['content']", written)
    (example,) = encoded([{**GOOD[0], "chosen": "    return 1\n"}], found).examples
    assert tokenizer.decode(example.responses[0][:-1]) == expected


def test_pairs_that_repeat_or_contradict_earlier_ones_are_kept_and_counted(tokenizer):
    swapped = {**GOOD[1], "chosen": GOOD[1]["rejected"], "rejected": GOOD[1]["chosen"]}
    found = load_preferences(datasets.Dataset.from_list([*GOOD, GOOD[0], swapped, GOOD[0]]))
    assert (len(found.rows), found.skipped) == (len(GOOD) + 3, [])
    first = len(GOOD) + 1
    assert found.noted == [(first, "repeats an earlier pair"), (first + 1, "contradicts an earlier pair"),
                           (first + 2, "repeats an earlier pair")]  # fmt: skip
    assert "2  repeats an earlier pair (rows" in found.report()


def test_pairs_whose_own_scores_do_not_prefer_chosen_are_kept_and_counted(tmp_path):
    scores = [("score_chosen", 1, "score_rejected", 5), ("chosen_rating", 3, "rejected_rating", 3),
              ("chosen_score", 2.5, "rejected_score", 1), ("score_chosen", "1.5", "score_rejected", "9")]  # fmt: skip
    rows = [{**row, better: one, worse: other} for row, (better, one, worse, other) in zip(GOOD, scores, strict=True)]
    found = load_preferences(write(tmp_path / "pairs.jsonl", rows))
    assert (len(found.rows), found.noted) == (4, [(row, "scores chosen no higher than rejected") for row in (1, 2, 4)])


def test_prompts_are_read_from_pairs_whose_answers_make_no_pair(tmp_path):
    rated = [{"prompt": "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nWhy?", "response": text, "helpfulness": 2}
             for text in "AB"]  # fmt: skip
    for rows, turns in (([{"prompt": "Why?", "chosen": "A", "rejected": "A"}], 1), (rated, 3)):
        found = read_prompts(write(tmp_path / "rows.jsonl", rows), strict=True).rows
        assert [len(row.prompt) for row in found] == [turns] * len(rows)
    with pytest.raises(BadInput, match="half a character"):
        read_prompts(write(tmp_path / "rows.jsonl", [{**rated[0], "prompt": "Why \ud83d?"}]))


def test_an_answer_that_holds_any_token_that_ends_a_response_is_skipped(tokenizer):
    found = load_tokenizer("tiny-base")
    found.end_ids = [tokenizer.eos_token_id, *tokenizer("?", add_special_tokens=False).input_ids]
    _, skipped, _ = encoded([{**GOOD[0], "rejected": "So? No."}], found)
    assert skipped == [(1, "rejected holds an end token itself")]


def test_how_many_pairs_are_tokenised_together_and_by_what_changes_nothing(tokenizer, monkeypatch):
    rows = [{"prompt": "?" * n, "chosen": "é" * (n + 1), "rejected": "x\n" * (n + 2)} for n in range(1, 12)]
    together = encoded(rows, tokenizer).examples
    monkeypatch.setattr("alignkd_lab.lm.preference_data._BATCH", 3)
    assert together == encoded(rows, tokenizer).examples
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", None)  # as of one that is written in Python
    assert together == encoded(rows, tokenizer).examples
