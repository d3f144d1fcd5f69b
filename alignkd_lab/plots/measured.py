"""What `alignkd train` and `alignkd evaluate` measured: a small picture for each curve, or each metric."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from alignkd_lab.evaluation import METRICS
from alignkd_lab.plots.style import PIPELINE_STYLE

_COLOURS = [PIPELINE_STYLE[name].colour for name in ("kd_then_align", "align_then_kd")]
_COINS = ("win_rate", "judge", "reward_accuracy")  # where one half is what chance gives
_SHARES = (*_COINS, "ended", "distinct_1", "distinct_2")


def draw_curves(path: Path) -> None:
    """Draws a `curves.csv`, a row a step and a column a curve, as a PNG beside it: `eval_loss` beside `loss`."""
    curves = pd.read_csv(path, index_col="step")
    held = [name.removeprefix("eval_") for name in curves if name.startswith("eval_")]
    own = [name for name in curves if name != "epoch" and not name.startswith("eval_")]
    names = sorted({*own, *held}, key=lambda name: (name != "loss", name))
    rows = -(-len(names) // 3)
    if not names:  # nothing was logged
        return
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
        for at, name in enumerate(names, 1):
            axes = figure.add_subplot(rows, 3, at)
            for column, label in ((name, "training"), (f"eval_{name}", "held out")):
                if column in curves:
                    line = curves[column].dropna()
                    axes.plot(line.index, line, marker="." if len(line) < 30 else "", label=label)
            axes.set(title=name.replace("_", " "), xlabel="step")
            axes.legend()
    figure.savefig(path.with_suffix(".png"), dpi=120)


def draw_evaluation(record: dict, path: Path) -> None:
    """Draws a record as a PNG: each estimate with its interval; tasks, all in one panel, with their standard errors."""
    titles = {"win_rate": "win rate", "judge": "win rate by the judge", **METRICS}
    names = [name for name, part in record["weights"].items() if name != "reference"]
    labels = {name: record["weights"][name]["source"][-24:] for name in names}
    won = {"win_rate": record["win_rate"], "judge": (record["judge"] or {}).get("win_rate")}
    found = {"model": {**record["metrics"], **won}, "against": record["against"] or {}}
    metrics = [metric for metric in titles if found["model"].get(metric)]
    tasks = [(f"{task}, {metric}", value) for task, held in (record["tasks"] or {}).items()
             for metric, value in held["metrics"].items() if value["estimate"] is not None]  # fmt: skip
    rows = -(-len(metrics) // 3)
    with sns.axes_style("whitegrid"):
        heights = [1.2 + 0.4 * len(names)] * rows + ([0.6 + 0.25 * len(tasks)] if tasks else [])
        figure = Figure(figsize=(11, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
        for at, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[divmod(at, 3)])
            for place, name in enumerate(names):
                if value := found[name].get(metric):
                    _point(axes, value["estimate"], place, value["low"], value["high"], _COLOURS[place])
            if metric in _COINS:
                axes.axvline(0.5, color="grey", linestyle=":")
            axes.set_title(titles[metric], fontsize="medium")
            axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(-0.05, 1.05) if metric in _SHARES else None)
            axes.set_yticks(range(len(names)), labels=[labels[name] for name in names] if at % 3 == 0 else [])
        if tasks:
            axes = figure.add_subplot(grid[rows, :])
            for place, (_, value) in enumerate(tasks):
                error = value["stderr"]
                bounds = (None, None) if error is None else (value["estimate"] - error, value["estimate"] + error)
                _point(axes, value["estimate"], place, *bounds, _COLOURS[0])
            axes.set(title="tasks, with one standard error", ylim=(len(tasks) - 0.5, -0.5))
            axes.set_yticks(range(len(tasks)), labels=[label for label, _ in tasks])
    figure.savefig(path, dpi=120)


def _point(axes, estimate: float, place: int, low: float | None, high: float | None, colour: str) -> None:
    error = None if low is None else [[max(0.0, estimate - low)], [max(0.0, high - estimate)]]
    axes.errorbar(estimate, place, xerr=error, fmt="o", color=colour, capsize=3)
