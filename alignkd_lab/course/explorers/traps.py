"""RLHF's two traps, one at a time: what is never drawn cannot be learnt, what costs more than it pays is unlearnt.

The target's share in the reference falls from common to one in ten billion. For each share RLHF runs twice:
from the reference, as usual, and *handed* the target, from a start that shows it half of the time. The first
run meets both traps, the second the learning trap alone. Beside them stands the optimum of all policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import torch
from torch import Tensor

from alignkd_lab import theory
from alignkd_lab.course.widgets.charts import Chart, Slider, parameters
from alignkd_lab.course.widgets.pieces import ONE, axis
from alignkd_lab.mog.align import rlhf
from alignkd_lab.mog.mixture import GaussianMixture, SeedNoise
from alignkd_lab.mog.problem import Problem
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.plots.drawing import BAND, INK, QUIET

# A weak penalty keeps the traps apart: it lets the optimum find targets that training never draws.
SETTINGS = MogSettings(beta=0.25)
MASSES = tuple(10.0 ** (-power / 2) for power in range(2, 21))
_HANDED = 0.5
_SCORING_DRAWS = 2000
_LOOKS = 20  # along a run, after the start
# Told apart by marker too; no pipeline's order is drawn here.
STARTS = {
    "handed": ("RLHF, handed the target (starts with half of its weight there)", "#009E73", "square"),
    "from_reference": ("RLHF, from the reference", "#7B4FA3", "circle"),
}


@dataclass(frozen=True)
class Traps:
    """How often each ends on the target, by its share in the reference.

    masses: `[mass]`, of the target in the reference.
    optimum: `[mass]`, of the best of all policies, from a grid.
    steps: of training, at which the runs were looked at, the start and the end among them.
    from_reference, handed: `[step, mass, seed]`, shares of fresh draws.
    """

    masses: Tensor
    optimum: Tensor
    steps: tuple[int, ...]
    from_reference: Tensor
    handed: Tensor


def run_traps(masses: Sequence[float] = MASSES, seeds: Sequence[int] = range(3)) -> Traps:
    """Train all runs at once, every share (between 0 and 1) and seed a row; about two seconds with the defaults."""
    problem = Problem.of(SETTINGS)
    shares = torch.tensor(masses, dtype=torch.float64)
    rows = shares.repeat_interleave(len(seeds))
    reference, noise = _with_share(problem, rows), SeedNoise(tuple(seeds) * len(masses))
    steps = tuple(round(look * SETTINGS.rlhf_steps / _LOOKS) for look in range(_LOOKS + 1))
    draws = noise.uniform("traps", _SCORING_DRAWS), noise.normal("traps", _SCORING_DRAWS, 2)

    def trained(init: GaussianMixture) -> Tensor:
        found = []

        def look(policy: GaussianMixture, step: int) -> None:
            if step in steps:
                found.append(problem.on_target(policy.from_noise(*draws)).double().mean(-1).view(len(masses), -1))

        policy, _ = rlhf(init, reference, problem, noise, SETTINGS, look)
        look(policy, SETTINGS.rlhf_steps)
        return torch.stack(found)

    handed = _with_share(problem, torch.full_like(rows, _HANDED))
    return Traps(shares, _optimum(problem, shares), steps, trained(reference), trained(handed))


def _with_share(problem: Problem, shares: Tensor) -> GaussianMixture:
    """The truth with its target mode at each of `shares`, `[row]`; the others keep their proportions."""
    target = SETTINGS.targets[0]
    weights = torch.tensor(SETTINGS.truth_weights, dtype=torch.float64).repeat(len(shares), 1)
    weights[:, target] = 0
    weights *= (1 - shares).unsqueeze(-1) / weights.sum(-1, keepdim=True)
    weights[:, target] = shares
    truth = problem.truth.expand(len(shares))
    return GaussianMixture(weights.log(), truth.means, truth.log_sds)


def _optimum(problem: Problem, shares: Tensor) -> Tensor:
    points = problem.grid()
    log_reference = torch.log_softmax(_with_share(problem, shares).log_prob(points), -1)
    optimum = theory.tilted_optimum(log_reference, problem.reward(points), SETTINGS.beta)
    return theory.target_mass_of(optimum, problem.on_target(points))


def show(*shown: str, **state: float) -> Chart:
    """Run all of it live, two seconds, and draw it; the slider goes through the training, from its end."""
    return draw(run_traps(), *shown, **state)


def boundaries(traps: Traps) -> tuple[float, float]:
    """The shares in the reference from which on most runs find the target, and the optimum shows it most."""
    found = traps.from_reference[-1].median(-1).values > 0.5
    return traps.masses[found].min().item(), traps.masses[traps.optimum > 0.5].min().item()


def draw(traps: Traps, *shown: str, **state: float) -> Chart:
    """Where RLHF stands on the target, from either start, against the target's share in the reference."""
    seeds = traps.handed.shape[-1]
    controls = {"step": Slider(traps.steps[-1], "training step", 0, traps.steps[-1], traps.steps[1])}
    look = f"round(step / {traps.steps[1]})"  # the nearest one
    powers = "['', '', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹', '¹⁰']"
    ticks = {"values": [10.0**power for power in range(-10, 0)], "grid": False}
    ticks["labelExpr"] = f"'1 in 10' + {powers}[round(-log(datum.value) / LN10)]"
    least, most = traps.masses.min().item() / 1.6, traps.masses.max().item() * 1.6
    x = alt.X("mass:Q", **axis(least, most, "target's share in the reference, m₀", log=True, **ticks))
    values = [0, 0.25, 0.5, 0.75, 1]
    y = alt.Y("share:Q", **axis(0, 1.3, "target's share of the policy's draws", format=".0%", values=values))
    labels, colours, shapes = zip(*STARTS.values(), strict=True)
    named = f"{list(labels)}[indexof({list(STARTS)}, datum.label)]"
    legend = alt.Legend(orient="top", labelExpr=named, labelLimit=400, columnPadding=24, symbolOpacity=1)
    colour = alt.Color("start:N", scale=alt.Scale(domain=list(STARTS), range=colours), title=None, legend=legend)
    shape = alt.Shape("start:N", scale=alt.Scale(domain=list(STARTS), range=shapes), title=None, legend=legend)
    aside = (f"datum.mass * {10 ** (0.11 * (seed - (seeds - 1) / 2)):.4g}" for seed in range(seeds))
    now = alt.Chart(_rows(traps)).transform_filter(f"datum.look == {look}")
    now = now.transform_calculate(at=f"[{', '.join(aside)}]").transform_flatten(["share", "at"])
    optimum = zip(_short(traps.masses), _short(traps.optimum), strict=True)
    line = alt.Chart(alt.InlineData([{"mass": mass, "share": share} for mass, share in optimum]))
    points = now.mark_point(filled=True, size=42, opacity=0.9, stroke="white", strokeWidth=0.7)
    chart = alt.layer(
        *_regions(traps),
        line.mark_line(color=INK, strokeWidth=1.8).encode(x, y),
        points.encode(alt.X("at:Q"), alt.Y("share:Q"), colour, shape),
    ).properties(width=760, height=330)
    drawn, paid = (float(f"{1 / boundary:.2g}") for boundary in boundaries(traps))
    words = (
        f"Step {{step}} of {SETTINGS.rlhf_steps}, {{step * {SETTINGS.rlhf_batch}:,}} draws a run.",
        f"At the end, most runs from the reference show the target if that has it in at least 1 of {drawn:,.0f} draws;",
        f"the best policy, and runs that were handed the target, in at least 1 of {paid:,.0f}.",
    )
    seen = (
        "The target's share after RLHF against its share in the reference: handed the target, runs end at the best "
        "policy, high or low; from the reference they find it only where it is drawn, and miss a region between."
    )
    source = (
        f"Live run: Gaussian world, {seeds} seeds side by side, reward {SETTINGS.reward_height:g}, "
        f"β = {SETTINGS.beta:g}. Black line: the best policy, from a grid."
    )
    moved = parameters(controls, shown, state)
    return Chart(moved, "Two traps: not drawn, and not worth it", chart, words=words, seen=seen, source=source)


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def _rows(traps: Traps) -> alt.InlineData:
    """A row for each start, look and share in the reference, with the seeds' shares after it."""
    return alt.InlineData(
        [
            {"start": start, "look": look, "mass": mass, "share": _short(shares)}
            for start in STARTS
            for look, looked in enumerate(getattr(traps, start))
            for mass, shares in zip(_short(traps.masses), looked, strict=True)
        ]
    )


def _regions(traps: Traps) -> list[alt.Chart]:
    """The traps' names, parted half a step below the last share that succeeds."""
    drawn, paid = (boundary / 10**0.25 for boundary in boundaries(traps))
    least, most = traps.masses.min().item(), traps.masses.max().item()
    regions = [
        (least, paid, "learning trap", "the penalty outweighs", "the reward"),
        (paid, drawn, "sampling trap", "worth it,", "but never drawn"),
        (drawn, most, "no trap", "drawn and learnt"),
    ]
    band = ONE.mark_rect(color=BAND).encode(x=alt.datum(paid), x2=alt.datum(drawn))
    names = [{"mass": (low * high) ** 0.5, "name": name, "why": why} for low, high, name, *why in regions]
    text = alt.Chart(alt.InlineData(names)).encode(x="mass:Q", y=alt.datum(1.3))
    return [
        band,
        text.mark_text(dy=12, fontWeight="bold").encode(text="name:N"),
        text.mark_text(dy=28, baseline="middle", lineHeight=15, color=QUIET).encode(text="why:N"),
    ]
