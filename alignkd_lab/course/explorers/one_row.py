"""The picture of a student that covers beside one that seeks: one row of probabilities for several contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from alignkd_lab.plots.drawing import INK, panels, themed

_SHADES = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#CFE3DC", "#44AA99"])


def likeliest(rows: Mapping[str, Tensor], each: int = 3) -> list[int]:
    """Token ids: the `each` likeliest of every row, in the order in which the rows bring them up."""
    return list(dict.fromkeys(token for row in rows.values() for token in row.topk(each).indices.tolist()))


@themed
def draw(rows: Mapping[str, Tensor], students: Sequence[str], tokenizer, note: str, each: int = 3) -> Figure:
    """A table of probabilities: a line for each row, those of `students` in bold, and a column for each likely token.

    Args:
        rows: log-probabilities over the vocabulary, by name, [V] each.
        each: how many tokens a row brings into the table.
    """
    tokens = likeliest(rows, each)
    shares = np.array([[float(row[token].exp()) for token in tokens] for row in rows.values()])
    figure, grid = panels(1, 1, (10, 0.42 * len(rows) + 1.5), "One student for several contexts", note)
    axis = grid[0, 0]
    axis.imshow(shares, cmap=_SHADES, norm=PowerNorm(0.5, 0, 1), aspect="auto")
    for line, row in enumerate(shares):
        for column, share in enumerate(row):
            if share >= 0.0005:
                axis.text(column, line, f"{100 * share:.2g} %", ha="center", va="center", fontsize=9, color=INK)
    words = [tokenizer.decode([token]).replace(" ", "␣") for token in tokens]
    axis.set_xticks(range(len(tokens)), words, parse_math=False)
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(rows)), list(rows))
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in students else "normal")
    first = list(rows).index(students[0])
    axis.axhline(first - 0.5, color=INK, linewidth=1.2)
    axis.set_xticks(np.arange(len(tokens) - 1) + 0.5, minor=True)
    axis.grid(visible=False)
    axis.grid(which="minor", axis="x", color="white", linewidth=2)
    axis.tick_params(which="both", length=0)
    return figure
