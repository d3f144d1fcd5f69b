"""What a run tells of itself while it goes on, for whoever watches it from another process.

Where the variable `ALIGNKD_PROGRESS` names a file, a run appends a line of JSON for each event: `what` happened, `at`
which time (seconds since 1970), and what belongs to it.

- `part`: a cell of the Gaussian world or a seed of the language world begins (`name`, `number` of `parts`, and how many
  `units`, stages and evaluations, it has);
- `unit`: a stage or an evaluation begins (`pipeline`, `stage`);
- `step`: a step of training has ended (`stage`, `step` of `steps`);
- `curve`: reward, target rate and KL of an alignment on validation prompts (`stage`, `step`, ...).

Without the variable nothing is written.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

VARIABLE = "ALIGNKD_PROGRESS"


def tell(what: str, **told) -> None:
    """Append one event to the file of the watcher, if there is one."""
    path = os.environ.get(VARIABLE)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "at": time.time(), **told}) + "\n")


def read_events(path: Path) -> list[dict]:
    """All events of a file, oldest first; none where there is no file. A line that is still being written waits."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole, _, _ = text.rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def duration(seconds: float) -> str:
    """Two significant units at most: "40 s", "12 min", "3 h 10 min"."""
    if round(seconds) < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def busy_cores() -> float:
    """Cores that programs use just now, this one waiting."""
    import psutil

    return psutil.cpu_percent(0.1) / 100 * (psutil.cpu_count() or 1)


def beside(cores: float) -> str:
    """What to say of a measurement that other programs on so many cores have slowed, perhaps many times over."""
    return f" while other programs used {cores:.1f} cores: on a quiet machine it is faster" if cores > 0.3 else ""


def processes() -> int:
    """How many processes a launcher started, of which this is one."""
    return int(os.environ.get("WORLD_SIZE") or 1)
