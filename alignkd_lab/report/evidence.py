"""What the study's records hold, by arm and setting, in numbers: the page and its sentences are made from this."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.costs import stages_of
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.stats import Interval, paired_difference, t_interval
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan
from alignkd_lab.study.boundary import Boundary

FOLDER = "study"  # below the records
NOT_RUN = "not run"
_REGISTERED_LM = ("laptop", "gpu")


@dataclass(frozen=True)
class Place:
    """One kind of machine and size that the language part ran on; places are never pooled."""

    preset: str
    device: str
    runs: Sequence[dict]

    def run(self, cell: plan.Cell) -> dict | None:
        """The seeds of a registered cell that its records hold in full; None if there are none."""
        run = plan.run_of(self.runs, cell, self.preset, self.device)
        held = plan.seeds_held(run, cell)
        return {**run, "records": [record for record in run["records"] if record["seed"] in held]} if held else None

    def by_value(self, arm: str) -> dict[plan.Cell, dict | None]:
        """An arm's runs, with the main experiment's between them; empty where nothing of the arm itself was run."""
        held = {cell: self.run(cell) for cell in plan.with_main(arm)}
        return held if any(run for cell, run in held.items() if cell in plan.ARMS[arm].cells) else {}

    def orders(self, cell: plan.Cell) -> tuple[dict, dict] | None:
        """The runs of A-K and of K-A that a cell compares; the order that it lacks is its partner's.

        None where the cell holds no order, or where nothing may be concluded from it or from its partner.
        """
        lone = not set(ORDERS) <= set(cell.pipelines)
        beside = plan.partner(cell) if lone else cell
        if not set(ORDERS) & set(cell.pipelines) or why_not(self.run(cell), cell) or why_not(self.run(beside), beside):
            return None
        a_k, k_a = (self.run(cell if order in cell.pipelines else beside) for order in (A_K, K_A))
        return a_k, k_a

    def main(self) -> dict | None:
        """The run of the main experiment."""
        return self.run(plan.ARMS["main"].cells[0])

    @property
    def words(self) -> str:
        kind, comma, products = self.device.partition(",")
        return f"SmolLM2 ({self.preset}, {kind.upper()}{comma}{products})"


class Setting(NamedTuple):
    """One value of a Gaussian arm under one algorithm: its run, and what `runs.summarise_run` says of it."""

    arm: str
    value: float
    algorithm: str
    run: dict
    summary: dict

    @property
    def valid(self) -> bool:
        """Whether its checks passed: from one whose check failed nothing is concluded."""
        return self.summary["claims"][0]["verdict"] != "invalid"


@dataclass(frozen=True)
class Evidence:
    """All records of the study: arms and map of the Gaussians, and the language world by place."""

    gaussians: mog_study.Study | None
    map: Boundary | None
    places: Sequence[Place]

    @classmethod
    def below(cls, folder: Path, runs: Sequence[dict]) -> Evidence | None:
        """The study's part of a folder of records; None where it holds none. `runs` are the folder's."""
        arms, swept = (folder / FOLDER / file.name for file in (mog_study.FILE, mog_study.MAP_FILE))
        gaussians = mog_study.load(arms) if arms.is_file() else None
        held_map = mog_study.load_map(swept) if swept.is_file() else None
        places = [
            Place(preset, device, [run for run in runs if (run["preset"], run["device"]) == (preset, device)])
            for preset in _REGISTERED_LM
            for device in dict.fromkeys(run["device"] for run in runs if run["world"] == "lm")
        ]
        held = [place for place in places if any(place.run(cell) for cell in plan.cells())]
        return cls(gaussians, held_map, held) if gaussians or held_map or held else None

    @cached_property
    def settings(self) -> list[Setting]:
        """Every Gaussian setting of every arm, summarised once."""
        if self.gaussians is None:
            return []
        return [
            Setting(name, value, algorithm, run, summarise_run(run))
            for name in mog_study.ARMS
            for algorithm in ALGORITHMS
            for value, run in self.gaussians.runs(name, algorithm).items()
        ]

    def distinct(self, algorithm: str) -> list[Setting]:
        """Every setting of the registered arms under an algorithm once: the main one stands in several."""
        main = self.gaussian(algorithm)
        return [
            setting
            for setting in self.settings
            if setting.algorithm == algorithm
            and setting.arm in mog_study.REGISTERED
            and (setting is main or setting.run["settings"] != main.run["settings"])
        ]

    def gaussian(self, algorithm: str) -> Setting | None:
        """The main setting."""
        main = MogSettings().beta
        return next((held for held in self.settings if held[:3] == ("beta", main, algorithm)), None)


def complete(run: Mapping | None, cell: plan.Cell) -> bool:
    """Whether all registered seeds are there: nothing is concluded from fewer."""
    return run is not None and len(run["records"]) == len(cell.seeds)


def why_not(run: Mapping | None, cell: plan.Cell) -> str:
    """Why nothing may be concluded from a cell: not run, too few seeds, or a check that failed; empty if it may."""
    if run is None:
        return NOT_RUN
    if not complete(run, cell):
        return f"{len(run['records'])} of {len(cell.seeds)} seeds so far, nothing is concluded"
    failed = failed_check(run_checks(run))
    return f"invalid, the check {failed.replace('_', ' ')} failed" if failed else ""


def difference(run: Mapping, first: str, second: str, metric: str = "reward") -> Interval | None:
    """`first` minus `second`, paired by seed, with its 95 % t-interval; None where they share no seed."""
    return across(run, run, (first, second), metric)


def across(first: Mapping, second: Mapping, pipelines: tuple[str, str], metric: str = "reward") -> Interval | None:
    """`pipelines[0]` of the first run minus `pipelines[1]` of the second one, paired by seed."""
    return paired(*(by_seed(run, name, metric) for run, name in zip((first, second), pipelines, strict=True)))


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Interval | None:
    """`first` minus `second`, each by seed, over the seeds that they share; None where they share none."""
    shared = sorted(set(first) & set(second))
    return paired_difference(*([values[seed] for seed in shared] for values in (first, second))) if shared else None


def leads(run: Mapping, k_a: Mapping | None = None, metric: str = "reward") -> dict[int, float]:
    """A-K's reward (or another metric) minus K-A's, by seed; that of K-A in another run if one is given."""
    first, second = by_seed(run, A_K, metric), by_seed(k_a or run, K_A, metric)
    return {seed: first[seed] - second[seed] for seed in first if seed in second}


def mean(run: Mapping, pipeline: str, metric: str = "reward") -> Interval | None:
    """A metric's mean over the seeds with its 95 % t-interval."""
    values = by_seed(run, pipeline, metric)
    return t_interval(list(values.values())) if values else None


def pairs(run: Mapping, pipeline: str) -> dict[int, int]:
    """Informative pairs that the pipeline's alignment had, by seed."""
    return {seed: info["informative_pairs"] for seed, info in alignments(run, pipeline)}


def sampled_rates(run: Mapping, pipeline: str) -> dict[int, float]:
    """Target's rate in the samples that the pipeline's pairs were made of, by seed; finer than that of the test."""
    found = alignments(run, pipeline)
    return {seed: info["target_responses"] / info["responses"] for seed, info in found if "target_responses" in info}


def alignments(run: Mapping, pipeline: str) -> Iterator[tuple[int, dict]]:
    """Each seed with what the pipeline's last alignment from pairs left in its record."""
    for record in run["records"]:
        if pipeline in record["pipelines"]:
            infos = [stage.get("info", {}) for stage in stages_of(record, pipeline)]
            yield from [(record["seed"], info) for info in infos if "informative_pairs" in info][-1:]
