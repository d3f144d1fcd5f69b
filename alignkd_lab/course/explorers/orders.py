"""Explorer: "alignment can add it later". Both orders side by side, one stage after the other.

A recorded cell shows its record. At any other setting the picture shows, at once, what closed forms
predict for models without limits, and a button runs the real thing: three seeds, some seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from alignkd_lab.plots import plane
from alignkd_lab.course.explorers.threshold import percent
from alignkd_lab.course.widgets.state import begun
from alignkd_lab.errors import UnknownName
from alignkd_lab.mog.settings import with_target_weight
from alignkd_lab.mog.closed_form import ClosedForm
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.mog.world import ALGORITHMS, MogWorld
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, ORDERS, PIPELINES
from alignkd_lab.plots.style import number, pipeline_style
from alignkd_lab.presets import default_pipelines
from alignkd_lab.records import load_records, record_files
from alignkd_lab.runs import group_runs, seed_values

if TYPE_CHECKING:
    from alignkd_lab.course.explorers.orders_live import OrdersExplorer
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

METRICS = ("reward", "target_precision", "overall_precision", "overall_recall")
NO_CONTROL = "none"
# The cell of the title picture, at its end.
START = {
    "stage": 2.0,
    "algorithm": "rlhf",
    "control": NO_CONTROL,
    "target_weight": 0.04,
    "beta": 0.5,
    "sharpening": 2.0,
    "seed": 0.0,
}
LIVE_SEEDS = 3
# A slider stops beside a recorded value; nearer than this it means it.
_NEAR = 0.01
_MIDDLE = {K_A: "kd_only", A_K: "base_aligned", **dict.fromkeys(CONTROLS[:2], "kd_only")}


@dataclass(frozen=True)
class Orders:
    """What the picture shows: of each route the base, the policy after one stage, and the one after both.

    stage: 0, 1 or 2, the last one that has been reached.
    settings, algorithm, seed, control: of the run; control is None where none is shown,
        left_out names one that means nothing under this algorithm.
    depth: "record", "live", or "predicted" (closed forms, nothing trained); seeds: how many stand behind it.
    fields: by pipeline three densities `[y, x]` on `plane.window`; "truth" has one.
    metrics: by pipeline three dicts of the shown seed.
    others: `{pipeline: {metric: [stage, seed]}}` of every seed; NaN where a stage's metrics were not kept.
    """

    stage: int
    settings: MogSettings
    algorithm: str
    seed: int
    control: str | None
    left_out: str | None
    depth: str
    seeds: int
    fields: dict[str, list[np.ndarray]]
    metrics: dict[str, list[dict[str, float]]]
    others: dict[str, dict[str, np.ndarray]]

    @property
    def routes(self) -> tuple[str, ...]:
        return (*ORDERS, self.control) if self.control else ORDERS


def compute(state: Mapping[str, Any], live: Sequence[dict] = ()) -> Orders:
    """Densities and metrics of every stage: of the recorded run, of one of the `live` runs, or predicted.

    Args:
        state: `stage` (0 to 2), `algorithm`, `control` (a pipeline of `CONTROLS`, or "none"), `target_weight`
            (m0, a share of the truth), `beta` (KL weight), `sharpening` (of the teacher), `seed`.
        live: runs as `mog.cells.run_cell` gives them.

    Raises:
        UnknownName: another algorithm or control.
        BadInput: a setting that the Gaussian world cannot use.
    """
    algorithm, control, seed = state["algorithm"], state["control"], round(state["seed"])
    for name, accepted in (("algorithm", ALGORITHMS), ("control", (NO_CONTROL, *CONTROLS))):
        if state[name] not in accepted:
            raise UnknownName(name, state[name], accepted)
    possible = control in default_pipelines("mog", algorithm)
    left_out = control if not possible and control != NO_CONTROL else None
    routes = (*ORDERS, control) if possible else ORDERS
    shared = {"stage": round(state["stage"]), "algorithm": algorithm, "seed": seed}
    shared |= {"control": control if possible else None, "left_out": left_out}
    run, depth = find_run(state, live)
    if run is None:
        return _predicted(settings_of(state), routes, shared)
    return _ran(run, depth, routes, shared)


def settings_of(state: Mapping[str, Any]) -> MogSettings:
    """The settings of the Gaussian world at this state; values beside recorded ones are taken as those."""
    near = {name: _snapped(name, state[name]) for name in ("target_weight", "beta", "sharpening")}
    settings = replace(MogSettings(), beta=near["beta"], sharpening=near["sharpening"])
    return with_target_weight(settings, near["target_weight"])


def find_run(state: Mapping[str, Any], live: Sequence[dict] = ()) -> tuple[dict | None, str]:
    """The run of this state with its depth: "record", "live", or (None, "predicted")."""
    settings, seed = settings_of(state), round(state["seed"])
    for runs, depth in ((recorded(), "record"), (live, "live")):
        for run in runs:
            seeds = [record["seed"] for record in run["records"]]
            if run["algorithm"] == state["algorithm"] and seed in seeds and MogSettings(**run["settings"]) == settings:
                return run, depth
    return None, "predicted"


@functools.cache
def recorded() -> tuple[dict, ...]:
    """The shipped runs of the Gaussian world, read once."""
    files = [path for path in record_files(data_folder() / "records") if path.name.startswith("mog-")]
    return tuple(run for path in files for run in group_runs(load_records(path)))


def caption(data: Orders) -> str:
    """What the picture shows at this state, in words."""
    return " ".join(filter(None, [_happened(data), _control(data), _evidence(data)]))


def controls(**state: Any) -> dict[str, NumberControl | ChoiceControl]:
    """A control for each part of the state, at `START` where `state` does not say otherwise.

    Raises:
        UnknownName: a part that the state does not have.
    """
    from alignkd_lab.course.widgets.choice import ChoiceControl
    from alignkd_lab.course.widgets.view import NumberControl

    start = begun(START, state)
    algorithms = {"rlhf": "RLHF: rewarded for its own draws", "dpo": "DPO: learns from pairs"}
    chosen = {NO_CONTROL: "none (the truth is shown instead)"}
    chosen |= {name: pipeline_style(name).label for name in CONTROLS}
    ranges = {
        "stage": ("stages done", 0.0, 2.0, 1.0, False),
        "algorithm": ("alignment by", algorithms),
        "control": ("control beside the orders", chosen),
        "target_weight": ("target's share of the truth, m₀", 0.005, 0.25, 0.05, True),
        "beta": ("KL weight, β", 0.1, 4.0, 0.05, True),
        "sharpening": ("sharpening of the teacher, s", 0.5, 4.0, 0.25, False),
        "seed": ("seed", 0.0, 19.0, 1.0, False),
    }
    kinds = {name: ChoiceControl if isinstance(value, str) else NumberControl for name, value in START.items()}
    return {name: kinds[name](label, start[name], *range_) for name, (label, *range_) in ranges.items()}


def show(*shown: str, **state: Any) -> OrdersExplorer:
    """The explorer with the controls named in `shown` (all where none is), the state begun at `state`."""
    from alignkd_lab.course.explorers.orders_live import OrdersExplorer

    made = controls(**state)
    return OrdersExplorer(made, shown or made)


def _snapped(name: str, value: float) -> float:
    return next((known for known in _recorded_values()[name] if abs(value - known) < _NEAR * known), value)


@functools.cache
def _recorded_values() -> dict[str, set[float]]:
    held = [MogSettings(**run["settings"]) for run in recorded()]
    return {
        "target_weight": {plane.target_weight(settings) for settings in held},
        "beta": {settings.beta for settings in held},
        "sharpening": {settings.sharpening for settings in held},
    }


# From a run


def _ran(run: dict, depth: str, routes: Sequence[str], shared: dict) -> Orders:
    settings, seed = MogSettings(**run["settings"]), shared["seed"]
    entries = next(record for record in run["records"] if record["seed"] == seed)["pipelines"]
    fields, metrics, others = {"truth": [plane.field(plane.truth(settings), settings)]}, {}, {}
    values = seed_values(run)
    for route in routes:
        middle = _MIDDLE.get(route)
        between = entries[middle] if middle else _student_at_high_temperature(settings, seed)
        steps = [entries["base"], between, entries[route]]
        fields[route] = [plane.field(step["view"], settings) for step in steps]
        metrics[route] = [step["metrics"] for step in steps]
        absent = dict.fromkeys(values[route]["reward"], np.nan)
        named = [values["base"], values[middle] if middle else dict.fromkeys(METRICS, absent), values[route]]
        others[route] = {name: np.array([list(step[name].values()) for step in named]) for name in METRICS}
    return Orders(
        **shared,
        settings=settings,
        depth=depth,
        seeds=len(run["records"]),
        fields=fields,
        metrics=metrics,
        others=others,
    )


@functools.lru_cache(maxsize=256)
def _student_at_high_temperature(settings: MogSettings, seed: int) -> dict:
    """The one policy of a route that no record holds, fitted again from the same draws."""
    world = MogWorld(settings, "rlhf", (seed,))
    policies = {name: world.start(name) for name in ("base", "student")}
    student = world.run(PIPELINES["kd_then_align_high_temperature"][0], policies).policy
    judged = world.evaluate(student)
    return {"metrics": {name: value[0] for name, value in judged["metrics"].items()}, "view": judged["view"][0]}


# From closed forms


def _predicted(settings: MogSettings, routes: Sequence[str], shared: dict) -> Orders:
    closed_form = ClosedForm(settings)
    left, right, bottom, top = plane.window(settings)
    low, high = torch.tensor([[left, bottom], [right, top]])
    inside = ((closed_form.points > low) & (closed_form.points < high)).all(-1)
    side = round(inside.sum().item() ** 0.5)

    def field(policy) -> np.ndarray:
        # The grid runs along x2 first, a picture along x1.
        return policy.log_probs[inside].exp().reshape(side, side).T.numpy() / closed_form.cell**2

    policies = {route: closed_form.route(route) for route in routes}
    metrics = {route: [closed_form.metrics(policy) for policy in held] for route, held in policies.items()}
    return Orders(
        **shared,
        settings=settings,
        depth="predicted",
        seeds=0,
        fields={
            "truth": [field(closed_form.truth)],
            **{route: [field(policy) for policy in held] for route, held in policies.items()},
        },
        metrics=metrics,
        others={route: {name: np.empty((3, 0)) for name in METRICS} for route in routes},
    )


# In words


def _shares(data: Orders, route: str) -> list[str]:
    return [percent(step["target_rate"]) for step in data.metrics[route]]


def _happened(data: Orders) -> str:
    (base, distilled, later), (_, aligned, last) = (_shares(data, order) for order in ORDERS)
    if data.stage == 0:
        return f"Both orders begin at the same base, which shows the target in {base} of its draws."
    if data.stage == 1:
        first = f"K-A has distilled: the target's share went from {base} to {distilled}."
        return f"{first} A-K has aligned: it went from {base} to {aligned}."
    rewards = {order: number(data.metrics[order][2]["reward"], 3) for order in ORDERS}
    first = f"K-A showed the target in {distilled} of its draws after distilling and in {later} after aligning"
    second = f"A-K in {aligned} after aligning and in {last} after distilling"
    return f"{first}: reward {rewards[K_A]}. {second}: reward {rewards[A_K]}. {_verdict(data)}"


def _verdict(data: Orders) -> str:
    before, after = (data.metrics[K_A][stage]["target_rate"] for stage in (1, 2))
    if after > 0.5:
        return "Here alignment did add it later."
    if after > before + 0.05:
        return "Here alignment added a part of it later."
    return "Alignment did not add it later."


def _control(data: Orders) -> str:
    if data.left_out:
        return (
            f"{pipeline_style(data.left_out).label}: not under RLHF, which learns from its own draws and has no pairs."
        )
    if data.control is None:
        return ""
    _, first, last = _shares(data, data.control)
    if data.stage == 0:
        return ""
    label, reward = pipeline_style(data.control).label, number(data.metrics[data.control][2]["reward"], 3)
    return f"{label}: {first} after distilling" + (f", {last} at the end, reward {reward}." if data.stage > 1 else ".")


def _evidence(data: Orders) -> str:
    settings = data.settings
    weight = percent(plane.target_weight(settings))
    cell = f"{data.algorithm.upper()}, β = {settings.beta:.3g}, s = {settings.sharpening:.3g}, m₀ = {weight}"
    if data.depth == "predicted":
        without = "for models of any size that learn perfectly"
        return f"Predicted by closed forms {without} ({cell}); no run of this setting is at hand, so press Run."
    kind = {"record": "Recorded", "live": "Run live"}[data.depth]
    return f"{kind}: seed {data.seed} of {data.seeds} seeds ({cell})."
