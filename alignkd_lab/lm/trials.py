"""The learning rate of alignment, chosen for the base and for the student by one rule with equal trials.

Every rate gets the same stage from the same start, with the trial seed, which no run uses. The rate of highest reward
on validation prompts wins among those that stay within `kl_budget` of the reference, so that no model wins by drifting
further; if all of them leave it, the one that drifts least. E[r] - β KL would be no yardstick for DPO: its pairs say
which response is better and never by how much, so its β has another scale than the reward. Trials are no cost of the
stage that reads them: they are kept, or shipped.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from alignkd_lab.paths import data_folder
from alignkd_lab.store import key_of

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


def choose_rate(world: LmWorld, role: str, depends: dict) -> dict:
    """`{"role", "learning_rate", "trials": [one a rate], "tokens"}` for `base` or `student`.

    A rate that has no rival needs no trial. Shipped results are used where they were made with these very settings and
    weights (`depends`).
    """
    depends = {"role": role, **depends}
    if len(world.learning_rates) == 1:
        return {"role": role, "learning_rate": world.learning_rates[0], "trials": []}
    shipped = data_folder() / "trials" / f"{role}-{key_of(depends)}.json"
    if shipped.is_file():
        return json.loads(shipped.read_text())
    return world.store.keep(
        f"trials-{role}",
        depends,
        lambda: try_rates(world, role),
        lambda found, folder: (folder / "value.json").write_text(json.dumps(found, indent=1)),
        lambda folder: json.loads((folder / "value.json").read_text()),
    )


def try_rates(world: LmWorld, role: str) -> dict:
    """Runs the trials in a world of the same settings at the trial seed."""
    settings = world.settings
    trial = type(world)(settings, world.algorithm, -1, world.store, world.device)
    trial.seeds, trial.models = (settings.trial_seed,), world.models
    init = trial.start("base")
    if role == "student":
        init, _ = trial.distil(init, trial.start("student"), settings.kd_temperature, "trial kd")
    tried = []
    for rate in world.learning_rates:
        _, info = trial.align(init, init, init, rate, f"trial {rate:g}")
        last = info["curve"][-1] if info["curve"] else {"reward": 0.0, "kl": 0.0, "target_rate": 0.0}
        learnt_from = {name: info[name] for name in ("informative_pairs", "informative_groups") if name in info}
        tried.append({"learning_rate": rate, **learnt_from, **last})
    within = [found for found in tried if found["kl"] <= settings.kl_budget]
    best = max(within, key=lambda found: found["reward"]) if within else min(tried, key=lambda found: found["kl"])
    return {"role": role, "learning_rate": best["learning_rate"], "trials": tried, "tokens": trial.spent}
