"""What every loss has in common: right values and gradients, in any chunks, parts, orders and dtypes."""

import warnings

import naive_losses
import pytest
import torch
from naive_losses import CASES, END, PLAIN, VOCABULARY, adpa, assert_close, dpo, in_dtype, kd, part_of, value_and_slopes

from alignkd_lab import nano
from alignkd_lab.lm import chunked as fused
from alignkd_lab.lm import teachers as signals
from alignkd_lab.lm.losses import DIVERGENCES
from alignkd_lab.lm.teachers import Full

CHUNKS, TOKENS = (None, 1, 7, 22, 23, 100), naive_losses.TOKENS


@pytest.fixture
def made(device):
    return naive_losses.made_on(device)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_the_naive_float64_version_in_chunks_of_any_size(case, chunk, made):
    ours, naive, options = CASES[case]
    found = value_and_slopes(ours, made, upstream=1.7, chunk=chunk, **options)
    assert_close(found, value_and_slopes(naive, made, upstream=1.7, **options))


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences_of_the_value(case, made):
    ours, _, options = CASES[case]

    def value(hidden, head):
        return ours({**made, "hidden": hidden, "head": head}, chunk=9, **options)[0]

    leaves = made["hidden"].requires_grad_(), made["head"].requires_grad_()
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


# On a CPU the head's product rounds logits in bfloat16 to 3 significant digits, which dpo sums over tokens.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("case", CASES)
def test_inputs_of_fewer_bits_cost_only_their_own_rounding(case, dtype, tolerance, made):
    ours, naive, options = CASES[case]
    rounded = in_dtype(made, dtype)
    found = value_and_slopes(ours, rounded, **options)
    assert [tensor.dtype for tensor in found] == [torch.float32, dtype, dtype]
    assert_close(found, value_and_slopes(naive, in_dtype(rounded, torch.float64), **options), tolerance)


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
        items = (sum(naive_losses.LENGTHS[0::2]), sum(naive_losses.LENGTHS[1::2]))
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


@pytest.mark.parametrize("frozen", ["hidden", "head"])
@pytest.mark.parametrize("name", PLAIN)
def test_what_is_frozen_changes_no_gradient_and_a_teacher_gets_none(name, frozen, made):
    ours = CASES[name][0]
    trained = "head" if frozen == "hidden" else "hidden"
    leaf = made[trained].clone().requires_grad_()
    taught = [made[part].requires_grad_() for part in ("teacher_hidden", "teacher_head")]
    value, _ = ours({**made, trained: leaf}, chunk=5)
    value.backward()
    both = dict(zip(("hidden", "head"), value_and_slopes(ours, made)[1:], strict=True))
    assert [part.grad for part in taught] == [None, None]
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


def test_the_default_chunk_has_wide_tensors_of_48_mebibytes_on_a_cpu():
    assert fused.default_chunk(torch.empty(49152, 1)) == 256
    assert fused.default_chunk(torch.empty(2**26, 0)) == 1


def label_log_probs(made):
    return nano.token_log_probs(naive_losses.logits(made), made["labels"])


def test_dpo_reports_log_probabilities_rewards_weight_and_accuracy(made):
    _, info = dpo(made, chunk=6)
    log_probs = label_log_probs(made)
    sums = torch.stack([log_probs[made["response"] == number].sum() for number in range(6)])
    rewards = 0.3 * (sums - made["reference_log_probs"])
    assert_close(info[:3], [log_probs, rewards[0::2], rewards[1::2]])
    assert_close([info.weight], [torch.sigmoid(rewards[1::2] - rewards[0::2])])
    assert torch.equal(info.accuracy, (rewards[0::2] > rewards[1::2]).to(info.accuracy))


