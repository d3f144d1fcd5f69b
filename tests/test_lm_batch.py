"""What a batch holds: rows that responses share, counts by role, and what teachers said, in the order of the responses.

That nothing which shares a row is seen: `test_properties.py` for any batch, `test_lm_models.py` for any architecture.
"""

import pytest
import torch

from alignkd_lab.lm.batch import ROLES, Example, collate, token_counts


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
