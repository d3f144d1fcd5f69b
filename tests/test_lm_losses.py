"""Each loss against a naive float64 version, in value and in gradient, and against other people's code."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import Example, collate, hidden_states

TOKENS, VOCABULARY, WIDTH, TEACHER_WIDTH = 23, 41, 7, 5
LENGTHS = (3, 1, 6, 4, 2, 7)  # responses: chosen, rejected, chosen, ...
CHUNKS = (None, 1, 5, 22, 23, 100)


@pytest.fixture
def made(device):
    """Random inputs in float64, by the names of the losses' arguments."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(device)

    return {
        "hidden": normal(TOKENS, WIDTH),
        "head": normal(VOCABULARY, WIDTH),
        "labels": torch.randint(VOCABULARY, (TOKENS,), generator=draw).to(device),
        "teacher_hidden": normal(TOKENS, TEACHER_WIDTH),
        "teacher_head": normal(VOCABULARY, TEACHER_WIDTH),
        "response": torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS)).to(device),
        "reference_log_probs": (3 * normal(6) - 15).float(),
    }


def nll(made, **options):
    return losses.nll(made["hidden"], made["head"], made["labels"], **options)


def kd(made, **options):
    return losses.kd(made["hidden"], made["head"], made["teacher_hidden"], made["teacher_head"], **options)


def dpo(made, **options):
    options = {"beta": 0.3, **options}
    names = ("hidden", "head", "labels", "response", "reference_log_probs")
    return losses.dpo(*(made[name] for name in names), **options)


def naive_nll(made, items=None):
    total = 0.0
    for state, label in zip(made["hidden"], made["labels"], strict=True):
        total = total - torch.log(torch.softmax(made["head"] @ state, 0)[label])
    return total / (items or TOKENS)


def naive_kd(made, teacher_temperature=1.0, items=None):
    total = 0.0
    for state, teacher in zip(made["hidden"], made["teacher_hidden"], strict=True):
        p = torch.softmax(made["teacher_head"] @ teacher / teacher_temperature, 0)
        q = torch.softmax(made["head"] @ state, 0)
        total = total + (p * (p.log() - q.log())).sum()
    return total / (items or TOKENS)


def naive_dpo(made, beta=0.3, label_smoothing=0.0, items=None):
    sums = [0.0] * len(LENGTHS)
    for state, label, response in zip(made["hidden"], made["labels"], made["response"].tolist(), strict=True):
        sums[response] = sums[response] + torch.log(torch.softmax(made["head"] @ state, 0)[label])
    total = 0.0
    for chosen in range(0, len(LENGTHS), 2):
        policy = sums[chosen] - sums[chosen + 1]
        reference = made["reference_log_probs"][chosen] - made["reference_log_probs"][chosen + 1]
        right = torch.sigmoid(beta * (policy - reference))
        total = total - (1 - label_smoothing) * right.log() - label_smoothing * (1 - right).log()
    return total / (items or len(LENGTHS) // 2)


CASES = {
    "nll": (nll, naive_nll, {}),
    "nll over given items": (nll, naive_nll, {"items": 40}),
    "kd": (kd, naive_kd, {}),
    "kd of a sharpened teacher": (kd, naive_kd, {"teacher_temperature": 0.6}),
    "kd of a flattened teacher over given items": (kd, naive_kd, {"teacher_temperature": 1.5, "items": 7}),
    "dpo": (dpo, naive_dpo, {}),
    "dpo with label smoothing": (dpo, naive_dpo, {"label_smoothing": 0.2}),
    "dpo with another beta over given items": (dpo, naive_dpo, {"beta": 1.3, "items": 9}),
}


def value_and_slopes(loss, made, **options):
    """The loss and its gradients on the hidden states and on the head."""
    leaves = {name: made[name].clone().requires_grad_() for name in ("hidden", "head")}
    found = loss({**made, **leaves}, **options)
    value = found[0] if isinstance(found, tuple) else found
    return [value, *torch.autograd.grad(value, list(leaves.values()))]


def assert_close(found, expected, tolerance=1e-5):
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_naive_float64_version(case, made):
    ours, naive, options = CASES[case]
    assert_close(value_and_slopes(ours, made, **options), value_and_slopes(naive, made, **options))


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences_of_the_value(case, made):
    # The losses compute in float32, so the step is wide and the direction, not every coordinate, is compared.
    ours, _, options = CASES[case]
    _, slope, head_slope = value_and_slopes(ours, made, **options)
    for name, gradient in (("hidden", slope), ("head", head_slope)):
        direction = gradient / gradient.norm()
        up, down = (ours({**made, name: made[name] + step * direction}, **options)[0] for step in (5e-3, -5e-3))
        assert float(up - down) / 1e-2 == pytest.approx(float(gradient.norm()), rel=5e-3)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("case", CASES)
def test_the_chunk_size_changes_nothing(case, chunk, made):
    ours, _, options = CASES[case]
    assert_close(value_and_slopes(ours, made, chunk=chunk, **options), value_and_slopes(ours, made, **options), 1e-6)


@pytest.mark.parametrize("name", ["nll", "kd"])
def test_the_order_of_tokens_changes_no_value_and_permutes_the_gradient(name, made):
    ours = CASES[name][0]
    order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))
    shuffled = {**made, **{key: made[key][order] for key in ("hidden", "labels", "teacher_hidden")}}
    value, slope, head_slope = value_and_slopes(ours, made)
    assert_close(value_and_slopes(ours, shuffled), [value, slope[order], head_slope], 1e-6)


