"""What every loss has in common: right values and gradients, in any chunks, parts, orders and dtypes."""

import pytest
import torch
import torch.nn.functional as F
from naive_losses import (
    CASES,
    LENGTHS,
    PLAIN,
    TOKENS,
    VOCABULARY,
    assert_close,
    dpo,
    in_dtype,
    made_on,
    nll,
    part_of,
    value_and_slopes,
)

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import chunked as fused
from alignkd_lab.lm import losses, weights
from alignkd_lab.lm.batch import ROLES, Example, collate, hidden_states, token_counts
from alignkd_lab.lm.teachers import Full

CHUNKS = (None, 1, 5, 22, 23, 100)


@pytest.fixture
def made(device):
    return made_on(device)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_naive_float64_version(case, made):
    ours, naive, options = CASES[case]
    assert_close(value_and_slopes(ours, made, chunk=7, **options), value_and_slopes(naive, made, **options))


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences_of_the_value(case, made):
    ours, _, options = CASES[case]

    def value(hidden, head):
        return 1.7 * ours({**made, "hidden": hidden, "head": head}, chunk=9, **options)[0]

    leaves = made["hidden"].requires_grad_(), made["head"].requires_grad_()
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_float32_inputs_cost_only_float32_rounding(case, made):
    ours, naive, options = CASES[case]
    found = value_and_slopes(ours, in_dtype(made, torch.float32), **options)
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    assert_close(found, value_and_slopes(naive, made, **options), 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_inputs_cost_only_their_own_rounding(case, made):
    ours, naive, options = CASES[case]
    rounded = in_dtype(made, torch.bfloat16)
    found = value_and_slopes(ours, rounded, **options)
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    # On a CPU the head's product rounds logits to 3 significant digits, which dpo sums over tokens.
    assert_close(found, value_and_slopes(naive, in_dtype(rounded, torch.float64), **options), 0.1)


@pytest.mark.parametrize("name", PLAIN)
def test_autocast_changes_the_products_and_nothing_else(name, made, device):
    ours = CASES[name][0]
    leaves = {key: made[key].float().requires_grad_() for key in ("hidden", "head")}
    with torch.autocast(device, torch.bfloat16):
        value, _ = ours({**in_dtype(made, torch.float32), **leaves}, chunk=5)
    slopes = torch.autograd.grad(value, list(leaves.values()))
    expected = value_and_slopes(ours, in_dtype(made, torch.bfloat16), chunk=5)
    assert [slope.dtype for slope in slopes] == [torch.float32] * 2
    assert float(value.detach()) == pytest.approx(float(expected[0].detach()), rel=1e-6)
    assert_close(slopes, expected[1:], 1e-2)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("case", CASES)
def test_the_chunk_size_changes_nothing(case, chunk, made):
    ours, _, options = CASES[case]
    assert_close(value_and_slopes(ours, made, chunk=chunk, **options), value_and_slopes(ours, made, **options))


@pytest.mark.parametrize("items", [TOKENS, torch.tensor(TOKENS)], ids=["a number", "a tensor"])
@pytest.mark.parametrize("name", PLAIN)
def test_two_parts_with_items_sum_to_the_loss_of_the_whole(name, items, made):
    ours, cut = CASES[name][0], 14  # the first two pairs have 14 tokens
    parts = [part_of(made, slice(cut)), part_of(made, slice(cut, None))]
    if name == "dpo":
        items = items * 3 // TOKENS
        for part, responses in zip(parts, (slice(4), slice(4, None)), strict=True):
            part["reference_log_probs"] = made["reference_log_probs"][responses]
        parts[1]["response"] = parts[1]["response"] - 4
    if name in ("dckd", "adpa"):
        items = (sum(LENGTHS[0::2]), sum(LENGTHS[1::2]))
    found = [value_and_slopes(ours, part, items=items) for part in parts]
    slopes = torch.cat([slope for _, slope, _ in found])
    whole = value_and_slopes(ours, made)
    assert_close([found[0][0] + found[1][0], slopes, found[0][2] + found[1][2]], whole)


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", [name for name in PLAIN if name != "dpo"])
def test_no_tokens_at_all_are_a_loss_of_zero(name, chunk, made):
    for found in value_and_slopes(CASES[name][0], part_of(made, slice(0)), chunk=chunk):
        assert float(found.detach().abs().sum()) == 0


@pytest.mark.parametrize("wanted", [True, False], ids=["chosen", "others"])
@pytest.mark.parametrize("name", ["dckd", "adpa"])
def test_a_batch_of_one_kind_of_response_has_the_other_kinds_terms_at_zero(name, wanted, made):
    ours, naive, _ = CASES[name]
    part = part_of(made, made["chosen"] == wanted)
    counts = (int(made["chosen"].sum()), int((~made["chosen"]).sum()))
    expected = value_and_slopes(naive, part, items=counts)
    assert_close(value_and_slopes(ours, part, items=counts), expected)
    own = (counts[0], 1) if wanted else (1, counts[1])
    assert_close(value_and_slopes(ours, part), value_and_slopes(naive, part, items=own))


def test_an_empty_response_has_log_probability_zero(made):
    _, info = dpo({**made, "reference_log_probs": F.pad(made["reference_log_probs"], (0, 2))})
    assert info.chosen_rewards[-1] == info.rejected_rewards[-1] == 0
    assert len(info.chosen_rewards) == 4


@pytest.mark.parametrize("frozen", ["hidden", "head"])
@pytest.mark.parametrize("name", PLAIN)
def test_what_is_frozen_gets_no_gradient_and_changes_none(name, frozen, made):
    ours = CASES[name][0]
    trained = "head" if frozen == "hidden" else "hidden"
    leaf = made[trained].clone().requires_grad_()
    value, _ = ours({**made, trained: leaf}, chunk=5)
    value.backward()
    both = dict(zip(("hidden", "head"), value_and_slopes(ours, made)[1:], strict=True))
    assert made[frozen].grad is None
    assert_close([leaf.grad], [both[trained]])


@pytest.mark.parametrize("name", PLAIN)
def test_without_gradients_the_value_and_the_diagnostics_are_the_same(name, made):
    ours = CASES[name][0]
    trained = {**made, "hidden": made["hidden"].clone().requires_grad_()}
    with torch.no_grad():
        value, info = ours(trained, chunk=5)
    again, same = ours(trained, chunk=5)
    assert not value.requires_grad
    assert again.requires_grad
    assert not any(tensor.requires_grad for tensor in same)
    assert_close([value, *info], [again.detach(), *same])


@pytest.mark.parametrize("name", PLAIN)
def test_nothing_as_wide_as_the_vocabulary_is_kept_for_the_backward_pass(name, made):
    kept = []
    leaf = made["hidden"].clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        CASES[name][0]({**made, "hidden": leaf}, chunk=5)
    assert kept
    assert max(kept) < VOCABULARY * 5


def test_token_log_probs_weigh_each_row_by_its_upstream(made):
    upstream = torch.linspace(-1, 2, TOKENS, dtype=torch.float64, device=made["hidden"].device)
    leaves = [made[name].clone().requires_grad_() for name in ("hidden", "head")]
    found = fused.token_log_probs(*leaves, made["labels"], chunk=4)
    naive = torch.log_softmax(leaves[0] @ leaves[1].T, -1).gather(1, made["labels"][:, None]).squeeze(1)
    assert_close([found], [naive])
    assert_close(
        torch.autograd.grad(found, leaves, upstream, retain_graph=True), torch.autograd.grad(naive, leaves, upstream)
    )
    again = torch.autograd.grad(found, leaves, upstream)
    assert all(torch.isfinite(tensor).all() for tensor in again)


def test_the_default_chunk_has_wide_tensors_of_48_mebibytes_on_a_cpu():
    assert fused.default_chunk(torch.empty(49152, 1)) == 256
    assert fused.default_chunk(torch.empty(2**26, 0)) == 1


def test_nll_reports_the_log_probability_of_every_label(made):
    _, info = nll(made, chunk=5)
    expected = torch.log_softmax(made["hidden"] @ made["head"].T, -1).gather(1, made["labels"][:, None])
    assert_close([info.log_probs], [expected[:, 0]])


def test_bad_inputs_are_refused_by_name(made):
    hidden, head, labels, chosen = (made[name] for name in ("hidden", "head", "labels", "chosen"))
    teacher = Full(made["teacher_hidden"], made["teacher_head"])
    reference = [-1.0, -2.0, -3.0]
    refused = {
        "labels: 22 rows for 23": lambda: losses.nll(hidden, head, labels[1:]),
        "teacher: 22 rows for the 23": lambda: losses.kd(hidden, head, Full(teacher.hidden[1:], teacher.head)),
        "vocabulary has 60 tokens and the student's 61": lambda: losses.kd(
            hidden, head, Full(teacher.hidden, teacher.head[1:])
        ),
        "make no pairs": lambda: losses.dpo(hidden, head, labels, made["response"], torch.tensor(reference), 0.1),
        "chosen: 22 rows": lambda: losses.dckd(hidden, head, labels, teacher, chosen[1:]),
        "teacher: 23 rows for the 12": lambda: losses.adpa(hidden, head, labels, teacher, teacher, chosen),
    }
    for message, call in refused.items():
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize("name", PLAIN)
def test_padding_and_company_in_a_batch_change_no_gradient_and_the_end_token_counts(name, made, device):
    model, tokenizer = weights.load("tiny-base")
    model = model.to(device)
    draw, width = torch.Generator().manual_seed(2), model.config.hidden_size

    def example(prompt, lengths):
        responses = [
            [*torch.randint(5, 90, (length,), generator=draw).tolist(), tokenizer.eos_token_id] for length in lengths
        ]
        return Example(
            list(range(5, 5 + prompt)), responses, ["chosen", "sampled"],
            {kind: [{"hidden": torch.randn(length + 1, width, generator=draw)} for length in lengths]
             for kind in ("teacher", "reference")},
            [-9.0, -7.0],
        )  # fmt: skip

    examples = [example(3, (2, 7)), example(11, (9, 1)), example(6, (4, 4))]
    counts = token_counts(examples)

    def slopes(parts):
        model.zero_grad()
        for part in parts:
            batch = collate(part)
            sampled = batch["role"] != ROLES.index("chosen")
            signals = {kind: batch["signals"][kind]["hidden"].to(device) for kind in ("teacher", "reference")}
            head, labels = model.lm_head.weight, batch["shift_labels"].to(device)
            given = {
                "hidden": hidden_states(model, batch), "head": head, "labels": labels, "chosen": ~sampled.to(device),
                "response": batch["response"].to(device),
                "reference_log_probs": batch["reference_log_probs"].to(device),
                "teacher": Full(signals["teacher"], head.detach()),
                "teachers": [Full(signals[kind][sampled], head.detach()) for kind in ("teacher", "reference")],
            }  # fmt: skip
            items = {"dpo": 3, "dckd": (counts["chosen"], counts["sampled"])}
            items["adpa"] = items["dckd"]
            CASES[name][0](given, items=items.get(name, counts["tokens"]))[0].backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    assert counts["tokens"] == 33
    together = slopes([examples])
    assert max(float(slope.abs().max()) for slope in together) > 1e-4
    assert_close(together, slopes([[row] for row in examples]), 1e-5)
