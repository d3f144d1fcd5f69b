"""The command line of `alignkd`: doctor, plan, run, train, evaluate, sample, export, report, heal and bench.

Everything heavy is imported inside the command that needs it, so that `alignkd --help` is instant.
Exit codes: 0 done, 1 what was asked for could not be done (network, disk, memory) or came out otherwise than recorded,
2 something given cannot be used (an argument, a setting, a name, a file), 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from alignkd_lab import __version__
from alignkd_lab.arguments import (
    DEVICE,
    bench_options,
    evaluate_options,
    parse_count,
    run_options,
    run_request,
    sample_options,
)  # fmt: skip
from alignkd_lab.errors import AlignkdError, BadInput, CannotContinue
from alignkd_lab.memory import out_of_memory
from alignkd_lab.progress import processes

RAY = ("address", "num_cpus", "num_gpus", "max_retries")  # options of `run` that go with --engine ray
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# How safetensors, and torch where it closes a file, say that a disk is full.
FULL_DISK = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed", ". unexpected pos ")
# What older versions called things, and what to write today; an old name fails with the new one.
RENAMED_COMMANDS = {"reproduce": "run --from RECORD --check"}
# What the extra `course` brings, by the names that are imported.
COURSE = ("matplotlib", "seaborn", "altair", "vl_convert", "PIL", "IPython", "ipywidgets")


def run(arguments: argparse.Namespace) -> int:
    """Run pipelines in one world; stages that were finished before are picked up from the out folder."""
    of_ray = {name: getattr(arguments, name) for name in RAY if getattr(arguments, name) is not None}
    if of_ray and arguments.engine != "ray":
        raise BadInput(f"run: --{next(iter(of_ray)).replace('_', '-')} goes with --engine ray")
    if arguments.engine == "ray" and arguments.from_record:
        raise BadInput("run: --engine ray runs what --world and its options name; a record runs again without it")
    if arguments.from_record:
        return _run_again(arguments)
    from alignkd_lab.experiment import run_experiment

    request = run_request(arguments)
    if arguments.engine == "ray":
        from alignkd_lab.cluster import run_on_ray

        run_on_ray(request, **of_ray)
    else:
        run_experiment(**request)
    print(f"Next: alignkd report {shlex.quote(str(arguments.out))}")
    return 0


def _run_again(arguments: argparse.Namespace) -> int:
    """Run a recorded run again; with --check 1 where the figures are not compatible with the record."""
    from alignkd_lab.records import RERUNS
    from alignkd_lab.rerun import choose, compare, folder_of_code, is_reproduced, render, rerun

    for option in ("world", "preset", "target", "reward", "prompts"):
        if getattr(arguments, option):
            raise BadInput(f"run: --{option} comes from the record; leave it out beside --from")
    out = arguments.out / RERUNS
    if arguments.from_record.resolve().is_relative_to(out.resolve()):
        raise BadInput(f"run: {out} holds the record itself, so nothing would run; name another folder with --out")
    recorded = choose(arguments.from_record, arguments.algorithm, dict(arguments.set))
    out /= folder_of_code(arguments.device)
    given = {name: getattr(arguments, name) for name in ("seeds", "pipelines", "device")}
    if experiment := recorded.settings.get("experiment"):
        if arguments.device == "cuda":
            raise BadInput("run: this experiment was made on the CPU, and runs there; leave --device out")
        from alignkd_lab.study import fair_run, lead

        given["again"] = {"fair": fair_run.again, "lead": lead.again}[experiment]
    again = rerun(recorded, out=out, **given)
    if not arguments.check:
        print(f"Next: alignkd report {shlex.quote(str(out))}")
        return 0
    rows = compare(recorded, again)
    print(render(recorded, again, rows))
    return 0 if is_reproduced(rows) else 1


def train(arguments: argparse.Namespace) -> int:
    """Train a method on one's own models and pairs; its options are read by a parser of its own."""
    from alignkd_lab.lm import ranks
    from alignkd_lab.training import read_options, run

    options, given = read_options(arguments.rest)
    run(options, given)
    if ranks.leave():
        return 0
    with contextlib.suppress(ModuleNotFoundError):  # a machine without the course has the curves as numbers
        from alignkd_lab.plots.measured import draw_curves

        for curves in Path(options.out).rglob("curves.csv"):
            draw_curves(curves)
    print(f"Model, record and curves: {Path(options.out).resolve()}")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """Say what a run or a training costs; its options are those of either, read by their parsers."""
    from alignkd_lab.plan import main as say

    print(say(arguments.rest))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a model, or two on the same prompts: a table here, the record, responses and a picture in the folder."""
    from alignkd_lab import evaluation

    record = evaluation.evaluate(**_options(arguments))
    print(evaluation.render(record))
    with contextlib.suppress(ModuleNotFoundError):
        from alignkd_lab.plots.measured import draw_evaluation

        draw_evaluation(record, arguments.out / "evaluation.png")
    print(f"\nRecord, picture and responses: {arguments.out.resolve()}")
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """Write a model's answers to prompts, in the format that a judge reads."""
    from alignkd_lab.answering import sample_to

    print(f"{sample_to(**_options(arguments))} answers: {arguments.out.resolve()}")
    return 0


