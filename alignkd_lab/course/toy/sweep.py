"""ADPA in the toy world: gamma swept, with and without a regulariser, and everything measured exactly.

The loss is the package's own, `lm.losses.adpa`: the student's logits are its hidden states and the identity is
its head, so that what is shown here is what happens to a language model. Over-optimisation is what the loss's own
term, the expected advantage, does not see: it keeps rising while the true reward falls.

gamma counts in units of A, whose size DPO's beta sets: halve beta, and the best gamma about halves. Where it lies
here says nothing of where it lies in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from alignkd_lab.course.toy import language
from alignkd_lab.course.toy.world import ToySettings, ToyWorld, build, log_policy, student_logits
from alignkd_lab.errors import BadInput, UnknownName
from alignkd_lab.lm.losses import adpa
from alignkd_lab.lm.teachers import Full
from alignkd_lab.stats import paired_difference

GAMMAS = (0.0, 0.5, 1.5, 3.0, 6.0)
SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Regulariser:
    """What holds ADPA back: options of `lm.losses.adpa`, and the weight of its NLL term.

    kind, weight: "entropy" or "kl" (to the reference teacher), and its weight beside gamma.
    normalise: whether A is divided by its standard deviation at each state. clip: bound on |A|, after that.
    nll_weight: of the NLL of the chosen responses; 0 leaves the term out.
    """

    kind: str | None = None
    weight: float = 0.0
    clip: float | None = None
    normalise: bool = False
    nll_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.nll_weight < 0:
            raise BadInput(f"nll_weight must not be below 0, not {self.nll_weight!r}")

    def options(self, chosen: int, sampled: int) -> dict:
        """What `lm.losses.adpa` is to be told, for these counts of tokens."""
        if self.nll_weight > chosen > 0:
            raise BadInput(
                f"nll_weight must be at most the {chosen} chosen tokens, not {self.nll_weight!r}; lower gamma"
            )
        # A mean over fewer items than there are is a heavier weight.
        items = (chosen / self.nll_weight if self.nll_weight else 1, sampled)
        own = {
            "clip": self.clip,
            "normalise": self.normalise,
            "regulariser": self.kind,
            "regulariser_weight": self.weight,
        }
        return own | {"items": items}


REGULARISERS: dict[str, Regulariser] = {
    "none": Regulariser(),
    "no NLL": Regulariser(nll_weight=0.0),
    "NLL × 4": Regulariser(nll_weight=4.0),
    "entropy 1": Regulariser("entropy", 1.0),
    "entropy 3": Regulariser("entropy", 3.0),
    "KL 1": Regulariser("kl", 1.0),
    "KL 3": Regulariser("kl", 3.0),
    "clip 0.5": Regulariser(clip=0.5),
    "normalise": Regulariser(normalise=True),
}


def sweep(
    gammas: Sequence[float] = GAMMAS,
    seeds: Sequence[int] = SEEDS,
    regulariser: str | Regulariser = "none",
    settings: ToySettings | None = None,
    world: ToyWorld | None = None,
    marks: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Train the same initial student by ADPA at every gamma; one row a gamma, seed and mark.

    Args:
        regulariser: a name of `REGULARISERS` or a Regulariser of your own.
        world: worlds built before; then `seeds` and `settings` are theirs.
        marks: the numbers of steps after which the student is measured; the last step always is.

    Returns:
        Columns regulariser, gamma, seed, step, and the metrics of `measure`.

    Raises:
        BadInput: unknown regulariser, a negative gamma.
    """
    name, chosen = _regulariser(regulariser)
    if min(gammas) < 0:
        raise BadInput(f"gammas must not be below 0, not {min(gammas)!r}; swap the teachers to push the other way")
    world = world or build(settings, tuple(seeds))
    shares = (0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1)
    marks = [round(world.settings.steps * share) for share in shares] if marks is None else marks
    frames = []
    for gamma in gammas:
        for step, parameters in train(world, gamma, chosen, marks):
            found = measure(world, log_policy(parameters))
            frames.append(found.assign(regulariser=name, gamma=float(gamma), step=step))
    frame = pd.concat(frames, ignore_index=True)
    first = ["regulariser", "gamma", "seed", "step"]
    return frame[first + [column for column in frame if column not in first]]


def over_optimisation(frame: pd.DataFrame, metric: str = "reward") -> pd.DataFrame:
    """From its best gamma to the largest one: what becomes of `metric`, and of the expected advantage meanwhile.

    frame: from `sweep`, of one regulariser or several; the last step counts. Best is the gamma of the highest mean,
    looked up afterwards, which flatters it a little.

    Returns:
        One row a regulariser: best_gamma, largest_gamma, the mean of the metric at both, and the paired 95 %
        t-intervals over seeds of both changes: change, change_low, change_high, advantage_change, ... A regulariser
        over-optimises where change_high < 0 < advantage_change_low.
    """
    table = []
    for regulariser, runs in frame[frame.step == frame.step.max()].groupby("regulariser", sort=False):
        by_gamma = runs.pivot(index="seed", columns="gamma", values=metric)
        advantage = runs.pivot(index="seed", columns="gamma", values="expected_advantage")
        best, largest = by_gamma.mean().idxmax(), by_gamma.columns.max()
        row = {"regulariser": regulariser, "best_gamma": best, "largest_gamma": largest}
        row |= {f"{metric}_at_best": by_gamma[best].mean(), f"{metric}_at_largest": by_gamma[largest].mean()}
        for name, values in (("change", by_gamma), ("advantage_change", advantage)):
            mean, low, high = paired_difference(values[largest], values[best])
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        table.append(row)
    return pd.DataFrame(table)


