"""Functions that learners write: ours pass, each typical mistake gets its own hint, and errors are told."""

import pytest
import torch

from alignkd_lab import nano
from alignkd_lab.course.exercises.ask import check, solution
from alignkd_lab.course.exercises.bank import TASKS
from alignkd_lab.course.exercises.write import Written, same

WRITTEN = {id: asked for id, asked in TASKS.items() if isinstance(asked, Written)}


def test_every_notebook_from_01_to_06_has_one():
    assert [asked.notebook for asked in WRITTEN.values()] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("id", WRITTEN)
def test_the_printed_solution_runs_on_its_own_and_passes(id, capsys):
    solution(id)
    exec(capsys.readouterr().out, namespace := {})
    assert check(id, namespace[WRITTEN[id].solve.__name__]).right is True


@pytest.mark.parametrize("id", WRITTEN)
def test_each_mistake_gets_a_hint_of_its_own(id):
    asked = WRITTEN[id]
    for mistake, hint in asked.mistakes.items():
        feedback = check(id, asked.mistaken(mistake))
        assert (feedback.right, feedback.text) == (False, f"Not yet. {hint}"), mistake
    assert len({asked.hint, *asked.mistakes.values()}) == len(asked.mistakes) + 1


@pytest.mark.parametrize("id", WRITTEN)
def test_no_answer_is_none_an_ellipsis_or_a_function_that_returns_nothing(id):
    for blank in (None, ..., lambda *given: None, lambda *given: ...):
        feedback = check(id, blank)
        assert feedback.right is None
        assert WRITTEN[id].question in feedback.text


@pytest.mark.parametrize("id", WRITTEN)
def test_a_function_that_writes_into_its_arguments_spoils_nothing(id):
    asked = WRITTEN[id]
    for call in asked.inputs():
        for each in call:
            if isinstance(each, torch.Tensor):
                each.detach().zero_()
    assert check(id, asked.solve).right is True
    assert same(asked.outcomes(asked.solve), asked.outcomes(asked.solve))


def test_what_the_function_raises_is_told_with_its_line_and_a_wrong_shape_is_named():
    def broken(chosen, rejected, reference_chosen, reference_rejected, beta):
        margin = chosen - rejected
        return margin @ torch.zeros(99, dtype=torch.float64)

    feedback = check("write_dpo_loss", broken)
    assert feedback.right is False
    assert "RuntimeError in “return margin @ torch.zeros(99, dtype=torch.float64)”" in feedback.text
    assert "\n" not in feedback.text
    assert "TypeError" in check("write_dpo_loss", lambda chosen, rejected: chosen).text
    assert "without calling" in check("write_dpo_loss", torch.tensor(0.7)).text
    text = check("write_dpo_loss", lambda chosen, *rest: chosen[:2]).text
    assert "[2]" in text
    assert "a single number" in text
    for id, unfinished in (("write_dpo_loss", "0.7"), ("write_tilt", ()), ("write_m_step", {}),
                           ("write_m_step", nano.Mixture(torch.zeros(3), None, None))):  # fmt: skip
        assert "returns what is no number; wanted: " in check(id, lambda *given, made=unfinished: made).text


def test_a_right_value_without_its_gradient_is_not_right_and_any_other_wrong_function_gets_the_general_hint():
    loss = WRITTEN["write_kd_loss"].solve
    assert "no gradient" in check("write_kd_loss", lambda *given: loss(*given).item()).text
    assert "its gradient is not" in check("write_kd_loss", lambda *given: 2 * loss(*given) - loss(*given).detach()).text
    loss = WRITTEN["write_adpa_loss"].solve
    assert check("write_adpa_loss", lambda *given: 3 * loss(*given)).text.endswith(WRITTEN["write_adpa_loss"].hint)


def test_what_the_page_could_not_use_is_not_right():
    ours = WRITTEN["write_m_step"].solve
    assert "as a tuple; return a Mixture" in check("write_m_step", lambda *given: tuple(ours(*given))).text

    def in_place(reference, rewards, beta):
        return reference.log_().add_(rewards / beta).softmax(-1)

    assert "writes into what it is given" in check("write_tilt", in_place).text


def test_other_ways_to_write_it_are_right():
    def leave_one_out(log_probs, reference_log_probs, rewards, beta):
        shaped = (rewards - beta * (log_probs - reference_log_probs)).detach()
        others = (shaped.sum() - shaped) / (len(shaped) - 1)
        return -((shaped - others) * log_probs).mean()

    def single_precision(logits, teacher_logits, direction):
        return nano.kd_loss(logits.float(), teacher_logits.float(), direction)

    def unnormalised(data, shares):
        found = nano.maximise(data, shares)
        return found._replace(logits=found.logits + 3)

    assert check("write_rlhf_loss", leave_one_out).right is True
    assert check("write_kd_loss", single_precision).right is True
    assert check("write_m_step", unnormalised).right is True
    assert check("write_tilt", lambda reference, rewards, beta: (reference.log() + rewards / beta).softmax(-1)).right
