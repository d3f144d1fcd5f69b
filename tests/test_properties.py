"""What holds of any input, tried on inputs that nobody chose: batches, pairs, preference sets, caches."""

import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkd_lab.lm import batch, weights
from alignkd_lab.lm.batch import ROLES, Example, collate, token_counts
from alignkd_lab.lm.preference_data import Rows, to_examples
from alignkd_lab.lm.preference_rows import Preference, Unusable, preference, standard
from alignkd_lab.lm.preferences import flip_labels, informative_pairs
from alignkd_lab.lm.teacher_cache import cache_teacher
from alignkd_lab.lm.teachers import LiveTeacher, log_norm
from alignkd_lab.store import Store, key_of

# In CI the same examples every time: a failure there is of the change that it tests.
quick = settings(max_examples=60, deadline=None, derandomize="CI" in os.environ, database=None)
few = settings(quick, max_examples=8)

tokens = st.lists(st.integers(3, 250), min_size=1, max_size=7)


@st.composite
def examples(draw, most=4):
    responses = draw(st.lists(tokens, max_size=4))
    roles = draw(st.lists(st.sampled_from(ROLES), min_size=len(responses), max_size=len(responses)))
    return Example(draw(tokens), responses, roles)


batches = st.lists(examples(), min_size=1, max_size=4)


@quick
@given(batches, st.sampled_from([0, 8, batch.TOKEN_COST]))
def test_each_response_token_is_predicted_from_its_prompt_and_its_own_past_however_rows_are_packed(given_, cost):
    with mock.patch.object(batch, "TOKEN_COST", cost):
        made = collate(given_)
    width = made["input_ids"].shape[1]
    seen, number = 0, 0
    for example in given_:
        for role, response in zip(example.roles, example.responses, strict=True):
            for past, token in enumerate(response):
                row, at = divmod(int(made["predict_at"][seen]), width)
                read = made["attention_mask"][row, 0, at].nonzero().flatten()
                read = read[made["position_ids"][row, read].argsort()]
                assert made["input_ids"][row, read].tolist() == [*example.prompt, *response[:past]]
                assert made["position_ids"][row, read].tolist() == list(range(len(example.prompt) + past))
                assert int(made["shift_labels"][seen]) == token
                assert (int(made["response"][seen]), int(made["role"][seen])) == (number, ROLES.index(role))
                seen += 1
            number += 1
    assert seen == len(made["shift_labels"]) == token_counts(given_)["tokens"]


def test_a_prompt_without_responses_keeps_its_row():
    assert len(collate([Example([1, 40], []), Example([1], [[5, 6]])])["input_ids"]) == 2


@pytest.mark.parametrize(("length", "rows"), [(28, 1), (200, 1), (260, 2)])
def test_two_responses_share_a_prompt_while_that_saves_more_than_their_attention_costs(length, rows):
    example = Example([5] * 32, [[7] * length, [8] * length])
    assert len(collate([example])["input_ids"]) == rows


