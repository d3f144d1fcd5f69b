"""TRL's DPO loss of given pairs is the package's own, and asking for it leaves no trace on the page."""

import pytest
import torch

from alignkd_lab.course.lens.trl_dpo import trl_dpo
from alignkd_lab.lm import chunked as fused
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states

ROWS = [
    {"prompt": "Name a bird.", "chosen": " A wren, as small as a plum.", "rejected": " Rain"},
    {"prompt": "Two?", "chosen": " 2", "rejected": " It is a number, they say."},
]


@pytest.fixture(scope="module")
def asked():
    pytest.importorskip("trl")
    policy, tokenizer = weights.load("tiny-base")
    reference = weights.load("tiny-truth")[0]
    return policy, reference, tokenizer


def ours(policy, reference, tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    examples = [
        Example(ids(row["prompt"]), [[*ids(row[name]), tokenizer.eos_token_id] for name in ("chosen", "rejected")])
        for row in ROWS
    ]
    batch = collate(examples)
    labels, response = batch["shift_labels"], batch["response"]
    with torch.no_grad():
        scored = fused.token_log_probs(hidden_states(reference, batch), reference.lm_head.weight, labels)
        sums = torch.zeros(4).index_add(0, response, scored)
        return losses.dpo(hidden_states(policy, batch), policy.lm_head.weight, labels, response, sums, 0.7)


def test_trl_finds_the_same_loss_and_rewards(asked, capfd):
    loss, info = ours(*asked)
    theirs = trl_dpo(*asked, ROWS, beta=0.7)
    assert theirs["loss"] == pytest.approx(float(loss), abs=1e-4)
    assert theirs["chosen_rewards"] == pytest.approx(float(info.chosen_rewards.mean()), abs=1e-3)
    assert theirs["rejected_rewards"] == pytest.approx(float(info.rejected_rewards.mean()), abs=1e-3)
    assert "".join(capfd.readouterr()) == ""


def test_the_models_compute_what_they_did_before(asked):
    policy, reference, tokenizer = asked
    tokens = torch.tensor([tokenizer("Two?")["input_ids"]])
    with torch.no_grad():
        before = [model(tokens).logits for model in (policy, reference)]
        trl_dpo(policy, reference, tokenizer, ROWS[:1], beta=0.1)
        after = [model(tokens).logits for model in (policy, reference)]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)