def yardsticks(world: ToyWorld) -> pd.DataFrame:
    """The truth, both teachers and the initial student, measured alike: columns model, seed and the metrics."""
    models = ("truth", "reference", "dpo", "initial_student")
    return pd.concat([measure(world, getattr(world, name)).assign(model=name) for name in models], ignore_index=True)


def train(world: ToyWorld, gamma: float, regulariser: Regulariser, marks: Sequence[int]):
    """Adam on the package's loss from the initial student, all seeds at once; yields (step, parameters) at each mark.

    The states are the initial student's responses, drawn once; y_w are winners of the DPO teacher's pairs.
    """
    settings = world.settings
    parameters = [p.clone().requires_grad_() for p in world.student]
    adam = torch.optim.Adam(parameters, settings.learning_rate, fused=True)
    winners = world.chosen if regulariser.nll_weight else world.chosen[:, :0]
    tokens = torch.cat([winners, world.responses], 1)
    is_chosen = torch.zeros(tokens.shape, dtype=torch.bool)
    is_chosen[:, : winners.shape[1]] = True
    head = torch.eye(settings.vocabulary, dtype=torch.float64)
    teacher, reference = (_signal(table, world.responses, head) for table in (world.dpo, world.reference))
    # Counted for one seed, so that no seed's steps depend on how many others there are.
    options = regulariser.options(winners[0].numel(), world.responses[0].numel())
    for step in range(settings.steps + 1):
        if step in marks or step == settings.steps:
            yield step, tuple(p.detach().clone() for p in parameters)
        if step == settings.steps:
            return
        adam.zero_grad()
        logits = language.rows(student_logits(tuple(parameters)), tokens)
        loss, _ = adpa(logits, head, tokens.flatten(), teacher, reference, is_chosen.flatten(), gamma=gamma, **options)
        loss.backward()
        adam.step()


def measure(world: ToyWorld, policy: Tensor) -> pd.DataFrame:
    """One row a seed, every number exact; `policy` is a table `[seed, time, previous, token]`.

    expected_advantage: the loss's own term, E_policy[A] on the initial student's states, nats per token.
    own_advantage: the same on the policy's own states: (KL(policy || reference) - KL(policy || dpo)) per token.
    reward, target_rate, fluency: of the policy's responses, as in the language world. fitted_reward: what the DPO
        teacher believes the reward to be.
    overall_precision, overall_recall, entropy, kl_to_dpo, kl_to_reference: nats per token.
    top_mass: mass that the policy, on the initial student's states, puts on the token of the largest A.
    """
    length, expected = world.settings.length, language.expected_sum
    visits = language.occupancy(world.initial_student)
    top = torch.zeros_like(policy).scatter_(-1, world.advantage.argmax(-1, keepdim=True), 1.0)
    probs = language.every_log_prob(policy).exp()
    found = {
        "expected_advantage": expected(policy, world.advantage, visits) / length,
        "own_advantage": expected(policy, world.advantage) / length,
        "reward": (probs * world.reward).sum(-1),
        "target_rate": (probs * world.on_target).sum(-1),
        "fluency": (probs * world.fluency).sum(-1),
        "fitted_reward": expected(policy, world.fitted_reward),
        "overall_precision": expected(policy, world.truth) / length,
        "overall_recall": expected(world.truth, policy) / length,
        "entropy": -expected(policy, policy) / length,
        "kl_to_dpo": expected(policy, policy - world.dpo) / length,
        "kl_to_reference": expected(policy, policy - world.reference) / length,
        "top_mass": expected(policy, top, visits) / length,
    }
    return pd.DataFrame({"seed": world.seeds} | {name: value.tolist() for name, value in found.items()})


def _signal(table: Tensor, responses: Tensor, head: Tensor) -> Full:
    log_probs = language.rows(table, responses)
    return Full(log_probs, head, log_probs.logsumexp(-1))


def _regulariser(regulariser: str | Regulariser) -> tuple[str, Regulariser]:
    if isinstance(regulariser, Regulariser):
        return next(
            (name for name, held in REGULARISERS.items() if held == regulariser), repr(regulariser)
        ), regulariser
    if regulariser not in REGULARISERS:
        raise UnknownName("regulariser", regulariser, REGULARISERS)
    return regulariser, REGULARISERS[regulariser]
