"""Somebody's prompts from a file: text or messages (`prompt`), AlpacaEval's `instruction` or MT-Bench's `turns`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.preference_rows import Message, Unusable, messages
from alignkd_lab.lm.preference_sources import SUFFIXES, file_rows

FIELDS = ("prompt", "instruction", "turns")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt.

    Attributes:
        row: its row in the file, counted from 1 (the line, in JSON Lines).
        messages: with `role` and `content`, the last by the user.
        later: what the user says after the first answer, the second and so on.
        fields: the row as it stands in the file.
    """

    row: int
    messages: list[Message]
    later: list[str]
    fields: Mapping[str, Any]

    @property
    def said(self) -> str | list[Message]:
        """The text where it is one message alone, else the messages."""
        return self.messages[0]["content"] if len(self.messages) == 1 else self.messages


def read_prompts(path: str | Path) -> list[Prompt]:
    """All prompts of a file, in its order.

    Raises:
        BadInput: no such file, no rows, or the first row that holds no prompt.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise BadInput(f"prompts: {path} must be a file that ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise BadInput(f"prompts: there is no file {path}")
    found = [_prompt(number, row, path.name) for number, row in file_rows(path, "prompts")]
    if not found:
        raise BadInput(f"prompts: {path.name} holds no rows")
    return found


def _prompt(number: int, row: object, name: str) -> Prompt:
    where = f"prompts: row {number} of {name}"
    held = [name for name in FIELDS if row.get(name) is not None] if isinstance(row, Mapping) else []
    if len(held) != 1:
        has = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise BadInput(f"{where} must have one of the fields {', '.join(FIELDS)}; it has {has or 'none'}")
    value, later = row[held[0]], []
    if held == ["instruction"] and row.get("input"):
        raise BadInput(f"{where} has an input, which no prompt would show; write it into its instruction")
    if held == ["turns"]:
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
            raise BadInput(f"{where}: turns must be a list of what the user says, none of it empty")
        value, *later = value
    try:
        return Prompt(number, messages(value), later, row)
    except Unusable as reason:
        raise BadInput(f"{where}: {reason}") from reason
