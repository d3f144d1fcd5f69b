"""What the bench promises, each promise checked by its figure from the rows; and its table for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

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


def render(record: Mapping) -> str:
    """What was measured, the table, and the bars with their verdicts; `tokens` are those of one response."""
    settings, made = record["settings"], record["provenance"]
    trained = f"LoRA of rank {settings['lora_rank']}" if settings["train"] == "lora" else "all weights"
    checkpointing = "on" if settings["checkpointing"] else "off"
    lines = [
        f"{made['device_name']}, threads: {settings['threads']}, torch {made['torch']}, {settings['dtype']}",
        f"Student {settings['student']}, {trained} trained, checkpointing {checkpointing}",
        f"Batch: {settings['pairs']} pairs, prompts of {settings['prompt_tokens']} tokens; "
        f"medians of {settings['repeats']}",
        *record["notes"],
    ]
    for _, rows in pd.DataFrame(record["rows"]).groupby("length"):
        lines += ["", _table(rows.set_index(["method", "variant"]), clock(made["device"]))]
    lines += ["", "Sampling, tokens a second:"]
    lines += [f"{row['variant']:<28}{row['tokens_per_second']:>10.1f}" for row in record["sampling"]]
    return "\n".join([*lines, "", render_bars(record["bars"])])


def _table(rows: pd.DataFrame, time: str) -> str:
    ours = rows.xs("ours", level="variant").reindex(rows.index.get_level_values("method")).set_axis(rows.index)
    shown = {
        "tokens": rows["length"],
        "ms": 1000 * rows["seconds"],
        "CPU ms": 1000 * rows["cpu_seconds"],
        "memory MB": rows["memory_bytes"] / 1e6,
        "time/ours": rows[time] / ours[time],
        "memory/ours": rows["memory_bytes"] / ours["memory_bytes"],
        "time/NLL": rows[time] / rows[time]["nll", "nll"],
    }
    return pd.DataFrame(shown).reset_index().to_string(index=False, float_format="{:.2f}".format, na_rep="-")
