"""Benchmarks by lm-evaluation-harness (the extra `eval`), on a model that is already loaded."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from alignkd_lab.errors import BadInput, CannotContinue, refusing


def check_tasks(tasks: Sequence[str | dict]) -> None:
    """Raises BadInput where lm-evaluation-harness is not installed, or knows no task of a name."""
    if find_spec("lm_eval") is None:
        raise BadInput("tasks: lm-evaluation-harness is not installed; pip install 'alignkd-lab[eval]'")
    named = [task for task in tasks if isinstance(task, str)]
    if named:
        from lm_eval.tasks import TaskManager

        known = set(TaskManager().all_tasks)
        if unknown := [name for name in named if name not in known]:
            raise BadInput(f"tasks: lm-evaluation-harness has no {', '.join(unknown)}; see `lm-eval ls tasks`")


def run_tasks(
    model, tokenizer, tasks: Sequence[str | dict], *, limit: int | None = None, chat_template: bool = False
) -> dict[str, dict]:
    """Of each task and group: `metrics` (estimate and standard error of each), `few_shot`, `items` and `version`.

    Args:
        model: a causal model of transformers and its tokenizer; the dtype is that of its weights.
        tasks: names, or configurations as the harness's YAML files have them.
        limit: only the first so many items of each task, which is no score to report.
        chat_template: whether prompts are rendered as chat, examples as turns.

    Raises:
        CannotContinue: the hub did not give a task's data.
    """
    import huggingface_hub.errors
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    if named := [task for task in tasks if isinstance(task, str)]:
        print(f"lm-evaluation-harness fetches the data of {', '.join(named)} from the hub unless cached; see "
              "their pages for size and licence", file=sys.stderr)  # fmt: skip
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size="auto" if model.device.type == "cuda" else 8)
    kinds = ConnectionError, huggingface_hub.errors.HfHubHTTPError, FileNotFoundError
    what, way_out = "tasks: the hub did not give a task's data", "check the network"
    with refusing(what, *kinds, way_out=way_out, kind=CannotContinue):
        found = simple_evaluate(lm, tasks=list(tasks), limit=limit, apply_chat_template=chat_template,
                                fewshot_as_multiturn=chat_template, log_samples=False)  # fmt: skip
    return {
        name: {
            "metrics": _metrics(held),
            "few_shot": found["n-shot"].get(name),
            "items": found["n-samples"].get(name, {}).get("effective"),
            "version": found["versions"].get(name),
        }
        for name, held in found["results"].items()
    }


def _metrics(held: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """`acc,none` and `acc_stderr,none` as `acc`; a filter other than `none` stays in the name."""
    made = {}
    for key, value in held.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        stderr = held.get(f"{name}_stderr,{kind}")
        made[name if kind == "none" else key] = {"estimate": _number(value), "stderr": _number(stderr)}
    return made


def _number(value: Any) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        return float(value) if math.isfinite(float(value)) else None
    return None