def _options(arguments: argparse.Namespace) -> dict:
    return {name: value for name, value in vars(arguments).items() if name not in ("command", "act")}


def export(arguments: argparse.Namespace) -> int:
    """Write a policy that a run kept as a folder of its own."""
    from alignkd_lab.lm.saved import export as export_stage

    export_stage(arguments.stage, arguments.out)
    print(f"Model and record: {arguments.out.resolve()}")
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the page, or print the same numbers as JSON; of studies that ship, a line each."""
    from alignkd_lab.records import load

    held = load(arguments.folder)  # first: what cannot be read is refused before all that draws is loaded
    from alignkd_lab.report import report_json, studies, write_report

    if arguments.json:
        print(json.dumps(report_json(arguments.folder), indent=1))
        return 0
    page = write_report(arguments.folder, arguments.out)
    if page is None:
        print("\n".join(studies(held)))
    else:
        print(f"Report: {page.resolve()}")
    return 0


def heal(arguments: argparse.Namespace) -> int:
    """Make the healed student again, from the layer cut."""
    from alignkd_lab.lm.request import check_source

    check_source("base", arguments.base)
    from alignkd_lab.lm.student import heal as heal_student

    heal_student(**_options(arguments))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Look at this machine; 1 where something that a run needs is missing."""
    from alignkd_lab.doctor import examine, render

    findings = examine(calibrate=not arguments.quick)
    print(json.dumps(findings, indent=1) if arguments.json else render(findings))
    return 0 if findings["ready"] else 1


