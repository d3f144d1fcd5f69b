"""Saved notebooks: whole, fresh, small, without a trace of the machine that ran them; and what they say holds."""

import re
from pathlib import Path

import nbformat
import notebook_checks
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from alignkd_lab.claims import decide
from alignkd_lab.course import notebooks
from alignkd_lab.course.notebooks import METADATA, WIDGET_VIEW, execute, fingerprint, without_home, without_widgets
from alignkd_lab.course.shipped import recorded_gaussians, recorded_smollm2
from alignkd_lab.pipelines import A_K, K_A

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# From a root or a drive on; not the path of an address, a fraction or a closing tag.
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~<])/[\w.-]+/[\w./-]+|\b[A-Za-z]:\\\w")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts(notebook):
    """All that a reader can read: the cells, what they printed, and the words of their outputs."""
    found = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        found += [output.get("text", ""), *output.get("traceback", [])]
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def test_outputs_are_fresh_run_once_in_order_without_error_or_warning_and_no_path_or_widget_state_is_saved(notebook):
    assert notebook.metadata.get(METADATA) == fingerprint(notebook), "stale: run `make notebooks`"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata
    assert not [output for output in outputs(notebook) if WIDGET_VIEW in output.get("data", {})]
    assert not [found.group() for text in texts(notebook) for found in ABSOLUTE_PATH.finditer(text)]


def test_there_are_pictures_that_say_how_deep_their_evidence_is(notebook):
    alts = [output.data["text/plain"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    depth = re.compile(r"\b(recorded|record|live|tiny|predicted|exact\w*)\b", re.IGNORECASE)
    assert alts
    assert not [alt for alt in alts if not depth.search(alt)]


def test_a_notebook_is_short_in_bytes_and_words_and_plain_markdown(notebook, path):
    assert path.stat().st_size <= 2_000_000
    words = [word for cell in notebook.cells if cell.cell_type == "markdown" for word in cell.source.split()]
    assert len(words) <= (1800 if path.stem.startswith("10") else 1500)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"^:::|^```\{|\{(ref|cite|numref)\}`|\\newcommand", text, re.MULTILINE)
    assert not re.search(r"!\[[^\]]*\]\((?!https://)", text), "an image that lies beside the notebook"


NOTHING_TO_ASSERT = {"00", "01", "08", "09"}  # beside what is tested below, and in the tests of their charts


def test_what_a_notebook_says_is_asserted_beside_it_and_each_assertion_finds_its_cell(path, notebook):
    asserted, cells = notebook_checks.sections(path), code_cells(notebook)
    assert bool(asserted) != (path.name[:2] in NOTHING_TO_ASSERT)
    assert asserted.keys() <= {cell.id for cell in cells}
    assert all("assert " in section.code for section in asserted.values())
    assert not [cell.id for cell in cells if re.search(r"^ *assert ", cell.source, re.MULTILINE)]


def test_every_file_of_assertions_has_its_notebook():
    files = Path(notebook_checks.__file__).parent.glob("[0-9]*.py")
    assert {file.stem for file in files} == {path.name[:2] for path in PATHS} - NOTHING_TO_ASSERT


# What 00_start_here and 10_the_evidence say of the records in words


def test_the_records_show_what_the_first_notebook_says_below_its_picture_and_of_the_boundary():
    verdicts = decide(recorded_gaussians()).set_index(["metric", "statistic"])["verdict"]
    assert verdicts["reward", "mean_difference"] == verdicts["overall_recall", "mean_difference"] == "holds"
    assert verdicts["overall_precision", "mean_difference"] == verdicts["reward", "variance_ratio"] == "fails"
    assert (recorded_gaussians("rlhf", sharpening=1.0).table()[K_A] > 2).mean() > 0.5
    for weaker in (recorded_gaussians("dpo", sharpening=1.0), recorded_gaussians("rlhf", 1.0, 1.0)):
        assert weaker.table()[K_A].max() < 2


def test_each_seed_of_the_main_experiment_has_a_k_ahead_and_with_colours_k_a():
    for target, sign in (("exclamation", 1), ("colour", -1)):
        rewards = recorded_smollm2(target).table()
        assert (sign * (rewards[A_K] - rewards[K_A]) > 0).sum() == 10
    main = recorded_smollm2()
    rate, reward = (main.table(metric).mean() for metric in ("target_rate", "reward"))
    assert 3.5 < rate[A_K] / rate[K_A] < 4  # "nearly four times as often"
    paid = reward / rate
    assert paid[A_K] == pytest.approx(paid[K_A], rel=0.05)  # "about the same with either"


# Saving: pictures stay, what only a running kernel can show goes, and what a notebook was made from is noted


def test_a_widget_with_a_picture_keeps_the_picture_alone_and_the_home_folder_is_not_printed():
    both = new_output("display_data", {WIDGET_VIEW: {"model_id": "1"}, "image/png": "AAAA"})
    notebook = new_notebook(cells=[new_code_cell(outputs=[both])])
    without_widgets(notebook)
    assert [set(output.data) for output in notebook.cells[0].outputs] == [{"image/png"}]
    printed = new_output("stream", text=f"kept in {Path.home()}/cache\n")
    notebook = without_home(new_notebook(cells=[new_code_cell(outputs=[printed]), new_markdown_cell("prose")]))
    assert notebook.cells[0].outputs[0].text == "kept in ~/cache\n"


def test_an_executed_notebook_holds_its_results_and_no_widget_state(tmp_path):
    path = tmp_path / "page.ipynb"
    slider = "import ipywidgets\nipywidgets.IntSlider()"
    reading = "from alignkd_lab.course.shipped import recorded\nrecorded('gaussians-pilot')\nprint(6)\nprint(7)\n6 * 7"
    nbformat.write(new_notebook(cells=[new_code_cell(reading), new_code_cell(slider)]), path)
    execute(path)
    saved = nbformat.read(path, as_version=4)
    printed, result = saved.cells[0].outputs
    assert (printed.text, result.data["text/plain"]) == ("6\n7\n", "42")
    assert not saved.cells[1].outputs
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
