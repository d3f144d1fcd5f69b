"""Solutions and data of notebook 07.

What became of the four claims that are decided on SmolLM2 is read from the recorded study, whatever it says.
"""

from __future__ import annotations

from collections.abc import Callable

from alignkd_lab.claims import CLAIMS, Claim
from alignkd_lab.course.shipped import recorded_claims


def common_target() -> str:
    from alignkd_lab.course.shipped import recorded_smollm2
    from alignkd_lab.plots.tables import difference

    lead = difference(recorded_smollm2("colour"))
    return "a_k" if lead.low > 0 else "k_a" if lead.high < 0 else "level"


def checkpoints() -> dict:
    """Made-up checkpoints of two alignments of one model, ten steps apart: KL to the base in nats, reward."""
    return {
        "steps": [0, 10, 20, 30, 40],
        "bold": {"kl": [0.0, 4.0, 8.0, 12.0, 16.0], "reward": [0.05, 0.15, 0.22, 0.27, 0.30]},
        "careful": {"kl": [0.0, 2.0, 4.0, 6.0, 8.0], "reward": [0.05, 0.14, 0.21, 0.26, 0.29]},
    }


def reward_at_equal_kl(data: dict) -> float:
    import numpy as np

    bold, careful = (np.interp(6.0, data[name]["kl"], data[name]["reward"]) for name in ("bold", "careful"))
    return float(bold - careful)


def _verdict(claim: Claim) -> Callable[[], str]:
    def verdict() -> str:
        said = recorded_claims().loc[(claim.metric, claim.statistic), "verdict"]
        return said if said in ("holds", "fails") else "undecided"  # as where a check failed

    return verdict


_DECIDED = [claim for claim in CLAIMS if "lm" in claim.decided_in]
sign_reward, sign_target_precision, sign_overall_precision, sign_overall_recall = map(_verdict, _DECIDED)
