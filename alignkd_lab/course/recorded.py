"""What was measured and is shipped: the recorded runs, and how the shipped student was cut."""

from __future__ import annotations

import functools
import json

from alignkd_lab.claims import CLAIMS
from alignkd_lab.errors import BadInput
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.records import load_records
from alignkd_lab.report.evidence import difference
from alignkd_lab.report.tables import claims_table
from alignkd_lab.runs import group_runs, summarise_run
from alignkd_lab.stats import Interval

VERDICTS = {
    "holds": "holds: the seeds show it",
    "fails": "fails: the seeds show the opposite",
    "undecided": "undecided: the seeds show neither, some are missing, or a check before the verdicts failed",
}


@functools.cache
def recorded_runs() -> list[dict]:
    """All runs that the project ships, read once."""
    return group_runs(load_records(data_folder() / "records"))


def recorded_gaussians(algorithm: str = "rlhf", beta: float = 0.5, sharpening: float = 2.0) -> dict:
    """The recorded run of the Gaussian world with these settings. Raises BadInput where there is none."""
    wanted = {"beta": beta, "sharpening": sharpening}
    for run in recorded_runs():
        settings = run["settings"]
        if run["world"] == "mog" and run["algorithm"] == algorithm and wanted.items() <= settings.items():
            return run
    raise BadInput(f"no recorded run of the Gaussian world with {algorithm}, beta {beta:g}, sharpening {sharpening:g}")


def recorded_smollm2(target: str | None = None) -> dict:
    """The study: of the recorded runs of the language world the one with the most seeds of both orders.

    Where several have as many, the one with the most pipelines, then the one under DPO: whatever came out. With
    `target`, of the runs with that target. Raises BadInput where there is none.
    """

    def size(run: dict) -> tuple[int, int, bool]:
        held = [set(record["pipelines"]) for record in run["records"] if {K_A, A_K} <= set(record["pipelines"])]
        return len(held), len(set.intersection(*held)) if held else 0, run["algorithm"] == "dpo"

    runs = [run for run in recorded_runs() if run["world"] == "lm" and run["preset"] != "tiny" and size(run)[0]]
    runs = [run for run in runs if target in (None, run["target"])]
    if not runs:
        words, option = (f" with the target {target}", f" --set target={target}") if target else ("", "")
        raise BadInput(
            f"no recorded run of the language world{words} holds both orders: "
            f"make one with `alignkd run --world lm{option}`"
        )
    return max(runs, key=size)


@functools.cache
def recorded_claims() -> dict[tuple[str, str], dict]:
    """Of each claim the row of the study's table, by metric and statistic."""
    rows = claims_table(summarise_run(recorded_smollm2()))
    return {(claim.metric, claim.statistic): row for claim, row in zip(CLAIMS, rows, strict=True)}


def recorded_verdict(metric: str, statistic: str = "mean_difference") -> str:
    """`holds`, `fails` or `undecided`; so is a claim that a failed check makes invalid, or that lacks seeds."""
    verdict = recorded_claims()[metric, statistic]["verdict"]
    return verdict if verdict in VERDICTS else "undecided"


def recorded_lead(target: str | None) -> Interval:
    """A-K's lead in reward in the largest recorded run (with this target), with its 95 % interval."""
    return difference(recorded_smollm2(target), A_K, K_A)


def measured_influence() -> list[float]:
    """1 minus the mean cosine similarity of what enters and what leaves each of the base's layers."""
    return json.loads((data_folder() / "student" / "recipe.json").read_text())["block_influence"]
