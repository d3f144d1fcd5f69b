"""The study's pictures from the records that ship; `python -m alignkd_lab.study.pictures FOLDER` draws RESULTS.md's."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from alignkd_lab import __version__, records
from alignkd_lab.claims import failed_check
from alignkd_lab.mog.sweep import Grid
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS, reading_order
from alignkd_lab.plots import maps, sweeps
from alignkd_lab.plots.drawing import DPI, INK, depth_line, panels, rows_of_intervals, themed
from alignkd_lab.plots.style import metric_label, number
from alignkd_lab.plots.tables import difference
from alignkd_lab.records import Records
from alignkd_lab.stats import Interval
from alignkd_lab.study import fair_run, plan

# The pipelines that learn from pairs where not all of a cell's do.
_FROM_PAIRS = {
    "main": ("base_aligned", K_A),
    "controls": (),
    "methods": ("align_student_only",),
    "learning_rate": (),
    "learning_rate_both": ("base_aligned",),
    "equal_compute": (),
}


def load(study: str) -> Records:
    """Of the records that ship, e.g. `smollm2-study`."""
    return records.load(data_folder() / "records" / f"{study}.zip")


def lead_rows(held: Records, preset: str = "laptop", device: str = "cpu") -> list[tuple[str, Records, Records]]:
    """(label, A-K, K-A) of every cell that moved an order, by target; one that lacks an order has its partner's.

    Only of cells whose registered seeds are all there and whose checks passed.
    """
    rows = []
    for cell in plan.cells():
        if not set(ORDERS) & set(cell.pipelines):
            continue
        beside = cell if set(ORDERS) <= set(cell.pipelines) else plan.partner(cell)
        runs = {each: plan.seeds_of(held, each, preset, device) for each in (cell, beside)}
        if all(run and len(run.seeds) == len(each.seeds) and not failed_check(run) for each, run in runs.items()):
            a_k, k_a = (runs[cell if order in cell.pipelines else beside] for order in (A_K, K_A))
            target = plan.settings_of(cell, preset).target
            rows.append((plan.TARGETS.index(target), _label(cell, a_k, k_a, target), a_k, k_a))
    return [row[1:] for row in sorted(rows, key=lambda row: row[0])]


def _label(cell: plan.Cell, a_k: Records, k_a: Records, target: str) -> str:
    """The target, what was moved, and the learning rate of either order."""
    if cell == plan.registered(cell):
        what = f"{number(100 * _sampled_rate(a_k, 'base_aligned'), 2)} % of the base's samples"
    elif "align_learning_rates" in cell.changes:
        what = "another rate (exploratory)"
        what = f"{_named(plan.partner(cell))}, {what}" if cell.beside else what
    else:
        what = _named(cell)
    rates = sweeps.learning_rate(a_k, A_K), sweeps.learning_rate(k_a, K_A)
    told = f"learning rate {rates[0]} for both" if len(set(rates)) == 1 else f"A-K at {rates[0]}, K-A at {rates[1]}"
    return "\n".join([*textwrap.wrap(f"{target}, {what}", 44), told])


def _named(cell: plan.Cell) -> str:
    setting, comma, seeds = plan.ARMS[cell.arm].label.partition(", ")
    return f"{setting}: {cell.value}".removesuffix(f": {plan.AS_REGISTERED}") + comma + seeds


def sweep_cells(held: Records, arm: str, preset: str = "laptop", device: str = "cpu") -> list[tuple[str, Records]]:
    """(value, run) of an arm with the main experiment's between; seeds registered later stand beside their value."""
    cells = []
    for cell in plan.with_main(arm):
        cells += [(cell.value, cell), *((f"{cell.value}, new seeds", other) for other in plan.new_seeds(cell))]
    found = [(value, plan.seeds_of(held, cell, preset, device)) for value, cell in cells]
    return [(value, run) for value, run in found if run is not None]


def alignments(
    held: Records, preset: str = "laptop", device: str = "cpu"
) -> Iterator[tuple[Records, Sequence[str], str]]:
    """(run, pipelines, what sets it apart) of the alignments on pairs with the main target."""
    for cell in [cell for arm in _FROM_PAIRS for cell in plan.ARMS[arm].cells if "target" not in cell.changes]:
        run = plan.seeds_of(held, cell, preset, device)
        if run is not None:
            kind = "K-A with A-K's compute" if cell.arm == "equal_compute" else "twice the learning rate"
            yield run, _FROM_PAIRS[cell.arm] or cell.pipelines, kind if cell.changes else ""


