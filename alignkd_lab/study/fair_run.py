"""Experiment 1 of the plan's second part (`data/records/PLAN.md`): is ADPA better, given a fair chance?

`python -m alignkd_lab.study.fair_run FOLDER` tunes every method alike, then runs the seeds; the same command goes on
where it was stopped. Each trial and each method of a seed is a record in FOLDER/runs, and is never run again.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from alignkd_lab.records import Records
from alignkd_lab.study.fair import FairLab, Setting, Sizes
from alignkd_lab.study.lab import Lab, Over, command, say

TUNING = 900_001, 900_002
SEEDS, MORE_SEEDS = range(5), range(8)  # MORE_SEEDS for what the family compares
EARLY = 1 / 16, 1 / 8, 1 / 4, 1  # of the steps
CURVES = range(1, 4)  # the seeds that measure there, for the frontier (PLAN.md); seed 0 has even points
KL_BUDGET = 10.0  # nats a response from the SFT student, within which a trial may win
_RATES = 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2


class Method(NamedTuple):
    """What is tried first of a method, and the ladders on which a best at an edge moves one step out."""

    rates: tuple[float, ...]
    weight: str  # the method's own: its name
    weights: tuple[float, ...]
    ladder: tuple[float, ...]
    family: bool = False  # that the claims compare
    runner_up: bool = False


_BETAS, _GAMMAS = (0.01, 0.05, 0.2, 1.0), (0.05, 0.15, 0.5, 1.5, 5.0)
METHODS = {
    "sft_chosen": Method((1e-4, 3e-4, 1e-3, 3e-3), "", (0.0,), (0.0,)),
    "dpo": Method((1e-4, 3e-4), "beta", (0.05, 0.2), _BETAS),
    "dckd": Method((3e-4, 1e-3), "alpha", (0.2, 1.0), (0.05, 0.2, 1.0, 5.0), True, True),
    "adpa": Method((1e-4, 3e-4), "gamma", (0.5, 1.5), _GAMMAS, runner_up=True),
    "adpa_released": Method((1e-4, 3e-4), "gamma", (0.5, 1.5), _GAMMAS),
    "adpa_plus": Method((1e-4, 3e-4), "gamma", (0.5, 1.5), _GAMMAS, True),
    "align_then_kd": Method((3e-4, 1e-3), "temperature", (0.7, 1.0), (0.5, 0.7, 1.0, 1.4), True),
    "kd_then_align": Method((1e-4, 3e-4), "beta", (0.05, 0.2), _BETAS),
}
FIRST = tuple(METHODS)[:-1]  # tuned before the family's methods run; K-A's trials come after those (PLAN.md)
TEACHER_RATES = 1e-4, 3e-4


def dtype_of(seed: int) -> str:
    """In which a seed's matrix products are: trials were cheaper in the one, seeds are in the other (PLAN.md)."""
    return "bfloat16" if seed in TUNING else "float32"


def curve_steps(seed: int, arm: str, steps: int, points: int) -> tuple[int, ...]:
    """After which of a seed's steps reward and KL are measured; of a trial, after the last."""
    if arm == "tuning":
        return (steps,)
    shares = [k / points for k in range(1, points + 1)] if seed == 0 else EARLY if seed in CURVES else ()
    return tuple(dict.fromkeys(max(1, round(steps * share)) for share in shares))


def within_budget(points: dict[Setting, dict]) -> list[Setting]:
    """Settings by reward, those within the KL budget first; of those outside it the one that went least far leads."""

    def place(setting: Setting) -> tuple:
        point = points[setting]
        return (False, -point["reward"]) if point["kl"] <= KL_BUDGET else (True, point["kl"])

    return sorted(points, key=place)


def steps_out(method: Method, tried: list[Setting], best: Setting) -> list[Setting]:
    """One step beyond the best in each direction in which it lies at the edge of what was tried."""
    found = []
    for name, ladder in (("rate", _RATES), ("weight", method.ladder)):
        values, at = sorted({getattr(setting, name) for setting in tried}), ladder.index(getattr(best, name))
        if len(values) < 2:
            continue
        for edge, step in ((values[0], at - 1), (values[-1], at + 1)):
            if getattr(best, name) == edge and 0 <= step < len(ladder):
                found.append(best._replace(**{name: ladder[step]}))
    return found


def tune(method: Method, trial: Callable[[Setting, int], dict]) -> tuple[Setting, Setting]:
    """The setting that is run and its runner-up, by the plan's trials; `trial` gives reward and KL at a seed."""
    tried = {
        Setting(*pair): trial(Setting(*pair), TUNING[0]) for pair in itertools.product(method.rates, method.weights)
    }
    best = within_budget(tried)[0]
    tried |= {setting: trial(setting, TUNING[0]) for setting in steps_out(method, list(tried), best)}
    finalists = within_budget(tried)[:2]
    both = {setting: (tried[setting], trial(setting, TUNING[1])) for setting in finalists}
    means = {setting: {name: (a[name] + b[name]) / 2 for name in ("reward", "kl")} for setting, (a, b) in both.items()}
    chosen, runner_up = within_budget(means)
    return chosen, runner_up


