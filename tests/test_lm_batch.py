"""Packed rows against one row a response: nothing that shares a row or a batch may be seen."""

import pytest
import torch
from tiny_lm import log_probs

from alignkd_lab.lm import batch as batch_module
from alignkd_lab.lm import weights
from alignkd_lab.lm.batch import ROLES, Example, collate, hidden_states, token_counts
from alignkd_lab.lm.losses import token_log_probs

END = 2
EXAMPLES = [
    Example([1, 40, 41, 42, 43], [[50, 51, 52, END], [END], [60], [70, 71, 72, 73, 74, 75, END]]),
    Example([1, 90], [[91, 92, END]]),
    Example([1, 100, 101, 102, 103, 104, 105, 106, 107], [[END], [110, 111]]),
]


@pytest.fixture(scope="module")
def model():
    return weights.load("tiny-base")[0]


def packed(model, examples):
    batch = collate(examples)
    with torch.inference_mode():
        found = token_log_probs(hidden_states(model, batch), model.lm_head.weight, batch["shift_labels"])
    return found, batch


def test_packed_rows_equal_one_row_a_response(model):
    found, _ = packed(model, EXAMPLES)
    expected = torch.cat([log_probs(model, row.prompt, tokens) for row in EXAMPLES for tokens in row.responses])
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_packed_beside_a_response_changes_nothing(model):
    prompt, response = [1, 40, 41], [50, 51, END]
    neighbours = [[], [[9, 8, 7, END]], [[20], [21, 22]], [[30] * 40]]
    for before in neighbours:
        for after in neighbours:
            found, batch = packed(model, [Example(prompt, [*before, response, *after])])
            own = found[batch["response"] == len(before)]
            assert own.tolist() == pytest.approx(log_probs(model, prompt, response).tolist(), abs=1e-5)


def test_the_end_token_is_supervised(model):
    # pad = eos in the real tokenizer: a mask by id would silently drop it.
    batch = collate([Example([1, 40], [[50, END]])])
    assert batch["shift_labels"].tolist() == [50, END]
    hidden = hidden_states(model, batch).detach().requires_grad_()
    token_log_probs(hidden, model.lm_head.weight, batch["shift_labels"])[1].backward()
    assert float(hidden.grad[1].abs().sum()) > 0


def test_long_responses_get_rows_of_their_own_and_the_same_states(monkeypatch):
    model = weights.load("tiny-base")[0]
    together = collate(EXAMPLES)
    monkeypatch.setattr(batch_module, "TOKEN_COST", -1000)
    apart = collate(EXAMPLES)
    assert len(together["input_ids"]) == len(EXAMPLES)
    assert len(apart["input_ids"]) == sum(len(example.responses) for example in EXAMPLES)
    for name in ("shift_labels", "response", "role"):
        assert torch.equal(together[name], apart[name])
    torch.testing.assert_close(hidden_states(model, apart), hidden_states(model, together))


def test_a_prompt_without_responses_keeps_its_row():
    assert len(collate([Example([1, 40], []), Example([1], [[5, 6]])])["input_ids"]) == 2


@pytest.mark.parametrize(("length", "rows"), [(28, 1), (200, 1), (260, 2)])
def test_two_responses_share_a_prompt_while_that_saves_more_than_their_attention_costs(length, rows):
    example = Example([5] * 32, [[7] * length, [8] * length])
    assert len(collate([example])["input_ids"]) == rows


def states(length, value):
    return {"hidden": torch.full((length, 3), value)}


def said(*responses, name="teacher"):
    return {name: list(responses)}


def test_a_teacher_that_read_only_some_responses_has_rows_for_those_alone():
    rows = [
        Example([1], [[5, 6], [7]], ["chosen", "sampled"], said({}, states(1, 2.0))),
        Example([1, 2], [[8], [9, 9]], ["chosen", "sampled"], said({}, states(2, 4.0))),
    ]
    batch = collate(rows)
    assert batch["signals"]["teacher"]["hidden"][:, 0].tolist() == [2, 4, 4]
    assert int((batch["role"] == ROLES.index("sampled")).sum()) == 3


def test_a_teacher_that_read_nothing_of_a_batch_says_nothing():
    assert collate([Example([1], [[5, 6]], signals=said({}))])["signals"] == {"teacher": {}}


def test_tokens_are_counted_by_role():
    rows = [
        Example([1], [[5, 6], [7]], ["chosen", "rejected"]),
        Example([1, 2], [[8], [9, 9, 9]], ["chosen", "sampled"]),
        Example([1], [[4, 4]]),
    ]
    responses = {"chosen_responses": 2, "sampled_responses": 2, "pairs": 1}
    assert token_counts(rows) == {"chosen": 3, "rejected": 1, "sampled": 5, "tokens": 9, **responses}


def test_what_a_loss_wants_to_know_keeps_the_order_of_the_responses():
    rows = [
        Example([1], [[5, 6], [7]], ["chosen", "rejected"], said(states(2, 1.0), states(1, 2.0)), [-1.0, -2.0]),
        Example([1, 2], [[8], [9, 9]], ["chosen", "rejected"], said(states(1, 3.0), states(2, 4.0)), [-3.0, -4.0]),
    ]
    batch = collate(rows)
    assert batch["signals"]["teacher"]["hidden"][:, 0].tolist() == [1, 1, 2, 3, 4, 4]
    assert [ROLES[role] for role in batch["role"]] == [*["chosen"] * 2, "rejected", "chosen", *["rejected"] * 2]
    assert batch["reference_log_probs"].tolist() == [-1, -2, -3, -4]
