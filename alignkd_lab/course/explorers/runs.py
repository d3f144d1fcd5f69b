"""`alignkd run` as a child process of a page: what is asked of it, its start and stop, and what it tells.

A busy kernel hears no button, so the work is done elsewhere. Stages that were finished are kept by the run itself;
stopping and starting again costs the stage that was under way. The child ends when the page's kernel is gone, however
that went: a kernel that was killed cannot end its runs itself. No widgets here: see `run_panel`.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import json
import math
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alignkd_lab.arguments import ALGORITHMS, PRESETS, WORLDS, parse_pipelines, parse_seeds, parse_setting
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.experiment import check_pipelines
from alignkd_lab.lm.rewards import target
from alignkd_lab.presets import default_pipelines, override, preset
from alignkd_lab.progress import VARIABLE, read_events

STATUSES = ("ready", "running", "stopped", "finished", "failed")
CHILD = (sys.executable, "-m", "alignkd_lab.course.explorers.runs")
GRACE = 5.0  # seconds from the request to end, which leaves no half-written stage, to the end by force
AGAIN = 0.5  # seconds until a request to end is repeated
FOLDER = "panel"  # below `out`: what the panel itself writes


@dataclass(frozen=True)
class Request:
    """What `alignkd run` is asked for; an empty text takes the preset's default.

    Attributes:
        pipelines, seeds: as on the command line, e.g. `orders,controls` and `0-2`.
        settings: changes of the preset's settings.
        out: where records and stages go.
    """

    world: str = "lm"
    preset: str = "tiny"
    pipelines: str = ""
    seeds: str = ""
    algorithm: str = ""
    target: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: Path = Path("out")

    @property
    def arguments(self) -> list[str]:
        """What follows `alignkd` on the command line."""
        made = ["run", "--world", self.world, "--preset", self.preset]
        for name in ("pipelines", "seeds", "algorithm", "target"):
            if value := getattr(self, name):
                made += [f"--{name}", value]
        if self.settings:
            made += ["--set", *(f"{name}={_written(value)}" for name, value in self.settings.items())]
        return [*made, "--out", str(self.out)]

    @property
    def command(self) -> str:
        """The line that does the same in a terminal."""
        return shlex.join(["alignkd", *self.arguments])

    @property
    def name(self) -> str:
        """A short hash of all that is asked for but the place: requests of one name go on where the other stopped."""
        return hashlib.sha256(repr(self.arguments[:-1]).encode()).hexdigest()[:12]

    def check(self) -> None:
        """Raises BadInput for what the command line would refuse, in its words."""
        for what, name, known in (("world", self.world, WORLDS), ("preset", self.preset, PRESETS)):
            if name not in known:
                raise UnknownName(what, name, known)
        if self.algorithm and self.algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", self.algorithm, ALGORITHMS)
        try:
            pipelines = parse_pipelines(self.pipelines) if self.pipelines else None
            seeds = parse_seeds(self.seeds) if self.seeds.strip() else ()
        except argparse.ArgumentTypeError as error:
            raise BadInput(str(error)) from error
        check_pipelines(self.world, pipelines, self.algorithm)
        settings = self.base_settings()
        if self.world == "lm":
            target(settings.target)
            if settings.trial_seed in seeds:
                raise BadInput(f"seed: {settings.trial_seed} is the seed of the learning-rate trials; choose another")
        if self.out.exists() and not self.out.is_dir():
            raise BadInput(f"folder: {self.out} is a file; name a folder")

    def base_settings(self) -> Any:
        """The settings of the run: `LmSettings`, or `MogSettings` of its first cell. Raises BadInput."""
        changes = dict(self.settings)
        if self.world == "lm" and self.target:
            changes["target"] = self.target
        return override(getattr(preset(self.preset), self.world), changes)

    def algorithms(self) -> tuple[str, ...]:
        """Those that run: without a choice both on Gaussians, and DPO on text."""
        if self.algorithm:
            return (self.algorithm,)
        return ALGORITHMS if self.world == "mog" else ("dpo",)

    def pipeline_names(self) -> tuple[str, ...]:
        """The pipelines asked for, without the yardsticks, which always run."""
        if self.pipelines:
            return parse_pipelines(self.pipelines)
        return default_pipelines(self.world, self.algorithms()[-1])

    def seed_numbers(self) -> tuple[int, ...]:
        """The seeds that run."""
        if self.seeds.strip():
            return parse_seeds(self.seeds)
        return getattr(preset(self.preset), f"{self.world}_seeds")

    def cells(self) -> int:
        """Cells of the Gaussian world: algorithms × sharpenings × KL weights."""
        chosen = preset(self.preset)
        sharpenings = 1 if "sharpening" in self.settings else len(chosen.sharpenings)
        betas = 1 if "beta" in self.settings else len(chosen.betas)
        return len(self.algorithms()) * sharpenings * betas


def numbers(world: str, algorithm: str) -> dict[str, str]:
    """The setting that each number control sets."""
    if world == "mog":
        return {"sharpening": "sharpening", "beta": "beta"}
    return {"kd_temperature": "kd_temperature", "rlhf_beta" if algorithm == "rlhf" else "beta": "beta"}


def request_of(chosen: Mapping[str, Any]) -> Request:
    """What the fields' values ask for. Raises BadInput for other settings that are none."""
    world, algorithm = chosen["world"], chosen["algorithm"]
    settings = dict(map(_setting, chosen["settings"].split()))
    default = getattr(preset(chosen["preset"]), world)
    for name, control in numbers(world, algorithm).items():
        one_cell = world == "mog" and chosen["cells"] == "one"
        changed = world == "lm" and not math.isclose(chosen[control], getattr(default, name))
        if name not in settings and (one_cell or changed):
            settings[name] = chosen[control]
    return Request(
        world=world,
        preset=chosen["preset"],
        pipelines=chosen["pipelines"],
        seeds=chosen["seeds"].strip(),
        algorithm=algorithm,
        target=chosen["target"] if world == "lm" else "",
        settings=settings,
        out=Path(chosen["out"].strip() or ".").expanduser(),
    )


