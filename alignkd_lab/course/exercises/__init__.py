"""Predictions and exercises: asking, checking, showing the solution, and keeping what the learner answered.

    predict("first_draw").then(figure)      a guess first, then the picture
    check("smallest_reward", 2.3)           right, or the hint of that wrong answer
    solution("smallest_reward")             prints the tested solution
    given("dpo_loss")                       the data of an exercise
    answers("01")                           the notebook's predictions beside the outcomes

Each notebook's tasks stand in the module named after it. Answers to predictions stay on the learner's own disk.
"""

from __future__ import annotations

import functools
import html
import inspect
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.paths import data_folder, learner_folder
from alignkd_lab.pipelines import A_K, K_A

if TYPE_CHECKING:
    from alignkd_lab.course.exercises.tasks import Task
    from alignkd_lab.course.widgets.prediction import Outcomes, Prediction


# Asking -------------------------------------------------------------------------------------------------


def task(id: str) -> Task:
    """The prediction or exercise of this name. Raises UnknownName."""
    from alignkd_lab.course.exercises.bank import TASKS

    if id not in TASKS:
        raise UnknownName("exercise", id, TASKS)
    return TASKS[id]


def predict(id: str) -> Prediction:
    """A question with fields to answer it, to be shown as a cell's last expression.

    `predict(id).then(figure)` keeps a picture back until there is an answer or "Show me" was pressed;
    `figure` takes nothing and returns an Explorer, a Picture or a matplotlib Figure. Nothing waits: a cell
    runs on without an answer, and on a page without a kernel question and picture stand one above the other.

    Raises:
        UnknownName: no such task.
        BadInput: the task is an exercise.
    """
    from alignkd_lab.course.widgets.prediction import Prediction

    return Prediction(id, task(id))


def answers(notebook: str) -> Outcomes:
    """The notebook's predictions (`"01"`), what the learner said, and what came out.

    Raises UnknownName for a notebook without predictions.
    """
    from alignkd_lab.course.widgets.prediction import Outcomes

    return Outcomes(notebook)


def given(id: str) -> dict:
    """The data of an exercise, by name, made anew at every call. Raises BadInput where there is none."""
    make = task(id).given
    if make is None:
        raise BadInput(f"exercise {id!r} has no data of its own: all it needs stands in its question")
    return make()


# Checking -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feedback:
    """`right` is None while there is no answer; shown as its text."""

    right: bool | None
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        # Plain output would be broken in the middle of a word.
        return f'<p style="max-width:62em">{html.escape(self.text)}</p>'


def check(id: str, answer: Any = None) -> Feedback:
    """What to say to an answer: right, the hint of that wrong answer, or a general hint.

    None, `...`, an empty text and NaN count as no answer yet. Numbers may be off by the task's tolerance.
    """
    asked = task(id)
    if _blank(answer):
        return Feedback(None, f"Not answered yet. {asked.question}{tolerance_note(asked)}")
    if same(asked, answer, asked.solve()):
        return Feedback(True, f"Right. {asked.because}")
    for distractor in asked.distractors:
        if same(asked, answer, distractor.answer() if callable(distractor.answer) else distractor.answer):
            return Feedback(False, f"Not yet. {distractor.hint}")
    return Feedback(False, f"Not yet. {asked.hint}")


def same(asked: Task, answer: Any, expected: Any) -> bool:
    """Whether an answer is the expected one: numbers within the tolerance, stages whatever their names."""
    if isinstance(expected, str):
        return isinstance(answer, str) and answer.strip() == expected
    if isinstance(expected, tuple) and not isinstance(expected[0], float):
        return _unnamed(answer) == _unnamed(expected)
    try:
        found, wanted = np.asarray(answer, dtype=float), np.asarray(expected, dtype=float)
    except (TypeError, ValueError):
        return False
    if found.shape != wanted.shape:
        return False
    return bool((np.abs(found - wanted) <= asked.tolerance * np.abs(wanted).max()).all())


def tolerance_note(asked: Task) -> str:
    """How exact a number has to be, in words; nothing for other answers."""
    expected = asked.solve()
    if isinstance(expected, int):
        return " (A whole number.)"
    numbers = isinstance(expected, float) or (isinstance(expected, tuple) and isinstance(expected[0], float))
    return f" (Within {100 * asked.tolerance:g} % is close enough.)" if numbers else ""