def leads_and_shares(gaussian: Records, language: Records) -> dict[str, list[tuple[str, float, Interval]]]:
    """What `sweeps.leads_by_share` draws: every setting of both studies whose checks passed."""
    mog, lm = [], []
    for run in gaussian.each():
        if failed_check(run) is None:
            rates = run.table("target_rate").mean()
            kept = rates["kd_only"] / rates["base"]
            mog.append((run.the_run()["algorithm"].upper(), kept, difference(run)))
    for _, a_k, k_a in lead_rows(language):
        kept = _sampled_rate(k_a, K_A) / _sampled_rate(k_a if "base_aligned" in k_a.pipelines else a_k, "base_aligned")
        lm.append((a_k.the_run()["target"], kept, difference(a_k, k_a)))
    return {"Gaussians, 100 seeds a setting": mog, "SmolLM2, 3 to 10 seeds a setting": lm}


def _sampled_rate(run: Records, pipeline: str) -> float:
    """The target's rate in the samples that a pipeline's pairs were made of."""
    pairs = run.stages[(run.stages["pipeline"] == pipeline) & run.stages["target_responses"].notna()]
    return (pairs["target_responses"] / pairs["responses"]).mean()


@themed
def fair_figure(held: Records) -> Figure:
    """Experiment 1: win rates over the SFT student, and reward by how far from it each method trained.

    Args:
        held: its records; runner-ups and trials are left out.
    """
    runs = held.select(arm=["start", "fair"])
    names = [name for name in reading_order(set(runs.metrics["pipeline"])) if name != "sft"]
    # Each method is a run of its own, as its settings are; here they stand as one.
    about = runs.runs.head(1)
    drawn = replace(runs.select(pipeline=names), runs=about)
    marks = "Left: 95 % t-intervals over seeds, small points: seeds. Right: thin lines: seeds, from validation prompts"
    note = depth_line([drawn], "record", marks)
    figure, ((rates, ways),) = panels(1, 2, (11, 4.8), "Methods tuned alike, each from the SFT student", note)
    rows_of_intervals(rates, drawn, "win_rate", labels=True)
    rates.axvline(50, color=INK, linewidth=1)
    steps = runs.curves[runs.curves["curve"].isin(["kl", "reward"]) & runs.curves["seed"].isin(fair_run.CURVES)]
    points = steps.pivot(index=["pipeline", "seed", "step"], columns="curve", values="value")
    for name in reading_order(points.index.unique("pipeline")):
        curves = [own.to_numpy().T for _, own in points.loc[name].groupby("seed")]
        sweeps.draw_curves(ways, name, curves)
    ways.set(xlabel=metric_label("kl_to_sft", "lm"), ylabel="reward (VADER's score, −1 to 1)")
    return figure


def readme() -> Iterator[tuple[str, Figure]]:
    """(name, picture) of RESULTS.md's."""
    gaussian, language = load("gaussians-study"), load("smollm2-study")
    note = "Recorded runs; bars: paired 95 % t-intervals over seeds. Blue: K-A leads, orange: A-K leads, grey: neither."
    yield "leads-by-share", sweeps.leads_by_share(leads_and_shares(gaussian, language), note)
    grids = load("gaussians-map")
    yield "map", maps.map_figure([Grid.of(grids, "rlhf", sharpening) for sharpening in (0.5, 1.0, 2.0)])
    temperature = plan.ARMS["kd_temperature"]
    note = f"The main experiment has {temperature.at_main}."
    cells = sweep_cells(language, "kd_temperature")
    yield "kd-temperature", sweeps.sweep_figure(cells, temperature.label, note=note)


def main(arguments: Sequence[str]) -> None:
    """The command at the head of this file."""
    folder = Path(arguments[0] if arguments else "data/figures")
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in readme():
        path, about = folder / f"{name}.png", {"Software": f"alignkd_lab {__version__}", "Source": "data/records"}
        figure.savefig(path, dpi=DPI, metadata={"Title": figure.get_suptitle(), **about})
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
