"""The course as data: its notebooks, their minutes and pictures, and the public address of all this.

Read from the saved notebooks, so that the pages cannot say anything else.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alignkd_lab.errors import BadInput

_TITLE = re.compile(r"^# (\d\d) · (.+?): (.+)$", re.MULTILINE)
_MINUTES = re.compile(r"^\*(\d+) minutes to read and try, (.+?) to run\b", re.MULTILINE)
_GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?$")


@dataclass(frozen=True)
class Lesson:
    """A notebook: its number (`"03"`), file, title, question, minutes to read, and time to run in words."""

    number: str
    path: Path
    title: str
    question: str
    minutes: int
    running: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def asked(self) -> str:
        """The question as a sentence of its own."""
        return self.question[0].upper() + self.question[1:]


class Still(NamedTuple):
    """A picture that a notebook was saved with, as the bytes of a PNG, and the words for it."""

    png: bytes
    alt: str


def lesson(path: Path) -> Lesson:
    """What a notebook's first cell says of it. Raises BadInput where title or minutes are not as agreed."""
    first = "".join(_cells(path)[0]["source"])
    title, minutes = _TITLE.search(first), _MINUTES.search(first)
    if title is None or minutes is None:
        raise BadInput(
            f"{path.name}: the first cell must begin with “# 03 · Title: question” and have a line "
            "“*25 minutes to read and try, half a minute to run. …*”"
        )
    return Lesson(title[1], path, title[2], title[3], int(minutes[1]), minutes[2])


def lessons(folder: Path) -> list[Lesson]:
    """All notebooks of a folder, in order. Raises BadInput as `lesson` does."""
    return [lesson(path) for path in sorted(folder.glob("*.ipynb"))]


def lead(path: Path) -> str:
    """The first paragraph below the minutes, without marks, for whoever previews a link."""
    paragraphs = "".join(_cells(path)[0]["source"]).split("\n\n")
    return plain(next(text for text in paragraphs[1:] if not _MINUTES.match(text)))


def plain(markdown: str) -> str:
    """Text without emphasis, code marks, addresses of links and line ends."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return " ".join(re.sub(r"[*`$]|\\", "", words).split())


def stills(path: Path) -> Iterator[Still]:
    """The pictures of a notebook, from the first to the last."""
    for cell in _cells(path):
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get("image/png")
            if data:
                shown = output.get("metadata", {}).get("image/png", {})
                yield Still(base64.b64decode("".join(data)), shown.get("alt", ""))


def title_still(path: Path) -> Still | None:
    """The picture that stands for a notebook: the first that is no mere strip, else the first, else None."""
    found = list(stills(path))
    return next((still for still in found if _is_tall(still.png)), found[0] if found else None)


def public_address(pyproject: Path) -> str | None:
    """`https://github.com/OWNER/NAME` from `[project.urls]`, or None while it is not set.

    Raises BadInput for an address that is not of this form: the badge and the links are made from it.
    """
    address = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"].get("urls", {}).get("Repository")
    if not address:
        return None
    found = _GITHUB.match(address)
    if not found:
        raise BadInput(f"[project.urls] Repository: {address!r} is not of the form https://github.com/OWNER/NAME")
    return "https://github.com/{}/{}".format(*found.groups())


def pages_address(repository: str) -> str:
    """Where GitHub serves the pages of a repository."""
    owner, name = _GITHUB.match(repository).groups()
    return f"https://{owner.lower()}.github.io/{name}/"


def colab_address(repository: str, name: str) -> str:
    """What opens a notebook of a repository in Colab."""
    owner, project = _GITHUB.match(repository).groups()
    return f"https://colab.research.google.com/github/{owner}/{project}/blob/main/notebooks/{name}.ipynb"


def _is_tall(png: bytes) -> bool:
    width, height = struct.unpack(">II", png[16:24])
    return height >= 0.38 * width


def _cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]
