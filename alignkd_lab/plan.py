"""`alignkd plan`: what `alignkd run` and `alignkd train` would cost here, before they start.

Tokens are counted from stages and settings, or from the very texts; seconds are tokens times what this machine takes
for one at the run's width, vocabulary, lengths and losses. For a card that is not here they are an estimate.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from alignkd_lab.arguments import parse_count, run_options, run_request
from alignkd_lab.clock import CARDS, Rates, rates_of
from alignkd_lab.errors import BadInput
from alignkd_lab.options import read_options
from alignkd_lab.plan_run import TARGET_RATE, plan_run
from alignkd_lab.plan_training import plan_train
from alignkd_lab.progress import beside, duration
from alignkd_lab.results import KINDS


def main(argv: Sequence[str]) -> str:
    """The plan that `alignkd plan run ...` or `alignkd plan train METHOD ...` asks for, as a table or as JSON.

    Raises:
        BadInput, CannotContinue: what the run or the training would refuse without weights, or a size not known here.
    """
    own = argparse.ArgumentParser(
        prog="alignkd plan", usage="alignkd plan run|train [that command's options] [option ...]", allow_abbrev=False
    )
    own.add_argument("what", choices=("run", "train"), help="what is to be planned; its own options follow")
    own.add_argument("--json", action="store_true", help="print the plan as JSON")
    own.add_argument("--card", metavar="NAME", help=f"estimate for {', '.join(CARDS)}, or times an H100's speed: 0.5")
    words = "share of responses that meet a run's target (default: %(default)s)"
    own.add_argument("--target-rate", metavar="SHARE", type=float, default=TARGET_RATE, help=words)
    words = "that a model writes (default: as many as it may, or, beside pairs, as chosen responses have)"
    own.add_argument("--response-tokens", metavar="N", type=parse_count, help=words)
    given, rest = own.parse_known_args(argv)
    if not 0 < given.target_rate < 1:
        raise BadInput(f"target_rate: {given.target_rate} must lie between 0 and 1")
    rates = rates_of(given.card) if given.card else None
    if given.what == "train":
        options, arguments = read_options(rest)
        _one_place(rates, arguments.get("use_cpu"))
        made = plan_train(options, arguments, rates, given.response_tokens)
    else:
        parser = argparse.ArgumentParser(prog="alignkd plan run", allow_abbrev=False)
        run_options(parser.add_argument)
        arguments = parser.parse_args(rest)
        if arguments.from_record or arguments.engine != "local":
            raise BadInput("plan: a run on this machine is planned; leave --from and --engine out")
        _one_place(rates, arguments.device == "cpu" or arguments.world == "mog")
        made = plan_run(run_request(arguments), rates, given.target_rate, given.response_tokens)
    return json.dumps(made, indent=1) if given.json else render(made)


def _one_place(rates: Rates | None, cpu: bool | None) -> None:
    if rates and cpu:
        raise BadInput("card: the plan is of a CPU, as it is asked for or as Gaussians were timed; leave --card out")


def render(plan: dict[str, Any]) -> str:
    """A table of the stages, and what they come to."""
    lines = [f"{'':<32}{'sampled':>12}{'trained':>12}{'scored':>12}{'time':>14}"]
    for row in plan["stages"]:
        tokens = "".join(f"{row[kind]:>12,}" for kind in KINDS)
        lines.append(f"{row['stage']:<32}{tokens}{duration(row['seconds']):>14}")
    seeds = f" for {plan['seeds']} seeds" if plan.get("seeds", 1) > 1 else ""
    how = f"an estimate, {plan['estimate']}"
    if not plan["estimate"]:
        how = f"{plan['dtype']}, measured here{beside(plan['busy_cores'])}"
    lines += ["", f"time      {duration(plan['seconds'])}{seeds} on {plan['device']} ({how})"]
    if "memory_bytes" in plan:
        disk, wanted = plan["disk_bytes"], sum(plan["download_bytes"].values())
        assumed = {name: plan[name] for name in ("response_tokens", "target_rate") if name in plan}
        lines += [
            f"memory    about {plan['memory_bytes'] / 1e9:.1f} GB",
            f"disk      {disk['at_most'] / 1e9:.2f} GB while it runs, {disk['left'] / 1e9:.2f} GB at the end",
            ", ".join([f"download  {wanted / 1e6:,.0f} MB", *plan["download_bytes"]]),
            "assumed   " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in assumed.items()),
        ]
    return "\n".join(lines)
