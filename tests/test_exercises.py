"""Exercises: solutions are right and pass, each typical wrong answer gets its own hint, answers are kept whole."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alignkd_lab import paths
from alignkd_lab.course.exercises import bank, store
from alignkd_lab.course.exercises.ask import check, given, solution
from alignkd_lab.course.exercises.store import kept_answers
from alignkd_lab.course.exercises.tasks import Task
from alignkd_lab.course.shipped import recorded, recorded_gaussians
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.pipelines import PIPELINES, Align, Distil

TASKS = {id: asked for id, asked in bank.TASKS.items() if isinstance(asked, Task)}
PREDICTIONS = [id for id, asked in TASKS.items() if asked.prediction]
EXERCISES = [id for id in TASKS if id not in PREDICTIONS]


@pytest.fixture(autouse=True)
def _own_answers(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path / "learner"))


# Solutions


@pytest.mark.parametrize("id", EXERCISES)
def test_every_printed_solution_runs_and_passes(id, capsys):
    solution(id)
    source, _, _ = capsys.readouterr().out.partition("\n>>>")
    exec(source, namespace := {})
    data = [TASKS[id].given()] if TASKS[id].given else []
    assert check(id, namespace[TASKS[id].solve.__name__](*data)).right is True


def test_the_recorded_outcomes_are_those_that_the_course_speaks_of():
    outcomes = {"order_guess": "A-K", "rescue": "kd_then_align_high_temperature", "boundary": "s=1, beta=0.5",
                "eight_components": "precision falls, recall falls"}  # fmt: skip
    assert {id: TASKS[id].outcome() for id in outcomes} == outcomes


def test_the_written_pipeline_is_the_package_s_own_whatever_its_stages_are_called():
    mine = (Distil("first", teacher="base"), Align("second", init="first", reference="base", sampler="first"))
    assert check("base_reference_pipeline", mine).right is True
    assert check("base_reference_pipeline", PIPELINES["kd_then_align_base_reference"]).right is True
    assert "K-A itself" in check("base_reference_pipeline", PIPELINES["kd_then_align"]).text


# Wrong answers


@pytest.mark.parametrize("id", EXERCISES)
def test_each_typical_wrong_answer_gets_its_own_hint_and_any_other_the_general_one(id):
    for wrong, hint in TASKS[id].wrong():
        feedback = check(id, wrong)
        assert feedback.right is False
        assert feedback.text == f"Not yet. {hint}"
    general = "Answer one of " if TASKS[id].options else TASKS[id].hint  # also of a method in other letters
    assert all(check(id, other).text.startswith(f"Not yet. {general}") for other in (-12345.0, "DCKD", [1]))
    for blank in (None, ..., "", "  ", float("nan")):
        feedback = check(id, blank)
        assert feedback.right is None
        assert str(feedback).startswith(f"Not answered yet. {TASKS[id].question}")
        assert "<p" in feedback._repr_html_()


def test_answers_as_learners_round_them_are_recognised():
    for id, written in (("smallest_reward", 2.30), ("draws_for_sight", 299), ("satisfied_margin", -14.1)):
        assert check(id, written).right is True
    for id, written, said in (
        ("smallest_reward", 4.60, "Multiply by the KL weight"),
        ("smallest_reward", 1.00, "base 10"),
        ("smallest_reward", -2.30, "sign"),
        ("draws_for_sight", 100, "mean wait"),
        ("satisfied_margin", 5.9, "reference's own margin"),
    ):
        assert said in check(id, written).text


def test_an_answer_of_another_kind_is_wrong_and_no_error_and_may_be_a_tensor_an_array_or_a_list():
    for answer in ("two", [1.0, 2.0], {}, object(), 10**400):
        assert check("smallest_reward", answer).right is False
        assert check("base_reference_pipeline", answer).right is False
    low, high = TASKS["paired_interval"].outcome()
    for answer in ([low, high], np.array([low, high]), torch.tensor([low, high])):
        assert check("paired_interval", answer).right is True
    assert check("paired_interval", (high, low)).right is False
    exact = TASKS["smallest_reward"].outcome()
    assert check("smallest_reward", torch.tensor(exact, requires_grad=True)).right is True
    assert check("smallest_reward", f"{exact:.6f}".replace(".", ",")).right is True


def test_a_number_is_right_up_to_the_tolerance_which_is_stated():
    assert "0.5 %" in check("smallest_reward").text
    assert "whole number" in check("draws_for_sight").text
    exact, tolerance = TASKS["smallest_reward"].outcome(), TASKS["smallest_reward"].tolerance
    assert check("smallest_reward", exact * (1 + 0.99 * tolerance)).right is True
    assert check("smallest_reward", exact * (1 + 1.01 * tolerance)).right is False
    assert check("draws_for_sight", 298.8).right is False


# The bank


def test_every_lesson_has_a_prediction_which_is_a_choice_or_a_number_and_an_exercise_knows_its_mistakes():
    saved = {path.name[:2] for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")}
    assert {TASKS[id].notebook for id in PREDICTIONS} == saved - {"10"}  # the evidence asks nothing
    for id, asked in TASKS.items():
        solved, wrong = asked.outcome(), {answer for answer, _ in asked.wrong()} if asked.options else set()
        if id in PREDICTIONS:
            assert not asked.mistakes
            assert solved in asked.options if asked.options else isinstance(solved, float)
        elif asked.options:
            assert wrong == set(asked.options) - {solved} or asked.hint


def test_unknown_exercises_and_missing_data_are_named():
    with pytest.raises(UnknownName, match="smallest_reward"):
        check("largest_reward", 1)
    with pytest.raises(BadInput, match="use predict"):
        check("first_draw", "same")
    with pytest.raises(BadInput, match="no data"):
        given("smallest_reward")
    with pytest.raises(UnknownName, match="gaussians-pilot, gaussians-split"):
        recorded("gaussians")
    with pytest.raises(BadInput, match="beta=7"):
        recorded_gaussians(beta=7)


# Kept answers


def test_answers_lie_apart_from_the_project_and_are_kept_and_forgotten_one_by_one(tmp_path, monkeypatch):
    assert kept_answers() == {}
    store.keep_answer("first_draw", "sooner", "certain")
    store.keep_answer("rare_weight", 0.02)
    assert kept_answers() == {
        "first_draw": {"answer": "sooner", "sure": "certain"},
        "rare_weight": {"answer": 0.02, "sure": None},
    }
    store.forget_answer("first_draw")
    store.forget_answer("never_answered")
    assert list(kept_answers()) == ["rare_weight"]
    assert [path.name for path in (tmp_path / "learner").iterdir()] == ["answers.json"]
    assert paths.learner_folder() == tmp_path / "learner"
    monkeypatch.delenv("ALIGNKD_ANSWERS")
    assert paths.learner_folder() != paths.cache_folder()
    assert paths.checkout_folder() not in paths.learner_folder().parents


def refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_answers_that_the_disk_does_not_give_are_not_written_over(monkeypatch):
    store.keep_answer("first_draw", "same")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        assert kept_answers() == {}
        with pytest.raises(PermissionError):
            store.keep_answer("rare_weight", 0.02)
    assert list(kept_answers()) == ["first_draw"]


def test_a_damaged_file_is_set_aside_and_the_course_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "learner"
    folder.mkdir()
    for content in (b"{torn", b"[]", b'{"first_draw": 3}', b"\xff\xfe"):
        (folder / "answers.json").write_bytes(content)
        with monkeypatch.context() as patch:
            patch.setattr(store.os, "replace", refuse)
            assert kept_answers() == {}
        assert kept_answers() == {}
        assert (folder / "answers.damaged").read_bytes() == content
    store.keep_answer("first_draw", "same")
    assert json.loads((folder / "answers.json").read_text())["first_draw"]["answer"] == "same"