def solution(id: str) -> None:
    """Print the solution's source and what it returns; where a prediction was measured, how it is read."""
    solve = task(id).solve
    print(f"{inspect.getsource(solve)}\n>>> {solve.__name__}()\n{solve()!r}")


def _blank(answer: Any) -> bool:
    if answer is None or answer is ... or (isinstance(answer, str) and not answer.strip()):
        return True
    return isinstance(answer, float) and math.isnan(answer)


def _unnamed(stages: Any) -> Any:
    """Stages with their names replaced by their places, so that a learner may call them anything."""
    from alignkd_lab.pipelines import ROLES, Stage

    stages = stages if isinstance(stages, (tuple, list)) else (stages,)
    if not all(isinstance(stage, Stage) for stage in stages):
        return None
    places = {stage.name: place for place, stage in enumerate(stages)}

    def unnamed(stage: Any) -> dict:
        named = {role: places.get(policy, policy) for role, policy in vars(stage).items() if role in ROLES}
        return {"kind": stage.kind, **vars(stage), **named, "name": None}

    return [unnamed(stage) for stage in stages]


# What the learner answered ------------------------------------------------------------------------------


def kept_answers() -> dict[str, dict]:
    """`{id: {"answer": value or None, "sure": words or None}}`; an answer of None was skipped by "Show me".

    A file that cannot be read is set aside, so that one bad day on the disk does not lock the course.
    """
    path = _answers_file()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    except ValueError:
        text = ""
    try:
        kept = json.loads(text)
    except ValueError:
        kept = None
    if isinstance(kept, dict) and all(isinstance(entry, dict) for entry in kept.values()):
        return kept
    os.replace(path, path.with_suffix(".damaged"))
    return {}


def keep_answer(id: str, answer: Any, sure: str | None = None) -> None:
    """Write an answer to the learner's disk, whole or not at all. Raises OSError where that cannot be done."""
    _write({**kept_answers(), id: {"answer": answer, "sure": sure}})


def forget_answer(id: str) -> None:
    """As if the question had never been answered. Raises OSError where that cannot be done."""
    kept = kept_answers()
    if kept.pop(id, None) is not None:
        _write(kept)


def _write(kept: dict[str, dict]) -> None:
    path = _answers_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix="writing-", encoding="utf-8", delete=False) as file:
        json.dump(kept, file, indent=1)
    os.replace(file.name, path)


def _answers_file() -> Path:
    return learner_folder() / "answers.json"


# What was measured --------------------------------------------------------------------------------------


def recorded_gaussians(algorithm: str = "rlhf", beta: float = 0.5, sharpening: float = 2.0) -> dict:
    """The recorded run of the Gaussian world with these settings. Raises BadInput where there is none."""
    wanted = {"beta": beta, "sharpening": sharpening}
    for run in _recorded_runs():
        settings = run["settings"]
        if run["world"] == "mog" and run["algorithm"] == algorithm and wanted.items() <= settings.items():
            return run
    raise BadInput(f"no recorded run of the Gaussian world with {algorithm}, beta {beta:g}, sharpening {sharpening:g}")


def recorded_smollm2(target: str | None = None) -> dict:
    """The study: of the recorded runs of the language world the one with the most seeds of both orders.

    Where several have as many, the one with the most pipelines, then the one under DPO: whatever came out. With
    `target`, of the runs with that target. Raises BadInput where there is none.
    """

    def size(run: dict) -> tuple[int, int, bool]:
        held = [set(record["pipelines"]) for record in run["records"] if {K_A, A_K} <= set(record["pipelines"])]
        return len(held), len(set.intersection(*held)) if held else 0, run["algorithm"] == "dpo"

    runs = [run for run in _recorded_runs() if run["world"] == "lm" and run["preset"] != "tiny" and size(run)[0]]
    runs = [run for run in runs if target in (None, run["target"])]
    if not runs:
        words, option = (f" with the target {target}", f" --set target={target}") if target else ("", "")
        raise BadInput(
            f"no recorded run of the language world{words} holds both orders: "
            f"make one with `alignkd run --world lm{option}`"
        )
    return max(runs, key=size)


@functools.cache
def _recorded_runs() -> list[dict]:
    from alignkd_lab.records import load_records
    from alignkd_lab.runs import group_runs

    return group_runs(load_records(data_folder() / "records"))


def measured_influence() -> list[float]:
    """1 minus the mean cosine similarity of what enters and what leaves each of the base's layers."""
    return json.loads((data_folder() / "student" / "recipe.json").read_text())["block_influence"]