def depends(name: str, setting: Setting, chosen: dict) -> dict:
    """What a method's record depends on, apart from seed and sizes; `chosen` holds what was tuned before."""
    found = {"method": name, **setting._asdict()}
    if name != "teacher":
        found["teacher_rate"] = chosen["teacher"]
    if name == "adpa_plus":
        found |= {"form": chosen["form"], "dckd": list(chosen["dckd"])}
    return found


# Running ----------------------------------------------------------------------------------------------


class Experiment:
    """Reads what a folder holds, and runs what it lacks."""

    def __init__(self, folder: Path, sizes: Sizes | None = None, **where: Any) -> None:
        self.folder, self.sizes, self._where = folder, sizes or Sizes(), where
        self._lab: FairLab | None = None
        self._until: Callable[[], bool] = lambda: False

    def lab(self, seed: int, rate: float | None = None) -> FairLab:
        if self._lab is None or (self._lab.seed, self._lab._teacher_rate) != (seed, rate):
            self._lab = FairLab(self.folder, seed, self.sizes, rate, **self._place(seed))
        return self._lab

    def _place(self, seed: int) -> dict[str, Any]:
        return {"dtype": dtype_of(seed), **self._where}

    def one(self, seed: int, about: dict, arm: str) -> dict:
        """The record's entry of what `about` says, made and written where there is none."""
        name = about["method"]

        def make() -> tuple[dict, dict]:
            if self._until():
                raise Over
            say(f"fair: {about}, {arm}, seed {seed}")
            lab = self.lab(seed, about.get("teacher_rate"))
            if arm == "start":
                return lab.measure({"base": lab.base, "base_aligned": lab.teacher, "sft": lab.sft}[name]), {}
            policy, info = lab.method(about, curve_steps(seed, arm, self.sizes.steps, self.sizes.curve_points))
            if arm == "tuning":
                last = info["curve"][-1]
                return {"metrics": {"validation_reward": last["reward"], "validation_kl": last["kl"]}}, info
            return lab.measure(policy, info["curve"]), info

        settings = {**dataclasses.asdict(self.sizes), "experiment": "fair", **about}
        return Lab.record(self.folder, settings, "sentiment", seed, name, arm, make, self._place(seed)["dtype"])

    def trial(self, name: str, chosen: dict, setting: Setting, seed: int) -> dict:
        found = self.one(seed, depends(name, setting, chosen), "tuning")["metrics"]
        return {"reward": found["validation_reward"], "kl": found["validation_kl"]}

    def tuned(self, names: Sequence[str] = tuple(METHODS)) -> dict[str, Any]:
        """What these methods are run with, after their trials."""
        trials = {(at := Setting(rate, 0.0)): self.trial("teacher", {}, at, TUNING[0]) for rate in TEACHER_RATES}
        chosen: dict[str, Any] = {"teacher": within_budget(trials)[0].rate}
        for name in names:
            first, second = tune(METHODS[name], partial(self.trial, name, chosen))
            chosen |= {name: first, f"{name} runner-up": second}
            if name == "adpa_released":
                chosen["form"] = max(("adpa", name), key=lambda form: self._mean(form, chosen))
        return chosen

    def _mean(self, name: str, chosen: dict) -> float:
        return sum(self.trial(name, chosen, chosen[name], seed)["reward"] for seed in TUNING)

    def runs(self, chosen: dict, family: bool) -> Iterator[tuple[int, str, Setting, str]]:
        """(seed, method, setting, arm) as they are run, of what the claims compare (`family`) or of the rest."""
        for seed in MORE_SEEDS:
            for name, method in METHODS.items():
                compared = method.family or name == chosen["form"]
                if compared == family and (compared or seed in SEEDS):
                    yield seed, name, chosen[name], "fair"
                if method.runner_up and not family and (compared or seed in SEEDS):
                    yield seed, name, chosen[f"{name} runner-up"], "runner-up"

    def run(self, until: Callable[[], bool] = lambda: False, seeds: Sequence[int] = MORE_SEEDS) -> None:
        """Tunes, then runs what is left of these seeds, what the claims compare first.

        Raises:
            Over: `until` says so, before anything is made.
        """
        self._until = until
        for names in (FIRST, tuple(METHODS)):
            chosen = self.tuned(names)
            say(f"fair: tuned {chosen}")
            for seed, name, setting, arm in self.runs(chosen, family=names == FIRST):
                if seed in seeds:
                    for start in ("base", "base_aligned", "sft"):
                        self.one(seed, {"method": start, "teacher_rate": chosen["teacher"]}, "start")
                    self.one(seed, depends(name, setting, chosen), arm)


def again(run: Records, out: Path, seeds: Sequence[int], _: Sequence[str], **where: Any) -> None:
    """Seeds of one recorded method, whose settings say what it depends on, made anew below `out`."""
    sizes = Sizes(**{field.name: run.settings[field.name] for field in dataclasses.fields(Sizes)})
    about = dict(run.settings)
    experiment = Experiment(out, sizes, **{"dtype": about.pop("dtype"), **where})
    for seed in seeds:
        experiment.one(seed, about, run.metrics["arm"].iloc[0])


def main(argv: list[str] | None = None) -> int:
    return command("fair_run", __doc__, argv, MORE_SEEDS, lambda folder, *asked: Experiment(folder).run(*asked))


if __name__ == "__main__":
    sys.exit(main())
