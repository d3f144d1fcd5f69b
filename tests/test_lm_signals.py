"""What teachers say of each token: whole distributions, and the advantage between two of them."""

import pytest
import torch
from naive_losses import assert_close, made_on

from alignkd_lab.lm import teachers as signals
from alignkd_lab.lm.teachers import Full, advantage, cast_heads, released_advantage

ROWS = slice(3, 9)


@pytest.fixture
def made(device):
    return made_on(device)


@pytest.fixture
def teacher(made):
    return Full(made["teacher_hidden"], made["teacher_head"])


@pytest.fixture
def reference(made):
    return Full(made["reference_hidden"], made["reference_head"])


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_a_whole_teacher_says_its_softmax_at_a_temperature(temperature, teacher):
    expected = torch.log_softmax(teacher.hidden[ROWS] @ teacher.head.T / temperature, -1)
    assert_close([teacher.over_vocabulary(ROWS, temperature)], [expected])


def test_signals_know_how_many_rows_they_have(teacher):
    assert teacher.rows == 23


def test_the_advantage_is_the_difference_of_log_probabilities(teacher, reference):
    a = advantage(teacher, reference, ROWS)
    expected = [torch.log_softmax(said.hidden[ROWS] @ said.head.T, -1) for said in (teacher, reference)]
    assert_close([a], [expected[0] - expected[1]])


def with_norm(said: Full) -> Full:
    return said._replace(log_norm=(said.hidden @ said.head.T).logsumexp(-1))


def test_teachers_that_share_a_head_need_one_product(teacher, reference, monkeypatch):
    pair = teacher, reference._replace(head=teacher.head)
    calls = []
    product = signals.logits
    monkeypatch.setattr(signals, "logits", lambda *arguments: calls.append(arguments) or product(*arguments))
    two = advantage(*pair, ROWS)
    assert len(calls) == 2
    one = advantage(*map(with_norm, pair), ROWS)
    assert len(calls) == 3
    assert_close([one], [two])


def test_the_released_advantage_lies_in_the_clamp_on_fifty_tokens_and_is_zero_elsewhere(teacher, reference):
    a = released_advantage(teacher, reference, ROWS)
    support = (teacher.hidden[ROWS] @ teacher.head.T).topk(50).indices
    assert bool((a.gather(1, support) >= 1e-8).all())
    assert float(a.max()) == 1 - 1e-8
    assert float(a.scatter(1, support, 0).abs().max()) == 0


def test_under_autocast_heads_are_cast_once_and_stay_shared(teacher, reference, device):
    own = Full(teacher.hidden.float(), teacher.head.float())
    shared = own._replace(hidden=reference.hidden.float())
    assert cast_heads(own, shared)[0].head is own.head
    with torch.autocast(device, torch.bfloat16):
        first, second = cast_heads(own, shared)
    assert first.head is second.head
    assert first.head.dtype == torch.bfloat16


def test_bfloat16_states_under_a_float32_head_are_widened(teacher):
    said = Full(teacher.hidden.bfloat16(), teacher.head.float()).over_vocabulary(ROWS)
    exact = Full(teacher.hidden.bfloat16().double(), teacher.head).over_vocabulary(ROWS)
    assert said.dtype == torch.float32
    assert_close([said], [exact], 1e-5)
