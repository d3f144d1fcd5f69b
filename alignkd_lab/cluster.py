"""`alignkd run --engine ray`: the parts of a run as tasks of a Ray cluster.

Ray schedules the tasks and gives those whose node died to another one. A task calls `run_experiment`, so records and
stages lie where a run without Ray puts them, and what they hold is not computed again. For that the out folder must be
on a file system that all nodes share. Sources: Moritz et al. 2018, Ray, OSDI; https://docs.ray.io.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from alignkd_lab import __version__
from alignkd_lab.errors import AlignkdError, BadInput, CannotContinue, check_number
from alignkd_lab.experiment import parts, run_experiment
from alignkd_lab.paths import make_folder

# Read when Ray is imported: nobody without the token may use a cluster, and nothing reports on its user.
DEFAULTS = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
HANDED_ON = ("ALIGNKD_", "HF_HUB_")  # variables by which the command here is set up, and its tasks, too


def run_on_ray(
    request: dict[str, Any],
    *,
    address: str | None = None,
    num_cpus: int = 1,
    num_gpus: float | None = None,
    max_retries: int = 3,
) -> list[Path]:
    """Runs `run_experiment(**request)` in parts (`experiment.parts`), each a Ray task; returns the records' files.

    `address` is a cluster's (`host:port`, or `auto` for this machine's); without one a cluster of this machine alone is
    started, and ended with the run. `num_cpus` and `num_gpus` are what a task reserves; without `num_gpus` one GPU
    where the cluster has some and `device` allows. `max_retries`: how often a task whose node or worker died is run
    again. A task that fails otherwise does not end the others.

    Raises:
        BadInput: what `run_experiment` refuses, no Ray, or requests that cannot be.
        CannotContinue: no cluster at the address, another token than its, or tasks that failed.
    """
    tasks = parts(request)
    check_number("num_cpus", num_cpus, least=1, whole=True)
    check_number("num_gpus", num_gpus or 0, least=0)
    check_number("max_retries", max_retries, least=0, whole=True)
    if (num_gpus or 0) > 1 and num_gpus % 1:
        raise BadInput(f"num_gpus must be a whole number or a part of 1, not {num_gpus:g}")
    device, out = request.get("device"), Path(request.get("out", "out")).resolve()
    if num_gpus is not None and device == ("cuda" if num_gpus == 0 else "cpu"):
        raise BadInput(f"num_gpus: {num_gpus:g} and device {device!r} do not go together; leave one out")
    make_folder(out)
    if "ray" not in sys.modules:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadInput("engine: Ray is not installed; pip install 'alignkd-lab[ray]' brings it") from error
    _connect(ray, address)
    try:
        num_gpus, device = _reserve(ray, address, num_cpus, num_gpus, device)
        with tempfile.NamedTemporaryFile("w", dir=out, prefix=".shared-") as shared:
            shared.write(__version__)
            shared.flush()
            work = ray.remote(_run).options(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=max_retries)
            return _finish(ray, [work.remote({**task, "out": out, "device": device}, shared.name) for task in tasks])
    finally:
        ray.shutdown()


def _connect(ray, address: str | None) -> None:
    """As `ray.init`; a signal that ends the command still ends it as before."""
    variables = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "WARNING"}
    try:
        if address and re.fullmatch(r"[^/]+:\d+", address):  # Ray itself looks for two minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address or "local", runtime_env={"env_vars": variables}, **quiet)
    except Exception as error:  # of many kinds, a plain Exception among them
        if not address:
            raise CannotContinue(f"engine: Ray does not start here: {error}") from error
        way_out = "start one, and put its token (ray get-auth-token there) into ~/.ray/auth_token here"
        raise CannotContinue(f"address: no cluster lets us in at {address}: {error}; {way_out}") from error
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _reserve(ray, address: str | None, num_cpus: int, num_gpus: float | None, device: str | None) -> tuple:
    """GPUs of a task and its device, which uses what is reserved and nothing else."""
    if num_gpus is None:
        num_gpus = int(device == "cuda" or (device is None and ray.cluster_resources().get("GPU", 0) >= 1))
    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= num_cpus and node.get("GPU", 0) >= num_gpus for node in has):
        lacking = f"no node has the {num_cpus} CPUs and {num_gpus:g} GPUs that a task asks for"
        if address is None:
            raise BadInput(f"num_cpus, num_gpus: {lacking}; ask for less")
        print(f"{lacking}; the tasks wait until one joins the cluster", file=sys.stderr)
    return num_gpus, "cuda" if num_gpus else "cpu"


def _run(request: dict[str, Any], shared: str) -> list[Path]:
    """A task, on some node."""
    gc.collect()  # a process runs several tasks, and the language world freezes the heap that it finds
    here = Path(shared)
    if not here.is_file():
        raise BadInput(f"out: {here.parent} is not the same folder on {os.uname().nodename}; name one that nodes share")
    if (other := here.read_text()) != __version__:
        raise BadInput(f"{os.uname().nodename} has version {__version__}, and {other} asks it; install the same")
    return run_experiment(**request)


def _finish(ray, waiting: list) -> list[Path]:
    """The files of all tasks, when they have ended; Ctrl-C ends them."""
    files, failures, count = [], [], len(waiting)
    try:
        with tqdm(total=count, unit="task") as bar:
            while waiting:
                (done, *_), waiting = ray.wait(waiting)
                try:
                    files += ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    failures.append(error.cause if isinstance(error.cause, AlignkdError) else error)
                except ray.exceptions.RayError as error:
                    failures.append(error)
                bar.update()
                if failures:
                    bar.set_postfix(failed=len(failures))
    except KeyboardInterrupt:
        for task in waiting:
            ray.cancel(task)
        ray.wait(waiting, num_returns=len(waiting), timeout=30)
        raise
    if failures:
        kind = BadInput if isinstance(failures[0], BadInput) else CannotContinue
        raise kind(f"{len(failures)} of {count} tasks failed, the first with: {failures[0]}") from failures[0]
    return files
