"""`alignkd run` as a child process of a page: what is asked of it, its start and stop, and what it tells.

A busy kernel hears no button, so the work is done elsewhere. The run itself keeps the stages that were finished;
stopping and starting again costs the one that was under way. The child ends when the kernel is gone, however that went.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

from alignkd_lab.arguments import parse_pipelines, parse_seeds, parse_setting
from alignkd_lab.errors import AlignkdError, BadInput, refusing
from alignkd_lab.experiment import parts, run_experiment
from alignkd_lab.paths import make_folder
from alignkd_lab.progress import VARIABLE, read_events, tell

# Where it can be done safely, children are forks of a process that has loaded torch while a reader read.
_FORKS = sys.platform == "linux"
_CONTEXT = multiprocessing.get_context("forkserver" if _FORKS else "spawn")
_UNDER_WAY: dict[Path, Run] = {}


@dataclass(frozen=True)
class Request:
    """What `alignkd run` is asked for, as it is written there (`settings` is what follows `--set`, with a shell's
    quotes); an empty text takes the preset's default."""

    world: str = "mog"
    preset: str = "laptop"
    pipelines: str = ""
    algorithm: str = ""
    seeds: str = ""
    settings: str = ""
    out: Path = Path("out")

    @property
    def command(self) -> str:
        """The line that does the same in a terminal. Raises BadInput for settings that cannot be read."""
        said = ["alignkd", "run"]
        for name in ("world", "preset", "pipelines", "algorithm", "seeds"):
            if value := getattr(self, name).strip():
                said += [f"--{name}", value]
        said += ["--set", *settings] if (settings := self._each_setting()) else []
        return shlex.join([*said, "--out", str(self.out)])

    @property
    def keywords(self) -> dict[str, Any]:
        """The same for `run_experiment`. Raises BadInput for what the command line could not read."""
        try:
            return {
                "world": self.world,
                "preset": self.preset,
                "pipelines": parse_pipelines(self.pipelines) if self.pipelines.strip() else None,
                "algorithm": self.algorithm or None,
                "seeds": parse_seeds(self.seeds) if self.seeds.strip() else None,
                "overrides": dict(map(parse_setting, self._each_setting())),
                "out": self.out,
            }
        except argparse.ArgumentTypeError as error:
            raise BadInput(str(error)) from error

    def _each_setting(self) -> list[str]:
        with refusing(f"settings: {self.settings!r} cannot be read", ValueError, way_out="close the quotation"):
            return shlex.split(self.settings)

    def parts(self) -> list[dict[str, Any]]:
        """Its cells or seeds (`experiment.parts`). Raises BadInput for what the run would refuse without a model."""
        return parts(self.keywords)


def get_ready() -> None:
    """Load what a run needs before it is asked for."""
    if _FORKS:
        _CONTEXT.set_forkserver_preload([__name__, "alignkd_lab.mog.world"])
        resource_tracker.ensure_running()  # it would unblock the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for the server: an interrupt means a cell
        forkserver.ensure_running()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


class Run:
    """One request as a process, which may be started, stopped and started again.

    Attributes:
        status: ready, running, stopped, finished or failed.
        error: the sentence in which a run said why it failed.
        files: the records of a run that has finished.
        log: what the child printed.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.status, self.error, self.files, self._stopping = request, "ready", "", [], False

    def start(self) -> None:
        """Start the child. Raises BadInput: the request cannot be run, or it runs already."""
        if self.poll() == "running":
            raise BadInput("run: it is under way; stop it before you start it again")
        self.request.parts()
        make_folder(self.request.out)
        folder = Path(tempfile.mkdtemp(prefix="alignkd-"))
        self._told, self.log, self.error, self._stopping = folder / "progress", folder / "log", "", False
        work = self.request.keywords, str(self._told), str(self.log)
        self._process = _CONTEXT.Process(target=_work, args=work, daemon=True)
        self._process.start()
        self.status = "running"
        _UNDER_WAY[self.request.out.resolve()] = self

    def stop(self) -> None:
        """End the child; finished stages stay, whatever the moment."""
        if self.status == "running":
            self._stopping = True
            self._process.terminate()

    def poll(self) -> str:
        """The status now."""
        if self.status == "running" and not self._process.is_alive():
            last = (self.events() or [{"what": ""}])[-1]
            self.files = last.get("files", [])
            self.status = "finished" if last["what"] == "end" else "stopped" if self._stopping else "failed"
            if self.status == "failed":
                self.error = last.get("error") or f"It ended with exit code {self._process.exitcode}."
        return self.status

    def events(self) -> list[dict]:
        """What the run has told since its start (see `alignkd_lab.progress`)."""
        return read_events(self._told)


def under_way(out: Path) -> Run | None:
    """The run of this kernel that writes into the folder, if there is one."""
    run = _UNDER_WAY.get(out.resolve())
    return run if run and run.poll() == "running" else None


def _work(keywords: dict[str, Any], told: str, log: str) -> None:
    """The child: its events go to `told`, what it prints to `log`."""
    threading.Thread(target=_leave_with_the_kernel, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[VARIABLE] = told
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        tell("end", files=list(map(str, run_experiment(**keywords))))
    except BaseException as error:
        tell("failed", error=str(error) if isinstance(error, AlignkdError) else repr(error))
        raise


def _leave_with_the_kernel() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
