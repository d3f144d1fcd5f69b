"""DPO: its start, its diagnostics, and the loss of TRL's trainer on the same rows."""

import copy

import pytest
import torch
from naive_losses import assert_close, dpo, made_on

from alignkd_lab.lm import chunked as fused
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states


@pytest.fixture
def made(device):
    return made_on(device)


def label_log_probs(made):
    return torch.log_softmax(made["hidden"] @ made["head"].T, -1).gather(1, made["labels"][:, None])[:, 0]


def test_dpo_starts_at_log_two_with_weight_one_half(made):
    own = torch.stack([label_log_probs(made)[made["response"] == number].sum() for number in range(6)])
    loss, info = dpo({**made, "reference_log_probs": own})
    assert float(loss) == pytest.approx(0.693147, abs=1e-6)
    assert info.weight.tolist() == pytest.approx([0.5] * 3)


def test_dpo_reports_log_probabilities_rewards_weight_and_accuracy(made):
    _, info = dpo(made, chunk=6)
    log_probs = label_log_probs(made)
    sums = torch.stack([log_probs[made["response"] == number].sum() for number in range(6)])
    rewards = 0.3 * (sums - made["reference_log_probs"])
    assert_close(info[:3], [log_probs, rewards[0::2], rewards[1::2]])
    assert_close([info.weight], [torch.sigmoid(rewards[1::2] - rewards[0::2])])
    assert float(info.accuracy) == pytest.approx(float((rewards[0::2] > rewards[1::2]).double().mean()))


def test_the_gradient_fades_where_a_pair_is_already_satisfied(made):
    hidden = made["hidden"].clone().requires_grad_()
    satisfied = made["reference_log_probs"].clone()
    satisfied[1] += 1e4  # the reference prefers the first pair's rejected response by far
    dpo({**made, "hidden": hidden, "reference_log_probs": satisfied})[0].backward()
    first = made["response"] < 2
    assert float(hidden.grad[first].abs().max()) == 0
    assert float(hidden.grad[~first].abs().max()) > 0


def test_dpo_equals_the_loss_of_trls_trainer(tmp_path):
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    model, tokenizer = weights.load("tiny-base")
    reference = weights.load("tiny-truth")[0]
    rows = [
        {"prompt": "Name a bird.", "chosen": " A wren, as small as a plum.", "rejected": " Rain"},
        {"prompt": "Two?", "chosen": " 2", "rejected": " It is a number, they say."},
    ]

    def example(row):
        def ids(text):
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        responses = [[*ids(row[name]), tokenizer.eos_token_id] for name in ("chosen", "rejected")]
        return Example(ids(row["prompt"]), responses)

    batch = collate([example(row) for row in rows])
    with torch.no_grad():
        scored = fused.token_log_probs(hidden_states(reference, batch), reference.lm_head.weight, batch["shift_labels"])
        sums = torch.zeros(4).index_add(0, batch["response"], scored)
        ours, info = losses.dpo(
            hidden_states(model, batch),
            model.lm_head.weight,
            batch["shift_labels"],
            batch["response"],
            sums,
            0.7,
        )

    arguments = trl.DPOConfig(
        str(tmp_path), beta=0.7, learning_rate=0.0, max_steps=1, per_device_train_batch_size=2, logging_steps=1,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = trl.DPOTrainer(
        copy.deepcopy(model),
        ref_model=reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert float(ours) == pytest.approx(logged["loss"], abs=1e-4)
    assert float(info.chosen_rewards.mean()) == pytest.approx(logged["rewards/chosen"], abs=1e-3)
    assert float(info.rejected_rewards.mean()) == pytest.approx(logged["rewards/rejected"], abs=1e-3)
