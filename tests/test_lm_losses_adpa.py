"""ADPA: its slope and diagnostics, heads that teachers share, and what the published code does instead."""

import pytest
import torch
from naive_losses import (
    END,
    VOCABULARY,
    adpa,
    assert_close,
    in_dtype,
    made_on,
    naive_released_advantage,
    part_of,
    teachers,
    value_and_slopes,
)

from alignkd_lab.lm import teachers as signals
from alignkd_lab.lm.teachers import Full


@pytest.fixture
def made(device):
    """Sampled tokens only, so that the loss is the advantage term."""
    everything = made_on(device)
    return part_of(everything, ~everything["chosen"])


def distributions(made):
    """q, p_dpo and p_ref at every position, [N, V] each."""
    q = torch.softmax(made["hidden"] @ made["head"].T, -1)
    return q, *(torch.softmax(signal.hidden @ signal.head.T, -1) for signal in teachers(made))


def slope_by_logits(made, **options):
    """The gradient of the loss by the logits: a head that is the identity, so that hidden states are logits."""
    logits = (made["hidden"] @ made["head"].T).requires_grad_()
    identity = torch.eye(VOCABULARY, dtype=logits.dtype, device=logits.device)
    adpa({**made, "hidden": logits, "head": identity}, **options)[0].backward()
    return logits.grad


def test_the_slope_is_the_policy_times_the_centred_advantage(made):
    q, p, r = distributions(made)
    a = p.log() - r.log()
    expected = -1.6 / len(q) * q * (a - (q * a).sum(-1, keepdim=True))
    assert_close([slope_by_logits(made, gamma=1.6)], [expected])


def test_a_constant_at_each_state_changes_no_gradient(made):
    teacher, reference = teachers(made)
    shift = torch.linspace(-3, 3, teacher.rows, dtype=torch.float64, device=teacher.hidden.device)
    shared = [
        Full(signal.hidden, made["teacher_head"], shift * sign) for signal, sign in ((teacher, 1), (reference, -1))
    ]
    exact = [Full(signal.hidden, signal.head) for signal in shared]
    moved, still = (slope_by_logits({**made, "teachers": pair}) for pair in (shared, exact))
    assert_close([moved], [still])


def test_one_product_of_a_shared_head_gives_the_same_as_two(made, monkeypatch):
    pair = [Full(said.hidden, made["teacher_head"]) for said in teachers(made)]
    normed = [said._replace(log_norm=(said.hidden @ said.head.T).logsumexp(-1)) for said in pair]
    calls, product = [], signals.logits
    monkeypatch.setattr(signals, "logits", lambda *given: calls.append(given) or product(*given))
    for options in ({}, {"regulariser": "kl", "regulariser_weight": 0.3}):
        two, one = (value_and_slopes(adpa, {**made, "teachers": given}, **options) for given in (pair, normed))
        assert_close(one, two)
    calls.clear()
    signals.advantage(*normed, slice(3, 9))
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["whole", "one head"])
def test_equal_teachers_give_exactly_zero(kind, made):
    single = in_dtype(made, torch.float32)
    teacher, _ = teachers(single)
    equal = Full(teacher.hidden.clone(), teacher.head.clone())
    if kind == "one head":
        norm = (teacher.hidden @ teacher.head.T).logsumexp(-1)
        teacher, equal = teacher._replace(log_norm=norm), Full(equal.hidden, teacher.head, norm)
    for found in value_and_slopes(adpa, {**single, "teachers": (teacher, equal)}, chunk=5):
        assert float(found.detach().abs().max()) == 0


def test_the_diagnostics_are_those_of_the_definitions(made):
    _, info = adpa(made, chunk=5)
    q, p, r = distributions(made)
    a = p.log() - r.log()
    assert_close([info.expected_advantage], [(q * a).sum(-1)])
    assert_close([info.largest_advantage, info.student_entropy], [a.max(-1).values, -(q * q.log()).sum(-1)])
    assert info.largest_token.tolist() == a.argmax(-1).tolist()


def released_sums(made):
    """The sum of every position, naively."""
    return torch.stack([
        (q * naive_released_advantage(p, r, label, END)).sum()
        for q, p, r, label in zip(*distributions(made), made["labels"], strict=True)
    ])  # fmt: skip


def test_as_released_a_token_beyond_the_references_top_fifty_counts_as_the_dpo_teachers_last(made):
    tops = [set(said.topk(50).indices.tolist()) for each in distributions(made)[1:] for said in each]
    assert any(p - r for p, r in zip(tops[:12], tops[12:], strict=True))  # or the fallback was not tried
    assert_close([adpa(made, as_released=True, end_token=END)[1].expected_advantage], [released_sums(made)])


def test_as_released_no_probability_counts_as_less_than_one_in_ten_million(made):
    steep = {**made, "teacher_head": 9 * made["teacher_head"], "reference_head": 9 * made["reference_head"]}
    _, info = adpa(steep, as_released=True, end_token=END)
    assert float(distributions(steep)[1].min()) < 1e-9  # or the floor was not tried
    assert_close([info.expected_advantage], [released_sums(steep)])


def test_as_released_means_are_taken_over_the_tokens_of_a_response_and_then_over_responses(device):
    made = made_on(device)
    chosen, sampled = [], []
    for number in range(6):
        own = part_of(made, made["response"] == number)
        if own["chosen"].any():
            q = torch.softmax(own["hidden"] @ own["head"].T, -1)
            chosen.append(float(-q.gather(1, own["labels"][:, None]).log().mean()))
        else:
            sampled.append(float(released_sums(own).mean()))
    expected = sum(chosen) / len(chosen) - 1.5 * sum(sampled) / len(sampled)
    options = {"as_released": True, "end_token": END, "response": made["response"]}
    loss, info = adpa(made, **options)
    assert float(loss) == pytest.approx(expected, abs=1e-9)
    assert info.log_probs.tolist() == adpa(made)[1].log_probs.tolist()
    halves = [part_of(made, made["response"] < 2), part_of(made, made["response"] >= 2)]
    parts = [adpa(half, **{**options, "response": half["response"]}, items=(3, 3))[0] for half in halves]
    assert float(sum(parts)) == pytest.approx(expected, abs=1e-9)


# What both teachers share


def test_under_autocast_heads_are_cast_once_and_stay_shared(made, device):
    own = Full(*(made[name].float() for name in ("teacher_hidden", "teacher_head")))
    shared = own._replace(hidden=made["reference_hidden"].float())
    assert signals.cast_heads(own, shared)[0].head is own.head
    with torch.autocast(device, torch.bfloat16):
        first, second = signals.cast_heads(own, shared)
    assert first.head is second.head
    assert first.head.dtype == torch.bfloat16


def test_bfloat16_states_under_a_float32_head_are_widened(made):
    hidden, head = made["teacher_hidden"].bfloat16(), made["teacher_head"]
    said = Full(hidden, head.float()).over_vocabulary(slice(3, 9))
    assert said.dtype == torch.float32
    assert_close([said], [Full(hidden.double(), head).over_vocabulary(slice(3, 9))], 1e-5)
