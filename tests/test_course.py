"""The map says what the notebooks say, and the address what pyproject.toml says."""

import base64
import json
import struct
from pathlib import Path

import pytest
from lessons import colab_address, lead, lesson, lessons, pages_address, plain, public_address, title_still

from alignkd_lab.errors import BadInput

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
LESSONS = lessons(NOTEBOOKS)


def first_cell(text):
    return '{"cells": [{"cell_type": "markdown", "source": ' + text + "}]}"


# The notebooks


def test_lessons_are_numbered_from_00_on_and_each_says_its_question_its_minutes_and_how_long_it_runs(tmp_path):
    assert [found.number for found in LESSONS] == [f"{place:02d}" for place in range(len(LESSONS))]
    assert all(found.name.startswith(found.number) for found in LESSONS)
    path = tmp_path / "07_x.ipynb"
    path.write_text(
        first_cell('["# 07 · Both: does it hold?\\n", "\\n", "*30 minutes to read and try, a minute to run; no GPU.*"]')
    )
    found = lesson(path)
    assert (found.number, found.title, found.question) == ("07", "Both", "does it hold?")
    assert (found.minutes, found.running) == (30, "a minute")
    assert found.asked == "Does it hold?"
    path.write_text(first_cell('"# 07 · Both: does it hold?"'))
    with pytest.raises(BadInput, match=r"07_x\.ipynb: the first cell must begin"):
        lesson(path)


def test_a_preview_s_words_have_no_marks_and_the_title_picture_of_each_saved_lesson_has_words():
    assert plain("A **bold** *word*, `code` and\n[a link](https://x.org/y_z).") == "A bold word, code and a link."
    assert all(len(lead(found.path)) > 60 and "*" not in lead(found.path) for found in LESSONS)
    pictures = [picture for found in LESSONS for picture in [title_still(found.path)] if picture]
    assert len(pictures) >= 3
    assert all(picture.png.startswith(b"\x89PNG") and picture.alt for picture in pictures)


def test_a_strip_stands_for_a_notebook_only_where_there_is_nothing_taller(tmp_path):
    def output(place, size):
        png = b"\x89PNG\r\n\x1a\n" + bytes(8) + struct.pack(">II", *size)
        data = {"image/png": base64.b64encode(png).decode()}
        return {"data": data, "metadata": {"image/png": {"alt": str(place)}}}

    def saved(*sizes):
        path = tmp_path / "x.ipynb"
        path.write_text(json.dumps({"cells": [{"outputs": [output(*each) for each in enumerate(sizes)]}]}))
        return title_still(path)

    assert saved((900, 100), (900, 600), (900, 700)).alt == "1"
    assert saved((900, 100), (900, 120)).alt == "0"
    assert saved() is None


# The address


def project(tmp_path, urls):
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[project]\nname = "x"\n[project.urls]\n{urls}\n')
    return path


def test_one_address_gives_the_pages_and_colab_none_gives_none_and_another_kind_is_refused(tmp_path):
    assert public_address(project(tmp_path, '# Repository = "https://github.com/ada/course"')) is None
    assert public_address(project(tmp_path, 'Repository = ""')) is None
    for ending in ("", "/", ".git"):  # as GitHub's own pages and its button for cloning have it
        address = public_address(project(tmp_path, f'Repository = "https://github.com/Ada/course{ending}"'))
        assert address == "https://github.com/Ada/course"
    assert pages_address(address) == "https://ada.github.io/course/"
    colab = "https://colab.research.google.com/github/Ada/course/blob/main/notebooks/01_recall.ipynb"
    assert colab_address(address, "01_recall") == colab
    with pytest.raises(BadInput, match="is not of the form https://github"):
        public_address(project(tmp_path, 'Repository = "https://example.org/course"'))
