"""The command line parses, hands over, and turns expected errors into one line and an exit code."""

import argparse
import errno
import io
import subprocess
import sys
import types
from pathlib import Path

import pytest
from synthetic_records import mog_record

from alignkd_lab import arguments, cli
from alignkd_lab.errors import AlignkdError, BadInput, CannotContinue, UnknownName
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS
from alignkd_lab.recording import write


@pytest.fixture
def asked(monkeypatch):
    """What the command line asked of each function behind it; every one raises `error` where there is one."""
    found = types.SimpleNamespace(error=None)

    def stand_in(place, function):
        calls, module = [], types.ModuleType(f"alignkd_lab.{place}")

        def take(**options):
            calls.append(options)
            if found.error:
                raise found.error

        setattr(module, function, take)
        setattr(found, function, calls)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    for place, function in (("experiment", "run_experiment"), ("lm.student", "heal"), ("bench.run", "run_bench")):
        stand_in(place, function)
    return found


def test_seeds_are_numbers_and_ranges_and_others_and_other_lengths_are_refused():
    seeds = {"0": (0,), "0-4": (0, 1, 2, 3, 4), "0,2,5-7": (0, 2, 5, 6, 7), "3,1-3": (1, 2, 3), " 1 , 2": (1, 2)}
    assert {text: arguments.parse_seeds(text) for text in seeds} == seeds
    for text in ("", "a", "1-", "-1", "4-2", "1,,2", "1-2-3", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.parse_seeds(text)
    for text in ("", "a", "1", "32,", "3.5", "-8"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.parse_lengths(text)


def test_run_hands_everything_over_and_leaves_what_is_not_said_to_the_preset(asked, capsys):
    command = "run --world lm --preset tiny --pipelines align_then_kd,kd_then_align --seeds 0-1 --algorithm dpo"
    command += " --target simile --set beta=0.5 grid=[1,2] --set reward=a=b --out here --device cpu"
    assert cli.main(command.split()) == 0
    assert asked.run_experiment == [
        {"world": "lm", "preset": "tiny", "pipelines": ("align_then_kd", "kd_then_align"), "seeds": (0, 1),
         "out": Path("here"), "algorithm": "dpo", "target": "simile", "device": "cpu",
         "overrides": {"beta": 0.5, "grid": [1, 2], "reward": "a=b"}}  # JSON where it is that
    ]  # fmt: skip
    assert "alignkd report here" in capsys.readouterr().out
    cli.main(["run", "--world", "mog"])
    usual = asked.run_experiment[1]
    assert {usual[name] for name in ("pipelines", "seeds", "algorithm", "target", "device")} == {None}
    assert usual["preset"] == "laptop"


def test_a_group_of_pipelines_stands_for_all_of_its_names_each_once():
    names = {"methods": METHODS, "orders,controls": (*ORDERS, *CONTROLS), "orders, kd_then_align": ORDERS,
             "adpa,methods": ("adpa", *(name for name in METHODS if name != "adpa"))}  # fmt: skip
    assert {text: arguments.parse_pipelines(text) for text in names} == names


@pytest.mark.parametrize(("error", "code", "words"), [
    (CannotContinue("no network: fetch the wheel elsewhere"), 1, "no network: fetch the wheel elsewhere"),
    (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "x: No space left on device."),
    (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 76352 vs 76244"), 1,
     "disk: No space left on device."),
    (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), 1,
     "disk: No space left on device."),
    (MemoryError(), 1, "memory does not hold the models; choose smaller ones."),
    (RuntimeError("std::bad_alloc"), 1, "memory does not hold the models; choose smaller ones."),
    (BadInput("beta must be above 0, not -1"), 2, "beta must be above 0, not -1"),
    (UnknownName("target", "smile", ["digit", "simile"]), 2, "target 'smile' is unknown. Accepted: digit, simile."),
])  # fmt: skip
def test_an_expected_error_is_a_line_and_how_to_resume_one_where_work_was_cut_off(asked, capsys, error, code, words):
    asked.error = error
    assert cli.main(["run", "--world", "lm", "--out", "my runs"]) == code
    said = capsys.readouterr()
    first, *others = said.err.split("Finished stages are kept; to resume: alignkd run --world lm --out 'my runs'")
    assert (first.strip(), [rest.strip() for rest in others]) == (f"alignkd: {words}", [""] * (code == 1))
    assert said.out == ""
    assert isinstance(error, AlignkdError) <= isinstance(error, RuntimeError if code == 1 else ValueError)


def test_an_unexpected_error_keeps_its_traceback(asked):
    asked.error = OSError(errno.EINVAL, "a fault in the code")
    with pytest.raises(OSError, match="a fault"):
        cli.main(["run", "--world", "lm"])


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    write(tmp_path, mog_record(0))
    command = [sys.executable, "-m", "alignkd_lab", "report", str(tmp_path), "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()  # what `head` does when it has enough
        said = process.stderr.read()
    assert process.returncode == 0
    assert said == ""


def test_a_terminal_that_lacks_a_sign_is_no_error(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["report", "nowhere"]) == 2
    print("–", flush=True)
    assert out.buffer.getvalue() == b"?\n"


def test_heal_and_bench_hand_everything_over_and_bench_trains_a_lora_with_checkpointing_unless_told(asked, tmp_path):
    assert cli.main(["heal", "--layers", "20", "--out", str(tmp_path)]) == 0
    assert asked.heal == [{"base": "smollm2-135m-instruct", "layers": 20, "out": tmp_path, "device": None}]
    command = "bench --lengths 16,64 --repeats 3 --device cpu --train full --checkpointing off --student tiny-student"
    command += " --dtype bfloat16 --width 128"
    assert cli.main([*command.split(), "--quick", "--out", str(tmp_path / "bench.json")]) == 0
    cli.main(["bench"])
    told, usual = asked.run_bench
    assert told == {
        "lengths": (16, 64), "repeats": 3, "device": "cpu", "dtype": "bfloat16", "out": tmp_path / "bench.json",
        "train": "full", "checkpointing": False, "student": "tiny-student", "width": 128, "quick": True,
    }  # fmt: skip
    assert (usual["train"], usual["checkpointing"], usual["quick"]) == ("lora", True, False)
    assert {usual[name] for name in ("lengths", "repeats", "device", "student", "width", "out")} == {None}


def test_help_is_instant_and_loads_nothing_heavy():
    show = "import sys, time; from alignkd_lab.cli import main\n"
    show += "try: main(['--help'])\n"
    show += (
        "except SystemExit: print(time.process_time(), {'torch', 'numpy', 'transformers', 'psutil'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.splitlines()[-1].split(maxsplit=1)
    assert heavy == "set()"
    assert float(seconds) < 1  # of the processor: other work on the machine is not what is measured
    for command in ("doctor", "run", "report", "heal", "bench"):
        assert command in done.stdout
