"""Every bad input of the table is refused by name, with the exit code that the command line promises.

The table is `bad_inputs.py`: over a hundred commands; what has no command is called here.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import FINE, HEAVY, LIGHT, SHELL, prepare

TABLE = Path(__file__).with_name("bad_inputs.py")


def outcome(folder: Path, kind: str) -> dict:
    done = subprocess.run([sys.executable, str(TABLE), str(folder), kind], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def faults(rows, found: dict) -> list[str]:
    """The rows whose exit code or message is another, or where a traceback was said."""
    return [
        f"{name}: {found[name]['code']}, {found[name]['said'][-300:]}"
        for name, _, code, words in rows
        if found[name]["code"] != code
        or (code and (words not in found[name]["said"] or "Traceback" in found[name]["said"]))
    ]


def test_the_table_has_over_a_hundred_rows_each_with_a_name_of_its_own():
    names = [name for name, *_ in LIGHT + HEAVY + FINE]
    assert len(names) == len(set(names)) > 110


def test_what_needs_no_model_is_refused_by_name_without_torch_and_at_once(tmp_path):
    found = outcome(tmp_path, "light")
    assert not faults(LIGHT, found)
    assert not [name for name in found if found[name]["torch"]]
    assert max(row["seconds"] for row in found.values()) < 3
    assert not (tmp_path / "out").exists()


def test_what_needs_a_model_or_a_run_is_refused_by_name_and_what_is_undefined_is_null(tmp_path):
    found = outcome(tmp_path, "heavy")
    assert not faults(HEAVY + FINE, found)
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*.json")]
    held = {record["target"]: record["pipelines"]["kd_only"]["metrics"] for record in records}
    assert set(held) == {"lengthy", "never"}
    assert held["lengthy"]["second_rule_rate"] is None
    assert held["never"]["reward_accuracy"] is None


@pytest.mark.parametrize("name", SHELL)
def test_a_shell_sees_the_same_code_and_message_and_no_traceback(name, tmp_path):
    prepare(tmp_path)
    ((command, code, words),) = [row[1:] for row in LIGHT if row[0] == name]
    command = command.replace("FILES", str(tmp_path)).replace("OUT", str(tmp_path / "out"))
    command = [sys.executable, "-m", "alignkd_lab.cli", *shlex.split(command)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
