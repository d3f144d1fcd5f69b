"""What else befalls a run, beside SIGKILL: scenes for `tests/kills.py`, each of which must end in the expected record.

A scene gets the world, an empty folder, the expected result and a random time within a run; it returns False where this
machine cannot play it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from pathlib import Path

from kills import WORLDS, end, result, resume, run, start

from alignkd_lab.recording import RecordError
from alignkd_lab.report import report_json


def ctrl_c(world: str, out: Path, expected: dict, after: float, number: int = signal.SIGINT, code: int = 130) -> None:
    """The command ends with its exit code, cleans up, and is resumed."""
    found = end(start(run(world, out)), after, number)
    assert found[0] in (code, 0), found
    assert not list(out.glob("**/alive.lock")), "a scratch folder was left behind"
    assert resume(world, out) == expected


def sigterm(world: str, out: Path, expected: dict, after: float) -> None:
    ctrl_c(world, out, expected, after, signal.SIGTERM, 143)


def two_at_once(world: str, out: Path, expected: dict, after: float) -> None:
    """Over one folder, the second a moment later."""
    first = start(run(world, out))
    time.sleep(after / 4)
    second = start(run(world, out))
    assert (end(first)[0], end(second)[0]) == (0, 0)
    assert result(out) == expected


def a_report_beside(world: str, out: Path, expected: dict, after: float) -> None:
    """Reading records while they are written finds whole ones or none."""
    pid, reading = start(run(world, out))
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        try:
            report_json(out)
        except RecordError as error:
            found_none = "no records" in str(error) or "does not exist" in str(error)
            assert found_none, error  # noqa: PT017, the only error that is none
        time.sleep(0.01)
    os.close(reading)
    assert found[1] == 0
    assert report_json(out)["runs"]


def copied_while_it_runs(world: str, out: Path, expected: dict, after: float) -> None:
    """The copy is resumed; so is what it was copied from, after a kill."""
    child, copy = start(run(world, out)), out.with_name("copy")
    time.sleep(after)
    out.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", out, copy], capture_output=True, check=False)  # what vanishes meanwhile is no loss
    end(child, 0)
    assert resume(world, copy) == expected
    assert resume(world, out) == expected


def damaged_files(world: str, out: Path, expected: dict, after: float) -> None:
    """A file of every kept result is cut short, then another one garbled, then another one deleted."""
    draw = random.Random(world)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def garble(path: Path) -> None:
        held = bytearray(path.read_bytes())
        held[draw.randrange(len(held))] ^= 0x55
        path.write_bytes(held)

    assert resume(world, out) == expected
    for harm in (cut, garble, Path.unlink):
        for folder in (out / "stages").iterdir():
            harm(draw.choice(sorted(path for path in folder.iterdir() if path.is_file())))
        shutil.rmtree(out / "runs")
        assert resume(world, out) == expected, harm.__name__


def full_disk(world: str, out: Path, expected: dict, after: float) -> bool | None:
    """A disk that holds a third of what a run writes: one line with the way out; with more room the run is resumed."""
    return _on_a_disk(_fill, world, out, expected)


def read_only(world: str, out: Path, expected: dict, after: float) -> bool | None:
    """On a disk that cannot be written a finished run keeps its record, and one that lacks it ends in one line."""
    return _on_a_disk(_freeze, world, out, expected)


_RUN = (ctrl_c, sigterm, two_at_once, a_report_beside, copied_while_it_runs, damaged_files, full_disk, read_only)
SCENES = {"gaussians": _RUN, "language": _RUN, "training": (ctrl_c, sigterm, full_disk, read_only)}


# A small disk of its own ------------------------------------------------------------------------------------

_NEWUSER, _NEWNS, _READ_ONLY, _REMOUNT = 0x10000000, 0x00020000, 1, 32


def _mount(out: Path, kilobytes: int, flags: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(out).encode(), b"tmpfs", flags, f"size={kilobytes}k".encode()):
        raise OSError(ctypes.get_errno(), "mount")


def _on_a_disk(play, world: str, out: Path, expected: dict) -> bool | None:
    """Plays in a child that has user and mount namespaces of its own."""
    out.mkdir()
    whole = out.with_name("whole")
    pages = sum(1 + path.stat().st_size // 4096 for path in whole.glob("**/*"))

    def work():
        user, group = os.getuid(), os.getgid()
        if ctypes.CDLL(None).unshare(_NEWUSER | _NEWNS):
            return "skipped"
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount(out, 4 * pages // 3)
        return play(world, out, expected)

    code, told = end(start(work))
    assert code == 0, told
    assert told in (None, "skipped"), told
    return False if told == "skipped" else None


def _fill(world: str, out: Path, expected: dict) -> str | None:
    code, words = _said(world, out)
    if code != 1 or "Traceback" in words or not ("to resume" in words or "run again" in words):
        return f"with a full disk: {code} {words[-600:]}"
    _mount(out, 100_000, _REMOUNT)
    code, words = _said(world, out)
    return None if code == 0 and result(out) == expected else f"with room again: {code} {words[-600:]}"


def _freeze(world: str, out: Path, expected: dict) -> str | None:
    _mount(out, 100_000, _REMOUNT)
    _said(world, out)
    _mount(out, 100_000, _REMOUNT | _READ_ONLY)
    for finished in (True, False):
        if not finished:
            _mount(out, 100_000, _REMOUNT)
            shutil.rmtree(out / "runs")
            _mount(out, 100_000, _REMOUNT | _READ_ONLY)
        code, words = _said(world, out)
        told = code in (1, 2) and ("Read-only" in words or "cannot be written" in words) and "Traceback" not in words
        if not (told or (finished and code == 0)) or (finished and result(out) != expected):
            return f"{finished=}: {code} {words[-600:]}"
    return None


def _said(world: str, out: Path) -> tuple[int, str]:
    """Exit code and words of a run in this process; a traceback among them where it raised."""
    with contextlib.redirect_stderr(io.StringIO()) as words, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = WORLDS[world](out)
        except Exception:
            traceback.print_exc()
            code = -1
    return code, words.getvalue()
