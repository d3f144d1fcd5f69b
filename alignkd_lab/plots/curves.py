"""The curves of a training: a small picture for each, what was trained on and what was held out in one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure


def draw_curves(path: Path) -> None:
    """Draws a `curves.csv`, a row a step and a column a curve, as a PNG beside it: `eval_loss` beside `loss`."""
    curves = pd.read_csv(path, index_col="step")
    held = [name.removeprefix("eval_") for name in curves if name.startswith("eval_")]
    own = [name for name in curves if name != "epoch" and not name.startswith("eval_")]
    names = sorted({*own, *held}, key=lambda name: (name != "loss", name))
    rows = -(-len(names) // 3)
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
        for axes, name in zip(
            figure.subplots(rows, 3, squeeze=False).flat, [*names, *[None] * (-len(names) % 3)], strict=True
        ):
            axes.set_visible(name is not None)
            for column, label in ((name, "training"), (f"eval_{name}", "held out")):
                if name is not None and column in curves:
                    line = curves[column].dropna()
                    axes.plot(line.index, line, marker="." if len(line) < 30 else "", label=label)
            if name is not None:
                axes.set(title=name.replace("_", " "), xlabel="step")
                axes.legend()
    figure.savefig(path.with_suffix(".png"), dpi=120)
