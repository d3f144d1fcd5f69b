"""What the bench promises, each promise checked by its figure from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ADPA = "ADPA, cached teachers"


class Promise(NamedTuple):
    """`ours` takes at most `limit` times what `other` takes; rows are (method, variant)."""

    name: str
    ours: tuple[str, str]
    other: tuple[str, str]
    of: str  # time or memory
    limit: float
    at_every_length: bool  # or at the greatest alone


PROMISES = (
    *(
        Promise(f"{method.upper()}: {of}, of full logits'", (method, "ours"), (method, "full_logits"), of, limit, False)
        for method in ("dckd", "adpa")
        for of, limit in (("memory", 0.25), ("time", 1.0))
    ),
    *(
        Promise(f"{method.upper()}: {of}, of TRL's", (method, "ours"), (method, "trl"), of, 1.0, True)
        for method in ("dpo", "kd")
        for of in ("memory", "time")
    ),
    Promise(f"{ADPA}: time, of the NLL's", ("adpa", "ours"), ("nll", "nll"), "time", 1.3, True),
)


def clock(device: str) -> str:
    """The column that compares time: on a CPU the process's own, which other work on the machine changes less."""
    return "cpu_seconds" if device == "cpu" else "seconds"


def check_bars(rows: Sequence[dict], device: str) -> list[dict]:
    """Every bar as `bar`, `passed` (None where it was not measured), `figure`, `limit`, `length`, `detail`, `rows`.

    Time is `clock`'s.
    """
    table = {(row["method"], row["variant"], row["length"]): row for row in rows}
    lengths = sorted({row["length"] for row in rows})
    columns = {"memory": "memory_bytes", "time": clock(device)}
    bars = []
    for promise in PROMISES:
        for length in lengths if promise.at_every_length else lengths[-1:]:
            bar = {"bar": promise.name, "passed": None, "figure": None, "limit": promise.limit, "length": length,
                   "detail": "not measured", "rows": [list(promise.ours), list(promise.other)]}  # fmt: skip
            left, right = (
                table.get((*name, length), {}).get(columns[promise.of]) for name in (promise.ours, promise.other)
            )
            if left and right:
                shown = _megabytes if promise.of == "memory" else _milliseconds
                bar |= {"passed": left / right <= promise.limit, "figure": left / right,
                        "detail": f"{shown(left)} against {shown(right)}"}  # fmt: skip
            bars.append(bar)
    return bars


def render_bars(bars: Sequence[dict]) -> str:
    """A line a bar: verdict, name, length, figure and limit."""
    verdicts = {True: "pass", False: "MISSED", None: "-"}
    lines = []
    for bar in bars:
        figure = "" if bar["figure"] is None else f"{bar['figure']:.2f} ≤ {bar['limit']:g}"
        lines.append(
            f"{verdicts[bar['passed']]:<7}{bar['bar']:<41}{bar['length']:>4} tokens  {figure:<13}{bar['detail']}"
        )
    return "\n".join(lines)


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.1f} MB"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.1f} ms"
