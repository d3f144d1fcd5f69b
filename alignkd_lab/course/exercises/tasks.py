"""What a prediction or an exercise is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignkd_lab.pipelines import ROLES, Stage


@dataclass(frozen=True)
class Task:
    """A prediction or an exercise.

    question: in words, complete without the cells around it.
    solve: the solution, a function of the exercise's data, or of nothing where it has none.
    because: why the right answer is right.
    distractors: typical wrong answers, or the functions that compute them, each with the hint that it gets; as a
        function where they are known only once the record is read.
    hint: for a wrong answer that is none of the distractors; of a choice, where there is none, its options.
    options: of a choice, value to label; empty for a number.
    tolerance: how far a number may be off, as a share of the largest number of the answer.
    given: makes the data of the exercise, by name.
    level: further answers that count as right, since the record does not tell them from the solution.
    prediction: to be answered before its picture is seen.
    notebook: the number of its notebook, `00` to `09`; the bank fills it in.
    """

    question: str
    solve: Callable[..., Any]
    because: str
    distractors: Mapping[Any, str] | Callable[[], Mapping[Any, str]]
    hint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.01
    given: Callable[[], dict] | None = None
    level: Callable[[], Collection] = tuple
    prediction: bool = False
    notebook: str = ""

    def __post_init__(self) -> None:
        if self.options and not self.hint:
            object.__setattr__(self, "hint", f"Answer one of {', '.join(map(repr, self.options))}.")

    def outcome(self) -> Any:
        """The right answer."""
        return self.solve(self.given()) if self.given else self.solve()

    def right(self, answer: Any) -> bool:
        return any(self.same(answer, expected) for expected in (self.outcome(), *self.level()))

    def wrong(self) -> Iterator[tuple[Any, str]]:
        """Typical wrong answers with their hints."""
        for answer, hint in (self.distractors() if callable(self.distractors) else self.distractors).items():
            yield answer() if callable(answer) else answer, hint

    def same(self, answer: Any, expected: Any) -> bool:
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
        return bool((np.abs(found - wanted) <= self.tolerance * np.abs(wanted).max()).all())

    def exactness(self) -> str:
        """How exact a number has to be, in words; nothing for other answers."""
        expected = self.outcome()
        if isinstance(expected, int):
            return " (A whole number.)"
        numbers = isinstance(expected, float) or (isinstance(expected, tuple) and isinstance(expected[0], float))
        return f" (Within {100 * self.tolerance:g} % is close enough.)" if numbers else ""


def other_options(
    options: Mapping[str, str],
    solve: Callable[[], str],
    hint: Callable[[str, str], str],
    level: Callable[[], Collection[str]] = tuple,
) -> Callable[[], dict[str, str]]:
    """The distractors of a choice whose outcome was measured: all but `solve()` and those `level` with it, each with
    `hint(wrong option, outcome)`."""

    def distractors() -> dict[str, str]:
        found, right = solve(), level()
        return {name: hint(name, found) for name in options if name != found and name not in right}

    return distractors


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
