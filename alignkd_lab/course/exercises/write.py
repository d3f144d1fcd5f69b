"""Exercises whose answer is a function: it runs on hidden inputs, beside ours and beside typical wrong versions."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkd_lab.course.exercises.tasks import Asked, Verdict


class Outcome(NamedTuple):
    """What a function returned, of which type, and the gradients of its sum by those arguments that ask for one."""

    kind: type
    values: list[Tensor]
    slopes: list[Tensor]
    differentiable: bool


@dataclass(frozen=True, kw_only=True)
class Written(Asked):
    """An exercise that is answered by a function.

    inputs: makes the hidden calls anew, a tuple of arguments each; of tensors that require it, gradients count as well.
    seen: what of a returned value counts, where not all of it does.
    """

    inputs: Callable[[], Sequence[tuple]]
    seen: Callable[[Any], Any] = lambda returned: returned

    def judge(self, function: Any) -> Verdict:
        """Whether a learner's function is right, None while there is none, and what to say to it."""
        if function is None or function is ...:
            return None, f"Not answered yet. {self.question}"
        if not callable(function):
            return False, "Not yet. Give the function itself, without calling it."
        calls = self.inputs()
        try:
            found = self.outcomes(function, calls)
        except Exception as error:  # whatever a learner's lines raise is theirs to read
            return False, f"Not yet. {_raised(error, function)}"
        if None in found:
            return None, f"Not answered yet: the function returns nothing. {self.question}"
        if _changed(calls, self.inputs()):
            return False, "Not yet. Your function writes into what it is given. Make a new tensor."
        expected = self.outcomes(self.solve)
        if same(found, expected):
            kind, wanted = found[0].kind, expected[0].kind
            if issubclass(kind, wanted):
                return True, f"Right. {self.because}"
            return False, f"Not yet. The numbers are right, as a {kind.__name__}; return a {wanted.__name__}."
        for mistake, hint in self.mistakes.items():
            if same(found, self.outcomes(self.mistaken(mistake))):
                return False, f"Not yet. {hint}"
        return False, f"Not yet. {_difference(found, expected) or self.hint}"

    def outcomes(self, function: Callable, calls: Sequence[tuple] | None = None) -> list[Outcome | None]:
        """What a function makes of each hidden call, made anew unless given; None where it returns nothing."""
        return [_outcome(function, call, self.seen) for call in calls or self.inputs()]

    def solution(self, id: str) -> str:
        """The solution's source with the imports that it needs."""
        source, module = inspect.getsource(self.solve), inspect.getmodule(self.solve)
        names = {name for name in self.solve.__code__.co_names if name in vars(module)}
        names |= {"Tensor"} & set(source.replace(":", " ").replace(",", " ").split())
        imports = f"from {module.__name__} import {', '.join(sorted(names))}\n\n\n" if names else ""
        return imports + source


def same(found: Sequence[Outcome], expected: Sequence[Outcome], slopes: bool = True) -> bool:
    """Whether values, and gradients as well, agree up to rounding in single precision."""
    return all(
        _close(one.values, other.values) and (not slopes or _close(one.slopes, other.slopes))
        for one, other in zip(found, expected, strict=True)
    )


def _outcome(function: Callable, arguments: tuple, seen: Callable) -> Outcome | None:
    returned = function(*arguments)
    if returned is None or returned is ...:
        return None
    kind = type(returned)
    try:
        returned = seen(returned)
        parts = returned if isinstance(returned, tuple) else (returned,)
        values = [torch.as_tensor(part, dtype=torch.float64) for part in parts]
    except (TypeError, ValueError, RuntimeError, LookupError):  # such as a text, or a tuple with a part yet to write
        values = []
    trained = [each for each in arguments if isinstance(each, Tensor) and each.requires_grad]
    total = sum((value.sum() for value in values), torch.zeros(()))
    differentiable = total.requires_grad
    options = {"allow_unused": True, "materialize_grads": True}
    slopes = torch.autograd.grad(total, trained, **options) if differentiable else map(torch.zeros_like, trained)
    return Outcome(kind, [value.detach() for value in values], list(slopes), differentiable)


def _changed(calls: Sequence[tuple], fresh: Sequence[tuple]) -> bool:
    """Whether a tensor among the arguments is not what it was."""
    pairs = [pair for both in zip(calls, fresh, strict=True) for pair in zip(*both, strict=True)]
    return any(isinstance(one, Tensor) and not torch.equal(one, other) for one, other in pairs)


def _close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    if [each.shape for each in found] != [each.shape for each in expected]:
        return False
    pairs = zip(found, expected, strict=True)
    return all(bool(((one - other).abs() <= 1e-5 * other.abs().max() + 1e-9).all()) for one, other in pairs)


def _difference(found: Sequence[Outcome], expected: Sequence[Outcome]) -> str:
    """In words, where shapes differ, or gradients although values are the same; else nothing."""
    one, other = ([list(value.shape) for value in outcomes[0].values] for outcomes in (found, expected))
    if one != other:
        shapes = (" and ".join(str(shape) if shape else "a single number" for shape in each) for each in (one, other))
        return "Your function returns {}; wanted: {}.".format(*(each or "what is no number" for each in shapes))
    if not same(found, expected, slopes=False):
        return ""
    if not found[0].differentiable:
        return "The value is right, but nothing can learn from it: it has no gradient. Return a tensor made by torch."
    return "The value is right, its gradient is not. What is detached that should not be, or the other way round?"


def _raised(error: Exception, function: Callable) -> str:
    """The error in one line, and the learner's line that raised it."""
    code = getattr(function, "__code__", None)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename
    ]
    message = next(iter(str(error).splitlines()), "")
    where = f" in “{frames[-1].line}”" if frames and frames[-1].line else ""
    return f"Your function raised {type(error).__name__}{where}: {message}"