class Run:
    """One request as a process, which may be started, stopped and started again.

    Attributes:
        status: one of `STATUSES`.
        resumed: whether the last start went on from an earlier one.
        error: the sentence in which a run said why it failed.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.status, self.resumed, self.error = request, "ready", False, ""
        self.folder = request.out / FOLDER
        self._process: subprocess.Popen | None = None
        self._lock: FileLock | None = None
        self._stopping = self._asked = 0.0  # when the end was asked for, first and last
        self._earlier = 0  # events of earlier starts
        self._polling = threading.Lock()

    @property
    def _progress(self) -> Path:
        return self.folder / f"{self.request.name}.progress"

    @property
    def log(self) -> Path:
        """What the child printed."""
        return self.folder / f"{self.request.name}.log"

    def start(self) -> None:
        """Start the child.

        Raises:
            BadInput: the request cannot be run, it runs already, or another run writes into the folder.
        """
        if self.status == "running":
            raise BadInput("run: it is under way; stop it before you start it again")
        self.request.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"folder: {self.request.out} cannot be written ({error.strerror}); name another") from error
        lock = FileLock(self.request.out / FOLDER / "run.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise BadInput(
                f"folder: another run writes into {self.request.out}; stop it first, or name another folder"
            ) from None
        self._earlier = len(read_events(self._progress))
        self.resumed, self.error, self._stopping = self._earlier > 0, "", 0.0
        # tqdm's bars would fill the log; what they show is told in the progress file.
        environment = {**os.environ, VARIABLE: str(self._progress.resolve()), "TQDM_DISABLE": "1"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*CHILD, *self.request.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self._lock, self.status = lock, "running"
        _UNDER_WAY.append(self)

    def stop(self) -> None:
        """Ask the child to end; finished stages stay. `poll` tells when it has."""
        if self.status == "running" and not self._stopping:
            self._stopping = self._asked = time.monotonic()
            self._signal(signal.SIGINT)

    def poll(self) -> str:
        """The status now; from any thread."""
        with self._polling:
            return self._polled()

    def _polled(self) -> str:
        if self.status != "running":
            return self.status
        code = self._process.poll()
        if code is None:
            if self._stopping:
                self._press()
            return self.status
        if code and not self._stopping:
            self.error = _sentence(self.log.read_text(encoding="utf-8", errors="replace")) or f"exit code {code}"
        self.status = "finished" if code == 0 else "stopped" if self._stopping else "failed"
        self._lock.release()
        _UNDER_WAY.remove(self)
        return self.status

    def wait(self, seconds: float = 600.0) -> str:
        """The status once the child has ended, or after `seconds`."""
        until = time.monotonic() + seconds
        while self.poll() == "running" and time.monotonic() < until:
            time.sleep(0.05)
        return self.status

    def events(self, earlier: bool = True) -> list[dict]:
        """What the run has told (see `alignkd_lab.progress`), by earlier starts, too, unless `earlier` is False."""
        return read_events(self._progress)[0 if earlier else self._earlier :]

    def _press(self) -> None:
        """Ask again, since a child that has just begun hears nothing yet; then use force."""
        now = time.monotonic()
        if now - self._stopping > GRACE:
            self._signal(signal.SIGKILL)
        elif now - self._asked > AGAIN:
            self._asked = now
            self._signal(signal.SIGINT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(self._process.pid, number)


_UNDER_WAY: list[Run] = []


def under_way(out: Path) -> Run | None:
    """The run of this kernel that writes into the folder, if there is one."""
    here = [run for run in list(_UNDER_WAY) if run.request.out.resolve() == out.resolve()]
    return next((run for run in here if run.poll() == "running"), None)


@atexit.register
def end_all() -> None:
    """End all runs of this kernel: nothing may go on unseen."""
    for run in list(_UNDER_WAY):
        run.stop()
    for run in list(_UNDER_WAY):
        if run.wait(GRACE + 2) == "running":
            run._signal(signal.SIGKILL)


def _sentence(log: str) -> str:
    """The error in the words of the command line, else the last line of the log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("alignkd: ")]
    return said[-1].removeprefix("alignkd: ") if said else (lines or [""])[-1]


def _written(value: Any) -> str:
    """A setting's value as the command line reads it."""
    return value if isinstance(value, str) else json.dumps(value)


def _setting(text: str) -> tuple[str, Any]:
    try:
        return parse_setting(text)
    except argparse.ArgumentTypeError as error:
        raise BadInput(f"other settings: {error}") from error


# The child


def main(arguments: Sequence[str]) -> None:
    """`alignkd` with these arguments, in a process group of its own."""
    # A kernel ignores the interrupt while it is idle, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    sys.argv = ["alignkd", *arguments]
    runpy.run_module("alignkd_lab.cli", run_name="__main__")  # exits with its code


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.getpgid(0) == os.getpid():  # else the group holds others
        os.killpg(0, signal.SIGINT)
        time.sleep(GRACE)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