def bench(arguments: argparse.Namespace) -> int:
    """Time and memory of every training step, against full logits, TRL and the NLL alone."""
    from alignkd_lab.bench.run import run_bench

    run_bench(**{**_options(arguments), "checkpointing": arguments.checkpointing == "on"})
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="alignkd", description="Align before you distil? Both orders, on Gaussians and on SmolLM2."
    )
    parser.add_argument("--version", action="version", version=f"alignkd-lab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(act: Callable[[argparse.Namespace], int], words: str) -> Callable:
        command = commands.add_parser(act.__name__, help=words)
        command.set_defaults(act=act)
        return command.add_argument

    option = add(doctor, "what this machine has, lacks, and what a run would cost here")
    option("--json", action="store_true", help="print the findings as JSON")
    option("--quick", action="store_true", help="skip the calibration of a few seconds")

    run_options(add(run, "run pipelines in one world; the same command resumes a stopped run"))
    add(train, "train a method on your own models and preference pairs; see alignkd train --help")

    add(plan, "tokens, time, memory and disk of a run or a training, before it starts; see alignkd plan --help")

    words = "reward, win rate, reward accuracy, KL and benchmarks of a model, or of two"
    evaluate_options(add(evaluate, words))
    sample_options(add(sample, "write a model's answers to prompts, also as MT-Bench or AlpacaEval read them"))

    option = add(export, "write a policy that a run kept as a folder that transformers loads")
    option("stage", metavar="STAGE", type=Path, help="a folder in the run's OUT/stages that holds a policy.json")
    option("out", metavar="OUT", type=Path, help="a new folder")

    option = add(report, "one HTML page on the runs in a folder")
    option("folder", metavar="DIR", type=Path)
    option("--json", action="store_true", help="print the numbers and verdicts as JSON instead")
    option("--out", metavar="FILE", type=Path, help="the page (default: DIR/report.html)")

    option = add(heal, "make the healed student again (10 minutes on two cores)")
    option("--layers", type=parse_count, metavar="N", help="layers to keep, for --set student=healed-N")
    option("--out", metavar="DIR", type=Path, help="default: a folder in the user's cache")
    option("--base", metavar="SOURCE", default="smollm2-135m-instruct", help="default: %(default)s")
    option("--device", **DEVICE)

    option = add(bench, "what a training step costs, against full logits and TRL")
    bench_options(option)
    return parser


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a scheduler says before it kills."""


@contextlib.contextmanager
def _ends_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that scratch folders go."""

    def end(number, frame) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, act, and turn expected errors into one line on stderr."""
    # Nothing that runs here may report on its user.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # What one library announces to another is no news to the person at the keyboard.
    warnings.filterwarnings("ignore", category=FutureWarning)
    with contextlib.suppress(AttributeError):  # a terminal that lacks a sign shows another, and loses no table
        sys.stdout.reconfigure(errors="replace")
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in RENAMED_COMMANDS:
        print(f"alignkd: {argv[0]} is now `alignkd {RENAMED_COMMANDS[argv[0]]}`", file=sys.stderr)
        return 2
    if argv[:1] in (["train"], ["plan"]):  # whose options are those of transformers, too
        arguments = argparse.Namespace(act={"train": train, "plan": plan}[argv[0]], rest=argv[1:])
    else:
        arguments = build_parser().parse_args(argv)
    resume = f"Finished stages are kept; to resume: {shlex.join(['alignkd', *argv])}"
    kept = resume if arguments.act in (run, train) else ""
    try:
        if arguments.act is not train and processes() > 1:
            raise BadInput(f"processes: several were started, and {arguments.act.__name__} runs in one; start one")
        with _ends_on_sigterm():
            code = arguments.act(arguments)
        sys.stdout.flush()  # here, where a reader that has gone away is no surprise
        return code
    except BrokenPipeError:
        # `alignkd report DIR --json | head`: enough was read. What is still unwritten goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except AlignkdError as error:
        print(
            f"alignkd: {error}", *[kept] * bool(kept and isinstance(error, CannotContinue)), sep="\n", file=sys.stderr
        )
        return 2 if isinstance(error, BadInput) else 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in COURSE:
            raise
        print(f"alignkd: {package} is missing; pip install 'alignkd-lab[course]' brings it", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print(f"\nStopped. {kept}".rstrip(), file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    except Exception as error:
        if (words := _of_the_machine(error)) is None:
            raise
        print(f"alignkd: {words}. {kept}".rstrip(), file=sys.stderr)
        return 1


def _of_the_machine(error: Exception) -> str | None:
    """What a disk or memory without room, or a lack of rights, made fail; None for what is a fault of the code."""
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{error.filename or 'disk'}: {error.strerror}"
    if out_of_memory(error):
        return "memory does not hold the models; choose smaller ones"
    return "disk: No space left on device" if any(words in str(error) for words in FULL_DISK) else None