def test_the_gradient_fades_where_a_pair_is_already_satisfied(made):
    hidden = made["hidden"].clone().requires_grad_()
    satisfied = made["reference_log_probs"].clone()
    satisfied[1] += 1e4  # the reference prefers the first pair's rejected response by far
    dpo({**made, "hidden": hidden, "reference_log_probs": satisfied})[0].backward()
    first = made["response"] < 2
    assert float(hidden.grad[first].abs().max()) == 0
    assert float(hidden.grad[~first].abs().max()) > 0


# KD and DCKD: divergences, temperatures, and TRL's loss as an oracle


@pytest.mark.parametrize(("divergence", "mix", "beta"), [("forward", 0.5, 0), ("reverse", 0.5, 1), ("jsd", 0.3, 0.3)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kd_equals_trls_generalised_divergence(divergence, mix, beta, temperature, made):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def theirs(made):
        student, teacher = made["hidden"] @ made["head"].T, made["teacher_hidden"] @ made["teacher_head"].T
        # TRL leaves out the factor T² that keeps the size of the gradient.
        return temperature**2 * gkd(student[None], teacher[None], made["labels"][None], beta, temperature)

    found = value_and_slopes(kd, made, divergence=divergence, mix=mix, temperature=temperature)
    assert_close(found, value_and_slopes(theirs, made), 1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(divergence, made):
    own = in_dtype({**made, "teacher_hidden": made["hidden"], "teacher_head": made["head"]}, torch.float32)
    bound = 0 if divergence in ("forward", "reverse") else 1e-6
    for found in value_and_slopes(kd, own, divergence=divergence, chunk=6):
        assert float(found.detach().abs().max()) <= bound


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_divergence_is_never_negative_and_skewing_or_mixing_bounds_it(divergence, made):
    far = in_dtype(
        {**made, "teacher_hidden": 40 * made["teacher_hidden"], "hidden": 40 * made["hidden"]}, torch.float32
    )
    found = value_and_slopes(kd, far, divergence=divergence, mix=0.5)
    _, info = kd(far, divergence=divergence, mix=0.5)
    assert all(torch.isfinite(tensor).all() for tensor in found)
    assert float(info.divergence.min()) > -1e-6
    # KL(p || (p + q) / 2) is at most log 2, and so is their mean.
    assert divergence in ("forward", "reverse") or float(info.divergence.max()) < 0.693148


def test_nll_kd_and_dckd_report_log_probability_divergence_and_entropies_of_every_token(made):
    def told(temperature):
        p = naive_losses.logits(made, "teacher_").softmax(-1)
        q = (naive_losses.logits(made) / temperature).softmax(-1)
        return [(p * (p / q).log()).sum(-1), *(-(x * x.log()).sum(-1) for x in (p, q))]

    assert_close(naive_losses.nll(made, chunk=5)[1], [label_log_probs(made)])
    assert_close(kd(made, temperature=2.0, teacher_temperature=0.5, chunk=4)[1], told(2))
    assert_close(naive_losses.dckd(made, chunk=4)[1], [label_log_probs(made), *told(1)])


# ADPA: its slope and diagnostics, heads that teachers share, and what the published code does instead


@pytest.fixture
def written(made):
    """The inputs of sampled tokens alone, so that the loss is the advantage term."""
    return part_of(made, ~made["chosen"])


def test_one_product_of_a_shared_head_gives_the_same_as_two(written, monkeypatch):
    pair = [Full(said.hidden, written["teacher_head"]) for said in naive_losses.teachers(written)]
    normed = [said._replace(log_norm=(said.hidden @ said.head.T).logsumexp(-1)) for said in pair]
    calls, product = [], signals.logits
    monkeypatch.setattr(signals, "logits", lambda *given: calls.append(given) or product(*given))
    for options in ({}, {"regulariser": "kl", "regulariser_weight": 0.3}):
        two, one = (value_and_slopes(adpa, {**written, "teachers": given}, **options) for given in (pair, normed))
        assert_close(one, two)
    calls.clear()
    signals.advantage(*normed, slice(3, 9))
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["whole", "one head"])
def test_equal_teachers_give_exactly_zero(kind, written):
    single = in_dtype(written, torch.float32)
    teacher, _ = naive_losses.teachers(single)
    equal = Full(teacher.hidden.clone(), teacher.head.clone())
    if kind == "one head":
        norm = (teacher.hidden @ teacher.head.T).logsumexp(-1)
        teacher, equal = teacher._replace(log_norm=norm), Full(equal.hidden, teacher.head, norm)
    for found in value_and_slopes(adpa, {**single, "teachers": (teacher, equal)}, chunk=5):
        assert float(found.detach().abs().max()) == 0


def test_the_diagnostics_are_those_of_the_definitions(written):
    _, info = adpa(written, chunk=5)
    q, p, r = naive_losses.distributions(written)
    a = p.log() - r.log()
    assert_close([info.expected_advantage], [(q * a).sum(-1)])
    assert_close([info.largest_advantage, info.student_entropy], [a.max(-1).values, -(q * q.log()).sum(-1)])
    assert info.largest_token.tolist() == a.argmax(-1).tolist()


def released_sums(made):
    """The sum of every position, naively."""
    return torch.stack([
        (q * naive_losses.naive_released_advantage(p, r, label, END)).sum()
        for q, p, r, label in zip(*naive_losses.distributions(made), made["labels"], strict=True)
    ])  # fmt: skip


def test_as_released_the_references_top_fifty_and_one_in_ten_million_are_the_least_that_counts(written):
    tops = [set(said.topk(50).indices.tolist()) for each in naive_losses.distributions(written)[1:] for said in each]
    assert any(p - r for p, r in zip(tops[:12], tops[12:], strict=True))  # or the fallback was not tried
    steep = {**written, "teacher_head": 9 * written["teacher_head"], "reference_head": 9 * written["reference_head"]}
    assert float(naive_losses.distributions(steep)[1].min()) < 1e-9  # or the floor was not tried
    for given in (written, steep):
        assert_close([adpa(given, as_released=True, end_token=END)[1].expected_advantage], [released_sums(given)])


def test_as_released_means_are_taken_over_the_tokens_of_a_response_and_then_over_responses(made):
    of_chosen, of_written = [], []
    for number in range(6):
        own = part_of(made, made["response"] == number)
        if own["chosen"].any():
            q = torch.softmax(own["hidden"] @ own["head"].T, -1)
            of_chosen.append(float(-q.gather(1, own["labels"][:, None]).log().mean()))
        else:
            of_written.append(float(released_sums(own).mean()))
    expected = sum(of_chosen) / len(of_chosen) - 1.5 * sum(of_written) / len(of_written)
    options = {"as_released": True, "end_token": END, "response": made["response"]}
    loss, info = adpa(made, **options)
    assert float(loss) == pytest.approx(expected, abs=1e-9)
    assert info.log_probs.tolist() == adpa(made)[1].log_probs.tolist()
    halves = [part_of(made, made["response"] < 2), part_of(made, made["response"] >= 2)]
    parts = [adpa(half, **{**options, "response": half["response"]}, items=(3, 3))[0] for half in halves]
    assert float(sum(parts)) == pytest.approx(expected, abs=1e-9)
    alone, _ = adpa(own := part_of(made, made["chosen"]), **{**options, "response": own["response"]}, items=(3, 0))
    assert float(alone) == pytest.approx(sum(of_chosen) / 3, abs=1e-9)


# What both teachers share


def test_under_autocast_heads_are_cast_once_and_stay_shared(written, device):
    own = Full(*(written[name].float() for name in ("teacher_hidden", "teacher_head")))
    shared = own._replace(hidden=written["reference_hidden"].float())
    assert signals.cast_heads(own, shared)[0].head is own.head
    with torch.autocast(device, torch.bfloat16):
        first, second = signals.cast_heads(own, shared)
    assert first.head is second.head
    assert first.head.dtype == torch.bfloat16
