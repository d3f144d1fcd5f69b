"""Saving a notebook keeps its pictures, drops what only a running kernel can show, and notes what it was made from."""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from alignkd_lab.course import notebooks
from alignkd_lab.course.notebooks import METADATA, WIDGET_VIEW, execute, fingerprint, without_home, without_widgets


def test_a_widget_with_a_picture_keeps_the_picture_alone():
    both = new_output("display_data", {WIDGET_VIEW: {"model_id": "1"}, "image/png": "AAAA"})
    alone = new_output("display_data", {WIDGET_VIEW: {"model_id": "2"}})
    notebook = new_notebook(cells=[new_code_cell(outputs=[both, alone])], metadata={"widgets": {"1": {}}})
    without_widgets(notebook)
    assert [set(output.data) for output in notebook.cells[0].outputs] == [{"image/png"}, {WIDGET_VIEW}]
    assert "widgets" not in notebook.metadata


def test_the_home_folder_is_not_printed():
    printed = new_output("stream", text=f"kept in {Path.home()}/cache\n")
    notebook = without_home(new_notebook(cells=[new_code_cell(outputs=[printed]), new_markdown_cell("prose")]))
    assert notebook.cells[0].outputs[0].text == "kept in ~/cache\n"


def test_an_executed_notebook_holds_its_results_and_no_widget_state(tmp_path):
    path = tmp_path / "page.ipynb"
    slider = "import ipywidgets\nipywidgets.IntSlider()"
    reading = "from alignkd_lab.course.shipped import recorded\nrecorded('gaussians-pilot')\n6 * 7"
    nbformat.write(new_notebook(cells=[new_code_cell(reading), new_code_cell(slider)]), path)
    execute(path)
    saved = nbformat.read(path, as_version=4)
    assert saved.cells[0].outputs[0].data["text/plain"] == "42"
    assert WIDGET_VIEW not in saved.cells[1].outputs[0].data
    assert "widgets" not in saved.metadata
    assert saved.metadata[METADATA] == fingerprint(saved)
    assert list(saved.metadata[METADATA]["records"]) == ["gaussians-pilot.zip"]


def test_a_changed_cell_or_record_makes_outputs_stale_and_prose_does_not(tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    monkeypatch.setattr(notebooks, "data_folder", lambda: tmp_path)
    record = tmp_path / "records" / "a.json"
    record.write_text("{}\n")
    notebook = new_notebook(cells=[new_code_cell("1"), new_markdown_cell("prose")])
    made_from = notebook.metadata[METADATA] = fingerprint(notebook, ["a.json"])
    notebook.cells[1].source = "better prose"
    (tmp_path / "records" / "b.json").write_text("not read")
    assert fingerprint(notebook) == made_from
    notebook.cells[0].source = "2"
    assert fingerprint(notebook)["cells"] != made_from["cells"]
    record.write_text("{}\n{}\n")
    assert fingerprint(notebook)["records"] != made_from["records"]
    record.unlink()
    assert fingerprint(notebook)["records"] == {"a.json": ""}
