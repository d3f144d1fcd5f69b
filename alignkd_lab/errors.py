"""Errors meant for the person at the keyboard: one clear sentence, and the way out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator


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
