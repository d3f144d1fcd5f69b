"""What a prediction or an exercise is made of."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkd_lab.pipelines import ROLES, Stage

Verdict = tuple[bool | None, str]  # whether an answer is right, None while there is none, and what to say to it


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every question has.

    question: in words, complete without the cells around it.
    solve: the solution.
    because: why the right answer is right.
    hint: for a wrong answer that is no typical one.
    given: makes the data of the exercise, by name.
    mistakes: typical wrong answers as what they change in the solution, "right → wrong", or as the answer itself, each
        with its hint.
    prediction: to be answered before its picture is seen.
    notebook: the number of its notebook, such as `00`.
    """

    question: str
    solve: Callable[..., Any]
    because: str
    hint: str = ""
    given: Callable[[], dict] | None = None
    mistakes: Mapping[Any, str] = field(default_factory=dict)
    prediction: bool = False
    notebook: str = ""

    def mistaken(self, mistake: str) -> Callable[..., Any]:
        """`solve` with a mistake in its source."""
        right, _, wrong = mistake.partition(" → ")
        names = dict(vars(inspect.getmodule(self.solve)))
        exec(inspect.getsource(self.solve).replace(right, wrong), names)
        return names[self.solve.__name__]


@dataclass(frozen=True, kw_only=True)
class Task(Asked):
    """A prediction, or an exercise that is answered by a number, a choice or a pipeline.

    solve: a function of the exercise's data, or of nothing where it has none.
    options: of a choice, value to label; empty for a number.
    tolerance: how far a number may be off, as a share of the largest number of the answer.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.01

    def outcome(self) -> Any:
        """The right answer."""
        return self._found(self.solve)

    def right(self, answer: Any) -> bool:
        return self.same(answer, self.outcome())

    def wrong(self) -> Iterator[tuple[Any, str]]:
        """Typical wrong answers with their hints."""
        for mistake, hint in self.mistakes.items():
            edit = isinstance(mistake, str) and " → " in mistake
            yield self._found(self.mistaken(mistake)) if edit else mistake, hint

    def judge(self, answer: Any) -> Verdict:
        """Right, the options where it is none of them, the hint of that wrong answer, or the general one."""
        if _blank(answer):
            return None, f"Not answered yet. {self.asked()}"
        if self.right(answer):
            return True, f"Right. {self.because}"
        if self.options and not (isinstance(answer, str) and answer.strip() in self.options):
            return False, f"Not yet. Answer one of {', '.join(map(repr, self.options))}."
        hints = (hint for wrong, hint in self.wrong() if self.same(answer, wrong))
        return False, f"Not yet. {next(hints, self.hint)}"

    def solution(self, id: str) -> str:
        """The solution's source, and what it returns."""
        call = f"{self.solve.__name__}({f'given({id!r})' if self.given else ''})"
        return f"{inspect.getsource(self.solve)}\n>>> {call}\n{self.outcome()!r}"

    def same(self, answer: Any, expected: Any) -> bool:
        """Whether an answer is the expected one: numbers within the tolerance, stages whatever their names."""
        if isinstance(expected, str):
            return isinstance(answer, str) and answer.strip() == expected
        if hasattr(answer, "detach"):  # a tensor, which may have a gradient or half the digits
            answer = answer.detach().cpu().double()
        if isinstance(expected, tuple) and not isinstance(expected[0], float):
            return _unnamed(answer) == _unnamed(expected)
        try:
            answer = read_number(answer) if isinstance(answer, str) else answer
            found, wanted = np.asarray(answer, dtype=float), np.asarray(expected, dtype=float)
        except (TypeError, ValueError, OverflowError):
            return False
        if found.shape != wanted.shape:
            return False
        tolerance = 0.0 if isinstance(expected, int) else self.tolerance
        return bool((np.abs(found - wanted) <= tolerance * np.abs(wanted).max()).all())

    def _found(self, function: Callable[..., Any]) -> Any:
        return function(self.given()) if self.given else function()

    def asked(self) -> str:
        """The question, and how exact a number has to be."""
        expected = None if self.options else self.outcome()
        if isinstance(expected, int):
            return f"{self.question} (A whole number.)"
        numbers = isinstance(expected, float) or (isinstance(expected, tuple) and isinstance(expected[0], float))
        return self.question + (f" (Within {100 * self.tolerance:g} % is close enough.)" if numbers else "")

    def words(self, answer: Any = None) -> str:
        """An answer in the words of its option or as a number; None is what comes out."""
        if self.options:
            return self.options[self.outcome() if answer is None else answer]
        return f"{self.outcome():.3g}" if answer is None else f"{answer:g}"


def read_number(text: str) -> float | None:
    """A number as people write it: 0.02, 0,02, .02, 2 %, 1/50; None if blank. Raises ValueError.

    So it does for 1,000, which is one to some and a thousand to others.
    """
    text = text.strip().replace("−", "-")
    if not text:
        return None
    if re.search(r"[1-9]\d{0,2},\d{3}(?!\d)", text):
        raise ValueError("one, or a thousand")
    text = text.replace(",", ".")
    scale = 0.01 if text.endswith("%") else 1.0
    above, _, below = text.removesuffix("%").partition("/")
    try:
        found = scale * float(above) / (float(below) if below else 1.0)
    except ZeroDivisionError as error:
        raise ValueError("division by zero") from error
    if not math.isfinite(found):
        raise ValueError("no number")
    return found


def _blank(answer: Any) -> bool:
    if answer is None or answer is ... or (isinstance(answer, str) and not answer.strip()):
        return True
    return isinstance(answer, float) and math.isnan(answer)


def _unnamed(stages: Any) -> Any:
    """Stages with their names replaced by their places, so that a learner may call them anything."""
    stages = stages if isinstance(stages, (tuple, list)) else (stages,)
    if not all(isinstance(stage, Stage) for stage in stages):
        return None
    places = {stage.name: place for place, stage in enumerate(stages)}

    def unnamed(stage: Stage) -> dict:
        named = {role: places.get(policy, policy) for role, policy in vars(stage).items() if role in ROLES}
        return {"kind": stage.kind, **vars(stage), **named, "name": None}

    return [unnamed(stage) for stage in stages]
