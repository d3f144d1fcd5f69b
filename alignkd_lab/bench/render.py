"""The bench's table for a person."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from alignkd_lab.bench.bars import clock, render_bars


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
