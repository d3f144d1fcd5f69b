"""The bench's table for a person."""

from __future__ import annotations

from collections.abc import Mapping

from alignkd_lab.bench.bars import render_bars

COLUMNS = ("method", "variant", "tokens", "ms", "memory MB", "time/ours", "memory/ours", "time/NLL", "of ceiling")


def render(record: Mapping) -> str:
    """What was measured, the table, and the bars with their verdicts; `tokens` are those of one response."""
    settings = record["settings"]
    made = record["provenance"]
    trained = f"LoRA of rank {settings['lora_rank']}" if settings["train"] == "lora" else "all weights"
    checkpointing = "on" if settings["checkpointing"] else "off"
    lines = [
        f"{made['device_name']}, threads: {settings['threads']}, torch {made['torch']}, {settings['dtype']}",
        f"Student {settings['student']}, {trained} trained, checkpointing {checkpointing}",
        f"Batch: {settings['pairs']} pairs, prompts of {settings['prompt_tokens']} tokens; medians of "
        f"{settings['repeats']}; matrix products {record['products_per_second'] / 1e9:.0f} GFLOP/s",
        *record["notes"],
        "",
        _line(COLUMNS),
    ]
    rows = {(row["method"], row["variant"], row["length"]): row for row in record["rows"]}
    length = None
    for row in record["rows"]:
        if length not in (None, row["length"]):
            lines.append("")
        length = row["length"]
        ours = rows.get((row["method"], "ours", length), row)
        nll = rows["nll", "nll", length]
        lines.append(
            _line(
                (
                    row["method"],
                    row["variant"],
                    str(length),
                    f"{1000 * row['seconds']:.1f}",
                    f"{row['memory_bytes'] / 1e6:.1f}",
                    f"{row['seconds'] / ours['seconds']:.2f}",
                    f"{row['memory_bytes'] / ours['memory_bytes']:.2f}" if ours["memory_bytes"] else "-",
                    f"{row['seconds'] / nll['seconds']:.2f}",
                    f"{row['ceiling_share']:.2f}",
                )
            )
        )
    return "\n".join([*lines, "", render_bars(record["bars"])])


def _line(cells: tuple[str, ...]) -> str:
    return f"{cells[0]:<8}{cells[1]:<13}" + "".join(f"{cell:>13}" for cell in cells[2:])