def test_the_order_of_pairs_does_not_change_dpo(made):
    order = [4, 5, 0, 1, 2, 3]
    pieces = [(made["response"] == response).nonzero().squeeze(1) for response in order]
    rows = torch.cat(pieces)
    numbers = torch.repeat_interleave(torch.arange(6), torch.tensor([len(piece) for piece in pieces]))
    shuffled = {
        **made,
        "hidden": made["hidden"][rows],
        "labels": made["labels"][rows],
        "response": numbers.to(rows.device),
        "reference_log_probs": made["reference_log_probs"][order],
    }
    value, slope, head_slope = value_and_slopes(dpo, made)
    assert_close(value_and_slopes(dpo, shuffled), [value, slope[rows], head_slope], 1e-6)


@pytest.mark.parametrize(("name", "cut", "items"), [("nll", 9, TOKENS), ("kd", 9, TOKENS), ("dpo", 14, 3)])
def test_two_parts_with_items_sum_to_the_loss_of_the_whole(name, cut, items, made):
    ours = CASES[name][0]
    keys = ("hidden", "labels", "teacher_hidden", "response")
    parts = [{**made, **{key: made[key][part] for key in keys}} for part in (slice(cut), slice(cut, None))]
    if name == "dpo":  # the first two pairs have 14 tokens
        parts[0]["reference_log_probs"] = made["reference_log_probs"][:4]
        parts[1]["reference_log_probs"] = made["reference_log_probs"][4:]
        parts[1]["response"] = parts[1]["response"] - 4
    found = [value_and_slopes(ours, part, items=torch.tensor(items)) for part in parts]
    whole = value_and_slopes(ours, made)
    slopes = torch.cat([slope for _, slope, _ in found])
    assert_close([found[0][0] + found[1][0], slopes, found[0][2] + found[1][2]], whole, 1e-6)


def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(made):
    own = {**made, "teacher_hidden": made["hidden"], "teacher_head": made["head"]}
    for found in value_and_slopes(kd, own):
        assert float(found.detach().abs().max()) < 1e-6


def test_kd_is_never_negative_and_reports_the_teachers_entropy(made):
    _, info = kd(made, teacher_temperature=0.5)
    p = torch.softmax(made["teacher_hidden"] @ made["teacher_head"].T / 0.5, -1)
    assert_close([info.teacher_entropy], [-(p * p.log()).sum(-1)])
    assert float(info.kl.min()) >= 0


def test_kd_leaves_the_teacher_without_gradient(made):
    hidden = made["hidden"].requires_grad_()
    teacher = [made[name].requires_grad_() for name in ("teacher_hidden", "teacher_head")]
    loss, _ = losses.kd(hidden, made["head"], *teacher)
    loss.backward()
    assert hidden.grad is not None
    assert all(tensor.grad is None for tensor in teacher)


def test_sharpening_the_teacher_leaves_the_student_at_temperature_one(made):
    teacher = made["teacher_hidden"] / 0.5
    sharpened, _ = kd(made, teacher_temperature=0.5)
    by_hand, _ = kd({**made, "teacher_hidden": teacher})
    assert_close([sharpened], [by_hand], 1e-6)


def test_dpo_starts_at_log_two_with_weight_one_half(made):
    log_probs = losses.token_log_probs(made["hidden"], made["head"], made["labels"])
    own = torch.zeros(6, device=log_probs.device).index_add(0, made["response"], log_probs)
    loss, info = dpo({**made, "reference_log_probs": own})
    assert float(loss) == pytest.approx(0.693147, abs=1e-5)
    assert info.weight.tolist() == pytest.approx([0.5] * 3, abs=1e-5)


def test_dpo_reports_rewards_weight_and_accuracy(made):
    _, info = dpo(made)
    log_probs = F.log_softmax(made["hidden"] @ made["head"].T, -1).gather(1, made["labels"][:, None])[:, 0]
    sums = torch.stack([log_probs[made["response"] == number].sum() for number in range(6)])
    rewards = 0.3 * (sums - made["reference_log_probs"])
    assert_close([info.chosen_rewards, info.rejected_rewards], [rewards[0::2], rewards[1::2]])
    assert_close([info.weight], [torch.sigmoid(rewards[1::2] - rewards[0::2])])
    assert float(info.accuracy) == pytest.approx(float((rewards[0::2] > rewards[1::2]).double().mean()))


@pytest.mark.parametrize("case", ["nll", "kd", "dpo"])
def test_bfloat16_hidden_states_cost_only_their_own_rounding(case, made):
    ours, naive, options = CASES[case]
    rounded = {
        name: tensor.bfloat16() if tensor.is_floating_point() and name != "reference_log_probs" else tensor
        for name, tensor in made.items()
    }
    exact = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in rounded.items()}
    found = value_and_slopes(ours, rounded, **options)
    assert found[1].dtype == torch.bfloat16
    # Logits are rounded to bfloat16 by the head's product: 3 significant digits, and sums of them in dpo.
    assert_close(found, value_and_slopes(naive, exact, **options), 0.05)


def test_kd_equals_trls_generalised_divergence_at_beta_zero(made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def theirs(made):
        student, teacher = made["hidden"] @ made["head"].T, made["teacher_hidden"] @ made["teacher_head"].T
        return gkd(student[None], teacher[None], labels=made["labels"][None], beta=0)

    assert_close(value_and_slopes(kd, made), value_and_slopes(theirs, made))


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
        scored = losses.token_log_probs(
            hidden_states(reference, batch), reference.lm_head.weight, batch["shift_labels"]
        )
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
