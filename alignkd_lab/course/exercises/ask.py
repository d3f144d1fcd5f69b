"""Predictions and exercises: asking, checking, and showing the solution.

predict("first_draw").then(figure)      a guess first, then the picture
check("smallest_reward", 2.3)           right, or the hint of that wrong answer
check("write_dpo_loss", my_dpo_loss)    the same of a function, on inputs that it has not seen
solution("smallest_reward")             prints the tested solution
given("paired_interval")                the data of an exercise
answers("01")                           the notebook's predictions beside the outcomes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignkd_lab.course.exercises.bank import task
from alignkd_lab.course.exercises.prediction import Outcomes, Prediction
from alignkd_lab.course.widgets.view import paragraph
from alignkd_lab.errors import BadInput


def predict(id: str) -> Prediction:
    """A question with fields to answer it, to be shown as a cell's last expression.

    `predict(id).then(figure)` keeps a picture back until there is an answer or "Show me" was pressed;
    `figure` takes nothing and returns a Chart, a Picture or a matplotlib Figure. Nothing waits: a cell
    runs on without an answer, and on a page without a kernel question and picture stand one above the other.

    Raises:
        UnknownName: no such task.
        BadInput: the task is an exercise.
    """
    return Prediction(id)


def answers(notebook: str) -> Outcomes:
    """The notebook's predictions (`"01"`), what the learner said, and what came out.

    Raises UnknownName for a notebook without predictions.
    """
    return Outcomes(notebook)


def given(id: str) -> dict:
    """The data of an exercise, by name, made anew at every call. Raises BadInput where there is none."""
    make = task(id).given
    if make is None:
        raise BadInput(f"exercise {id!r} has no data of its own: all it needs stands in its question")
    return make()


@dataclass(frozen=True)
class Feedback:
    """`right` is None while there is no answer; shown as its text."""

    right: bool | None
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        # Plain output would be broken in the middle of a word.
        return paragraph(self.text)


def check(id: str, answer: Any = None) -> Feedback:
    """What to say to an answer: right, the hint of that wrong answer, or a general hint.

    None, `...`, an empty text and NaN count as no answer yet, and so does a function that returns nothing. Numbers may
    be off by the task's tolerance. An error that a function raises is told, not raised. Raises BadInput for a
    prediction.
    """
    asked = task(id)
    if asked.prediction:
        raise BadInput(f"{id!r} is a prediction, not an exercise: use predict({id!r})")
    return Feedback(*asked.judge(answer))


def solution(id: str) -> None:
    """Print the solution's source and what it returns; of a function that the learner writes, the source alone."""
    print(task(id).solution(id))
