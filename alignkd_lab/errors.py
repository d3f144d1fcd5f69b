"""Errors meant for the person at the keyboard, one clear sentence and the way out; and checks of what comes in."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any


def first_line(error: BaseException) -> str:
    """Of what a library says in many; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class AlignkdError(Exception):
    """Base of every expected error; the command line prints its message without a traceback."""


class BadInput(AlignkdError, ValueError):
    """A setting, argument or file that cannot be used as it was given."""


@contextlib.contextmanager
def refusing(what: str, *kinds: type[Exception], way_out: str = "", kind: type[AlignkdError] = BadInput) -> Iterator:
    """Errors of these kinds, while it is open, as one of ours: what failed, why in a line, and the way out."""
    try:
        yield
    except kinds as error:
        if isinstance(error, AlignkdError):
            raise
        raise kind(f"{what} ({first_line(error)})" + (f"; {way_out}" if way_out else "")) from error


class UnknownName(BadInput):
    """A name that is not among the accepted ones; the message lists those.

    >>> str(UnknownName("target", "smile", ["digit", "simile"]))
    "target 'smile' is unknown. Accepted: digit, simile."
    """

    def __init__(self, what: str, name: object, accepted: Iterable[str]) -> None:
        super().__init__(f"{what} {name!r} is unknown. Accepted: {', '.join(accepted)}.")

    def __reduce__(self) -> tuple:  # what another process raised
        return BadInput, self.args


class CannotContinue(AlignkdError, RuntimeError):
    """Something outside the input is missing or broken: network, disk, memory, a damaged file."""


# Checks, with the name of what is wrong in the message --------------------------------------------------


def check_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    whole: bool = False,
    why: str = "",
) -> None:
    """Raises BadInput unless `value` is a finite number (`whole`: an integer) within the bounds that are given.

    >>> check_number("beta", 0.1, above=0)
    >>> check_number("beta", -1, above=0)
    Traceback (most recent call last):
    alignkd_lab.errors.BadInput: beta must be a finite number above 0, not -1
    """
    kind = Integral if whole else Real
    if (
        isinstance(value, kind)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
        and (most is None or value <= most)
    ):
        return
    bounds = {"above": above, "of at least": least, "below": below, "of at most": most}
    words = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    wanted = f"{'a whole' if whole else 'a finite'} number {words}".rstrip()
    raise BadInput(f"{name} must be {wanted}, not {value!r}" + (f"; {why}" if why else ""))


def check_choice(name: str, value: Any, accepted: Sequence[str]) -> None:
    """Raises BadInput, with all of them, unless the value is one of the accepted words."""
    if value not in accepted:
        raise BadInput(f"{name} must be one of {', '.join(accepted)}, not {value!r}")


def check_fields(settings: Any, **bounds: dict[str, Any]) -> None:
    """Every field of a settings dataclass against the kind of its default, and numbers against their range.

    Whole numbers are at least 1 and others above 0, those in a list too, unless `bounds` names others for
    `check_number`. A list has at least one entry.

    Raises:
        BadInput: the first field that cannot be used.
    """
    for field in dataclasses.fields(settings):
        name, value, usual = field.name, getattr(settings, field.name), field.default
        if isinstance(usual, tuple):
            if not isinstance(value, tuple) or not value:
                raise BadInput(f"{name} must be a list such as {list(usual)!r}, not {value!r}")
            values, usual = value, usual[0]
        else:
            values = (value,)
        for one in values:
            if isinstance(usual, str) and not (isinstance(one, str) and one):
                raise BadInput(f"{name} must be a word, not {one!r}")
            if isinstance(usual, int | float):
                usually = {"least": 1, "whole": True} if isinstance(usual, int) else {"above": 0}
                check_number(name, one, **{**usually, **bounds[name]} if name in bounds else usually)
