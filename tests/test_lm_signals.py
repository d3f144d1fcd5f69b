"""What teachers say of each token: whole distributions, top-k with a tail, and the advantage between two of them."""

import pytest
import torch
from naive_losses import assert_close, made_on, top_k

from alignkd_lab.lm import signals
from alignkd_lab.lm.signals import Full, TopK, advantage, prepared, released_advantage

ROWS = slice(3, 9)


@pytest.fixture
def made(device):
    return made_on(device)


@pytest.fixture
def student(made):
    return torch.log_softmax(made["hidden"][ROWS] @ made["head"].T, -1)


@pytest.fixture
def teacher(made):
    return Full(made["teacher_hidden"], made["teacher_head"])


@pytest.fixture
def reference(made):
    return Full(made["reference_hidden"], made["reference_head"])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_a_whole_teacher_says_its_softmax_at_a_temperature(temperature, teacher, student):
    expected = torch.log_softmax(teacher.hidden[ROWS] @ teacher.head.T / temperature, -1)
    assert_close([teacher.over_vocabulary(ROWS, student, temperature)], [expected])


def test_signals_know_how_many_rows_they_have(teacher):
    assert teacher.rows == top_k(teacher.hidden, teacher.head, 3).rows == 23


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_top_k_says_a_distribution_whose_tail_has_the_students_shape(temperature, teacher, student):
    kept = top_k(teacher.hidden, teacher.head, 5)
    said = kept.over_vocabulary(ROWS, student, temperature)
    assert_close([said.logsumexp(-1)], [torch.zeros(6, dtype=torch.float64)])
    tail = torch.ones_like(said, dtype=torch.bool).scatter_(1, kept.ids[ROWS], False)
    ratio = (said - student)[tail].view(6, -1)
    assert_close([ratio], [ratio[:, :1].expand_as(ratio)])


def test_top_k_at_temperature_one_keeps_its_tokens_and_its_tails_mass(teacher, student):
    kept = top_k(teacher.hidden, teacher.head, 5)
    said = kept.over_vocabulary(ROWS, student)
    assert_close([said.gather(1, kept.ids[ROWS])], [kept.log_probs[ROWS]])
    assert_close([said.scatter(1, kept.ids[ROWS], -torch.inf).logsumexp(-1)], [kept.log_tail[ROWS]])


def test_a_top_k_tail_is_exact_at_any_temperature_where_the_student_is_the_teacher(teacher):
    kept = top_k(teacher.hidden, teacher.head, 5)
    for temperature in (0.6, 1.0, 2.0):
        exact = teacher.over_vocabulary(ROWS, None, temperature)
        assert_close([kept.over_vocabulary(ROWS, exact, temperature)], [exact])


def test_reading_a_top_k_teacher_leaves_the_students_log_probs_alone(teacher, student):
    before = student.clone()
    top_k(teacher.hidden, teacher.head, 5).over_vocabulary(ROWS, student, 2.0)
    assert torch.equal(student, before)


def test_a_tail_without_mass_is_very_small_and_finite(teacher, student):
    kept = top_k(teacher.hidden, teacher.head, 5)
    said = kept._replace(log_tail=torch.full_like(kept.log_tail, -torch.inf)).over_vocabulary(ROWS, student)
    assert float(said.min()) > -200
    assert_close([said.scatter(1, kept.ids[ROWS], -torch.inf).exp().sum(-1)], [torch.zeros(6)])


def test_the_advantage_is_the_difference_of_log_probabilities(teacher, reference, student):
    a = advantage(teacher, reference, ROWS, student)
    expected = [torch.log_softmax(said.hidden[ROWS] @ said.head.T, -1) for said in (teacher, reference)]
    assert_close([a], [expected[0] - expected[1]])


def with_norm(said: Full) -> Full:
    return said._replace(log_norm=(said.hidden @ said.head.T).logsumexp(-1))


def test_teachers_that_share_a_head_need_one_product(teacher, reference, student, monkeypatch):
    pair = teacher, reference._replace(head=teacher.head)
    calls = []
    product = signals.logits
    monkeypatch.setattr(signals, "logits", lambda *arguments: calls.append(arguments) or product(*arguments))
    two = advantage(*pair, ROWS, student)
    assert len(calls) == 2
    one = advantage(*map(with_norm, pair), ROWS, student)
    assert len(calls) == 3
    assert_close([one], [two])


def test_in_the_tail_of_both_teachers_the_advantage_is_the_ratio_of_tail_masses(student):
    ids = torch.tensor([[0, 1]] * 6, device=student.device)
    top = torch.full((6, 2), -1.5, dtype=torch.float64, device=student.device)
    tails = [torch.full_like(top[:, 0], value) for value in (-0.7, -1.1)]
    a = advantage(*(TopK(ids, top, tail) for tail in tails), slice(6), student)
    assert_close([a[:, :2], a[:, 2:]], [torch.zeros_like(a[:, :2]), torch.full_like(a[:, 2:], 0.4)])


def test_the_released_advantage_lies_in_the_clamp_on_fifty_tokens_and_is_zero_elsewhere(teacher, reference, student):
    a = released_advantage(teacher, reference, ROWS, student)
    support = (teacher.hidden[ROWS] @ teacher.head.T).topk(50).indices
    assert bool((a.gather(1, support) >= 1e-8).all())
    assert float(a.max()) == 1 - 1e-8
    assert float(a.scatter(1, support, 0).abs().max()) == 0


def test_under_autocast_heads_are_cast_once_and_stay_shared(teacher, reference, device):
    pair = Full(teacher.hidden.float(), teacher.head.float()), top_k(reference.hidden, reference.head, 3)
    shared = pair[0]._replace(hidden=reference.hidden.float())
    assert prepared(*pair, shared)[0].head is pair[0].head
    with torch.autocast(device, torch.bfloat16):
        first, kept, second = prepared(*pair, shared)
    assert first.head is second.head
    assert first.head.dtype == torch.bfloat16
    assert kept is pair[1]


def test_bfloat16_states_under_a_float32_head_are_widened(teacher, student):
    said = Full(teacher.hidden.bfloat16(), teacher.head.float()).over_vocabulary(ROWS, student)
    exact = Full(teacher.hidden.bfloat16().double(), teacher.head).over_vocabulary(ROWS, student)
    assert said.dtype == torch.float32
    assert_close([said], [exact], 1e-5)
