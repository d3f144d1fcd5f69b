"""What a prediction or an exercise is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Distractor:
    """A typical wrong answer, or the function that computes it, and the hint that it gets."""

    answer: Any
    hint: str


@dataclass(frozen=True)
class Task:
    """A prediction or an exercise.

    notebook: its number, `00` to `09`.
    question: in words, complete without the cells around it.
    solve: the solution, a function without arguments; it gets its data by `exercises.given`.
    because: why the right answer is right.
    hint: for a wrong answer that is none of the distractors.
    options: of a choice, value to label; empty for a number.
    tolerance: how far a number may be off, as a share of the largest number of the answer.
    given: makes the data of the exercise, by name.
    prediction: to be answered before its picture is seen.
    """

    notebook: str
    question: str
    solve: Callable[[], Any]
    because: str
    hint: str
    distractors: Sequence[Distractor]
    options: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.01
    given: Callable[[], dict] | None = None
    prediction: bool = False


class OtherOptions(Sequence):
    """The distractors of a choice whose outcome was measured: known only once the record is read, so not before.

    Args:
        options: of the choice, the outcome among them.
        solve: reads the outcome.
        hint: (wrong option, outcome) -> its hint.
    """

    def __init__(self, options: Mapping[str, str], solve: Callable[[], str], hint: Callable[[str, str], str]) -> None:
        self._options, self._solve, self._hint = options, solve, hint

    def __len__(self) -> int:
        return len(self._options) - 1

    def __getitem__(self, place):
        found = self._solve()
        return tuple(Distractor(name, self._hint(name, found)) for name in self._options if name != found)[place]
