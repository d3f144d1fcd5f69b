"""Saving a notebook keeps its pictures and drops what only a running kernel can show."""

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from alignkd_lab.notebooks import WIDGET_VIEW, execute, without_widgets


def test_a_widget_with_a_picture_keeps_the_picture_alone():
    both = new_output("display_data", {WIDGET_VIEW: {"model_id": "1"}, "image/png": "AAAA"})
    alone = new_output("display_data", {WIDGET_VIEW: {"model_id": "2"}})
    notebook = new_notebook(cells=[new_code_cell(outputs=[both, alone])], metadata={"widgets": {"1": {}}})
    without_widgets(notebook)
    assert [set(output.data) for output in notebook.cells[0].outputs] == [{"image/png"}, {WIDGET_VIEW}]
    assert "widgets" not in notebook.metadata


def test_an_executed_notebook_holds_its_results_and_no_widget_state(tmp_path):
    path = tmp_path / "page.ipynb"
    slider = "import ipywidgets\nipywidgets.IntSlider()"
    nbformat.write(new_notebook(cells=[new_code_cell("6 * 7"), new_code_cell(slider)]), path)
    execute(path)
    saved = nbformat.read(path, as_version=4)
    assert saved.cells[0].outputs[0].data["text/plain"] == "42"
    assert WIDGET_VIEW not in saved.cells[1].outputs[0].data
    assert "widgets" not in saved.metadata