def test_tokens_are_counted_by_role():
    rows = [
        Example([1], [[5, 6], [7]], ["chosen", "rejected"]),
        Example([1, 2], [[8], [9, 9, 9]], ["chosen", "sampled"]),
        Example([1], [[4, 4]]),
    ]
    responses = {"chosen_responses": 2, "sampled_responses": 2, "pairs": 1}
    assert token_counts(rows) == {"chosen": 3, "rejected": 1, "sampled": 5, "tokens": 9, **responses}


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0])), max_size=24), st.integers(0, 2**32 - 1))
def test_pairs_compare_best_and_worst_of_one_prompt_and_use_each_response_once(drawn, seed):
    prompt_of, rewards = [prompt for prompt, _ in drawn], [reward for _, reward in drawn]
    pairs = informative_pairs(prompt_of, rewards, seed)
    used = [index for pair in pairs for index in (pair.chosen, pair.rejected)]
    assert len(used) == len(set(used))
    for pair in pairs:
        assert prompt_of[pair.chosen] == prompt_of[pair.rejected] == pair.prompt
        assert rewards[pair.chosen] > rewards[pair.rejected]
    for prompt in set(prompt_of):
        of_prompt = [reward for where, reward in drawn if where == prompt]
        of_prompt.sort()
        apart = [best > worst for best, worst in zip(of_prompt[::-1], of_prompt, strict=True)]
        assert sum(pair.prompt == prompt for pair in pairs) == sum(apart[: len(apart) // 2])
    assert flip_labels(pairs, 0.0, seed) == pairs
    flipped = flip_labels(pairs, 1.0, seed)
    assert [(pair.rejected, pair.chosen) for pair in flipped] == [(pair.chosen, pair.rejected) for pair in pairs]


texts = st.one_of(st.text(max_size=6), st.sampled_from(["", " ", "a b", "user", "assistant", "tool"]))
roles = st.sampled_from(["system", "user", "assistant", "tool"])
turns = st.lists(st.fixed_dictionaries({"role": roles, "content": texts},
                                       optional={"tool_calls": st.lists(texts)}), max_size=3)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(texts, part, max_size=3),
    max_leaves=4,
)
field = texts | turns | anything
rows = st.fixed_dictionaries({}, optional=dict.fromkeys(("prompt", "chosen", "rejected", "response", "tools"), field))


@settings(quick, max_examples=150)
@given(st.lists(rows | anything, max_size=3))
def test_any_row_of_a_preference_set_is_a_pair_or_is_unusable(given_):
    numbers = []
    for number, row in standard(iter(enumerate(given_, 1)), {}, "here"):
        numbers.append(number)
        try:
            found = preference(number, row)
        except Unusable:
            continue
        assert found.prompt[-1]["role"] == "user"
        assert found.prompt[-1]["content"].strip()
        assert found.chosen.strip() != found.rejected.strip()
        assert found.chosen.strip()
        assert found.rejected.strip()
    assert numbers == list(range(1, len(given_) + 1))


@quick
@given(
    st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1)), max_size=5), st.integers(1, 40)
)
def test_an_example_is_its_texts_or_the_first_tokens_of_them(given_, longest):
    tokenizer = weights.load_tokenizer("tiny-base")  # a token a byte
    pairs = [
        Preference(row, [{"role": "user", "content": asked}], chosen, rejected)
        for row, (asked, chosen, rejected) in enumerate(given_, 1)
    ]
    made = to_examples(Rows(pairs, [], {}), tokenizer, max_prompt_tokens=60, max_response_tokens=longest)
    skipped = {row for row, _ in made.skipped}
    assert len(made.examples) + len(skipped) == len(pairs)
    kept = [pair for pair in pairs if pair.row not in skipped]
    for pair, example in zip(kept, made.examples, strict=True):
        start = f"<|im_start|>user\n{pair.prompt[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
        assert (tokenizer.decode(example.prompt), example.roles) == (start, ["chosen", "rejected"])
        for text, response in zip((pair.chosen, pair.rejected), example.responses, strict=True):
            whole = tokenizer(f"{text}<|im_end|>", add_special_tokens=False).input_ids
            assert list(response) == whole[:longest]


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=4), part, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(st.text(max_size=4), plain, max_size=4)


@quick
@given(objects, objects, plain)
def test_a_kept_result_is_found_by_all_that_it_depends_on_and_by_nothing_else(depends, other, value):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        assert store.keep_json("x", depends, lambda: value) == value
        again = dict(reversed(depends.items()))
        assert store.keep_json("x", again, lambda: pytest.fail("made again")) == value
        same = json.dumps(other, sort_keys=True) == json.dumps(depends, sort_keys=True)
        assert (key_of(other) == key_of(depends)) == same


@few
@given(st.lists(examples(), min_size=1, max_size=4).filter(lambda made: any(row.responses for row in made)))
def test_a_cached_teacher_says_what_it_says_live(given_):
    teacher = LiveTeacher(weights.load("tiny-base")[0])
    with tempfile.TemporaryDirectory() as folder:
        cached = cache_teacher(teacher, given_, Path(folder), quiet=True)
        made = collate(given_)
        here, kept = teacher.signal(made), cached.signal(made)
        torch.testing.assert_close(kept.hidden, here.hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kept.log_norm, log_norm(here.hidden, here.head), atol=1e-5, rtol=1e-5)
