"""The learning rate of alignment, chosen for the base and for the student by one rule with equal trials.

Every rate gets the same stage from the same start, with the trial seed, which no run uses. The rate of highest reward
on validation prompts wins among those that stay within `kl_budget` of the reference, so that no model wins by drifting
further; if all of them leave it, the one that drifts least. E[r] - β KL would be no yardstick for DPO: its pairs say
which response is better and never by how much, so its β has another scale than the reward. Trials are no cost of the
stage that reads them: they are kept, or shipped in `data/trials.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.settings import LmSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.results import Cost, Result
from alignkd_lab.store import Store

# Raise it where its code, or a default of its settings, changes what it chooses: results kept before then rest.
CODE = 1


@dataclass(frozen=True)
class TrialSettings:
    """What the choice depends on beside the stage that is tried; `learning_rates` are those of the algorithm."""

    learning_rates: tuple[float, ...]
    kl_budget: float = LmSettings.kl_budget
    trial_seed: int = LmSettings.trial_seed


def choose_rate(
    settings: TrialSettings, depends: dict, store: Store, tries: Callable[[TrialSettings], dict]
) -> dict:  # fmt: skip
    """`{"learning_rate", "trials": [one a rate], "tokens"}`; a rate that has no rival needs no trial.

    Shipped results are used where they were made with these very settings and weights (`depends`).
    """
    if len(settings.learning_rates) == 1:
        return {"learning_rate": settings.learning_rates[0], "trials": []}
    if found := shipped(depends):
        return found
    from filelock import FileLock

    store.root.mkdir(parents=True, exist_ok=True)
    # Seeds that run at once wait for one choice and share it, as seeds that run one after another do.
    with FileLock(store.root / f"trials-{depends['role']}.lock"):
        return store.keep_json(f"trials-{depends['role']}", depends, partial(tries, settings))


def shipped(depends: dict) -> dict | None:
    """The trials that ship of these very settings and weights; None where there are none."""
    plain = json.loads(json.dumps(depends))
    for held in json.loads((data_folder() / "trials.json").read_text(encoding="utf-8")):
        if held["depends"] == plain:
            return {name: held[name] for name in ("learning_rate", "trials", "tokens")}
    return None


def try_rates(
    settings: TrialSettings,
    start: Callable[[], tuple[Policy, Cost]],
    align: Callable[[Policy, float, str], Result],
) -> dict:
    """Runs the trials: `start` makes the policy that they start from, and `align(policy, rate, name)` aligns it."""
    init, cost = start()
    tried = []
    for rate in settings.learning_rates:
        result = align(init, rate, f"trial {rate:g}")
        info, cost = result.info, cost + result.cost
        last = info["curve"][-1] if info["curve"] else {"reward": 0.0, "kl": 0.0, "target_rate": 0.0}
        learnt_from = {name: info[name] for name in ("informative_pairs", "informative_groups") if name in info}
        tried.append({"learning_rate": rate, **learnt_from, **last})
    within = [found for found in tried if found["kl"] <= settings.kl_budget]
    best = max(within, key=lambda found: found["reward"]) if within else min(tried, key=lambda found: found["kl"])
    return {"learning_rate": best["learning_rate"], "trials": tried, "tokens": cost.tokens}
