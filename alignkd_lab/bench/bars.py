"""What the bench promises, each promise checked by its figure from the rows."""

from __future__ import annotations

from collections.abc import Sequence

MEMORY = 0.25  # of full logits'
NLL = 1.3  # times the NLL-only step
CEILING = 0.5  # of matrix product rate × counted operations


def check_bars(rows: Sequence[dict], device: str) -> list[dict]:
    """Every bar as `bar`, `passed` (None where it was not measured), `figure`, `limit`, `length`, `detail`, `rows`.

    Memory, and speed against full logits, are checked at the greatest length, as is the ceiling; what is promised
    of the steps at large, against TRL and the NLL alone, at every length. `rows` are the (method, variant) compared.
    """
    table = {(row["method"], row["variant"], row["length"]): row for row in rows}
    lengths = sorted({row["length"] for row in rows})
    last = lengths[-1]
    bars = []
    for method in ("dckd", "adpa"):
        pair = (method, "ours"), (method, "full_logits")
        bars.append(_ratio(table, *pair, last, "memory_bytes", MEMORY, f"{method.upper()}: memory, of full logits'"))
        bars.append(_ratio(table, *pair, last, "seconds", 1.0, f"{method.upper()}: time, of full logits'"))
    for length in lengths:
        bars.append(_ratio(table, ("dpo", "ours"), ("dpo", "trl"), length, "seconds", 1.0, "DPO: time, of TRL's"))
    for length in lengths:
        pair = ("adpa", "ours"), ("nll", "nll")
        bars.append(_ratio(table, *pair, length, "seconds", NLL, "ADPA, cached teachers: time, of the NLL's"))
    return [*bars, _ceiling(rows, last, device)]


def _ratio(table: dict, ours: tuple, other: tuple, length: int, column: str, limit: float, name: str) -> dict:
    bar = {"bar": name, "passed": None, "figure": None, "limit": limit, "at_most": True, "length": length,
           "detail": "not measured", "rows": [list(ours), list(other)]}  # fmt: skip
    left, right = table.get((*ours, length)), table.get((*other, length))
    if left is None or right is None or not right[column]:
        return bar
    figure = left[column] / right[column]
    shown = _megabytes if column == "memory_bytes" else _milliseconds
    return bar | {
        "passed": figure <= limit,
        "figure": figure,
        "detail": f"{shown(left[column])} against {shown(right[column])}",
    }


def _ceiling(rows: Sequence[dict], length: int, device: str) -> dict:
    """The least share of the ceiling among our steps; promised of a CPU, on a GPU only told."""
    ours = [row for row in rows if row["variant"] == "ours" and row["length"] == length]
    shares = {row["method"]: row["ceiling_share"] for row in ours}
    slowest = min(shares, key=shares.get)
    detail = "share of " + ", ".join(f"{method.upper()} {share:.2f}" for method, share in shares.items())
    return {
        "bar": "training step: share of the measured ceiling",
        "passed": shares[slowest] >= CEILING if device == "cpu" else None,
        "figure": shares[slowest],
        "limit": CEILING,
        "at_most": False,
        "length": length,
        "detail": detail if device == "cpu" else f"{detail}; promised of a CPU only",
        "rows": [[slowest, "ours"]],
    }


def render_bars(bars: Sequence[dict]) -> str:
    """A line a bar: verdict, name, length, figure and limit."""
    verdicts = {True: "pass", False: "MISSED", None: "-"}
    lines = []
    for bar in bars:
        sign = "≤" if bar["at_most"] else "≥"
        figure = "" if bar["figure"] is None else f"{bar['figure']:.2f} {sign} {bar['limit']:g}"
        lines.append(
            f"{verdicts[bar['passed']]:<7}{bar['bar']:<46}{bar['length']:>4} tokens  {figure:<13}{bar['detail']}"
        )
    return "\n".join(lines)


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"
