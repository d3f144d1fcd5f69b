"""The state of an explorer: where it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alignkd_lab.errors import UnknownName


def begun(start: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The state `start` with some of its parts changed. Raises UnknownName for a part that it does not have."""
    for name in changes:
        if name not in start:
            raise UnknownName("control", name, start)
    return {**start, **changes}
