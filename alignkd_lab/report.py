"""One page on the runs below a folder, and the same numbers as JSON.

The page holds no script and no link to outside, and what a model wrote is escaped. Its markup is `report.html`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from alignkd_lab import __version__, records
from alignkd_lab.claims import checks, decide, why_no_verdict
from alignkd_lab.costs import typical_costs
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots import figures, sweeps
from alignkd_lab.plots.drawing import run_title
from alignkd_lab.plots.style import (
    CHECK_WORDS,
    CLAIM_WORDS,
    METRIC_STYLE,
    SYMBOLS,
    WORLD_LABEL,
    interval,
    metric_label,
    number,
    pipeline_style,
    shown,
)
from alignkd_lab.presets import PRESETS
from alignkd_lab.recording import full_settings, plain_settings
from alignkd_lab.records import ALGORITHMS, Records, varying_settings
from alignkd_lab.stats import t_interval

METRICS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")
ORDER_WORDS = {K_A: "distil, then align (K-A)", A_K: "align, then distil (A-K)"}
PROMPTS, WORDS, CELLS = 3, 40, 24  # that are shown: prompts, words of a response, rows of a sweep
_DPI = 120
_NOTEBOOKS = {"mog": "notebooks/03_both_orders_on_gaussians.ipynb", "lm": "notebooks/07_both_orders_on_smollm2.ipynb"}


# The numbers ------------------------------------------------------------------------------------------


def report_json(folder: Path | str) -> dict:
    """`runs`: every run that goes on below the folder; `studies`: a line for each packed study. None: undefined.

    Raises:
        RecordError: no record below the folder, or one that cannot be read.
    """
    held = records.load(folder)
    return {"version": __version__, "runs": [run_json(run) for run in _live(held)], "studies": studies(held)}


def run_json(run: Records) -> dict:
    """One run in numbers: what ran, metrics with 95 % intervals, checks, verdicts and costs."""
    about = run.the_run()
    rows = run.metrics[run.metrics["metric"].isin(METRICS)].sort_values("seed")
    found: dict[str, dict] = {name: dict.fromkeys(METRICS) for name in run.pipelines}
    for (name, metric), values in rows.groupby(["pipeline", "metric"])["value"]:
        if all(map(math.isfinite, values)):
            found[name][metric] = t_interval(values.tolist())._asdict()
    numbers = {
        **{name: about[name] for name in ("world", "preset", "algorithm", "target", "device")},
        "seeds": run.seeds,
        "pipelines": run.pipelines,
        "changed_settings": changed_settings(run),
        "metrics": found,
        "checks": [check._asdict() for check in checks(run)],
        "claims": decide(run).to_dict("records"),
        "no_verdict": why_no_verdict(run),
        "costs": typical_costs(run).to_dict("index") if len(run.stages) else {},
    }
    return _strict(numbers)


def changed_settings(run: Records) -> dict[str, Any]:
    """The settings that are not those of the run's preset."""
    about = run.the_run()
    known = PRESETS.get(about["preset"])
    usual = full_settings(about["world"], plain_settings(getattr(known, about["world"])) if known else {})
    return {name: value for name, value in run.settings.items() if value != usual.get(name)}


def studies(held: Records) -> list[str]:
    """A line for each packed study."""
    packed = held.metrics[held.metrics["study"] != ""]
    lines = []
    for study, rows in packed.groupby("study"):
        (world,), runs, seeds = rows["world"].unique(), rows["run"].nunique(), rows["seed"].nunique()
        what = "setting" if runs == 1 else "settings"
        lines.append(f"{study}: {WORLD_LABEL[world]}, {runs} {what}, {seeds} seeds, see {_NOTEBOOKS[world]}")
    return lines


def _live(held: Records) -> Iterator[Records]:
    if (held.metrics["study"] == "").any():
        yield from held.select(study="").each()


def _strict(value: Any) -> Any:
    """Plain JSON, with None for what is undefined."""
    if isinstance(value, Mapping):
        return {str(name): _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


# The page ---------------------------------------------------------------------------------------------


def write_report(folder: Path | str, out: Path | str | None = None) -> Path | None:
    """Writes the page on the runs below `folder` to `out`, or `folder/report.html`; None where only studies are there.

    Raises:
        RecordError: no record below the folder, or one that cannot be read.
    """
    folder = Path(folder)
    worlds: dict[str, list[Records]] = {}
    for run in _live(records.load(folder)):
        worlds.setdefault(run.the_run()["world"], []).append(run)
    if not worlds:
        return None
    out = Path(out) if out is not None else (folder if folder.is_dir() else folder.parent) / "report.html"
    sections = [_section(runs, folder) for runs in worlds.values()]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("alignkd_lab").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(sections=sections, orders=ORDER_WORDS, folder=folder, version=__version__)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _section(runs: Sequence[Records], folder: Path) -> dict:
    """What the page shows of one world: a run in full, its kin as a table of cells."""
    run = _main(runs)
    held, about = run_json(run), run.the_run()
    world = about["world"]
    pictures = [
        _picture(figures.four_metrics(run, "live"), "The four metrics by pipeline, with 95 % intervals over seeds."),
        _picture(figures.target_through_stages(run, "live"), "How often the target shows before and after each step."),
    ]
    same = [other for other in runs if other.the_run()["preset"] == about["preset"]]
    if len({other.settings.get("sharpening") for other in same}) > 1:
        pictures.append(_picture(figures.reward_by_sharpening(same, "live"), "Reward of both orders by sharpening."))
    return {
        "title": run_title(run),
        "winner": _winner(held),
        "ran": _what_ran(held),
        "pictures": pictures,
        "heads": [metric_label(metric, world) for metric in METRICS],
        "rows": [(_name(name), name in ORDERS, _cells(held["metrics"][name])) for name in held["pipelines"]],
        "meanings": [(METRIC_STYLE[metric].label, METRIC_STYLE[metric].meaning) for metric in METRICS],
        "checks": [(check["passed"], CHECK_WORDS[check["name"]], check["text"]) for check in held["checks"]],
        "verdicts": [] if held["no_verdict"] else [_verdict(claim) for claim in held["claims"]],
        "no_verdict": held["no_verdict"],
        "responses": _responses(run),
        "costs": [(_name(name), *_cost(cost)) for name, cost in held["costs"].items()],
        "unit": "draws" if world == "mog" else "tokens",
        "sweep": _sweep(runs) if len(runs) > 1 else None,
        "beside": _beside(run),
        "next": _next(held, folder),
        "notebook": _NOTEBOOKS[world],
    }


def _main(runs: Sequence[Records]) -> Records:
    """The run shown in full: with most seeds, then nearest to the preset's settings, RLHF before DPO."""
    return min(
        runs, key=lambda r: (-len(r.seeds), len(changed_settings(r)), ALGORITHMS.index(r.the_run()["algorithm"]))
    )


def _name(pipeline: str) -> str:
    words = ORDER_WORDS.get(pipeline)
    return words[0].upper() + words[1:] if words else pipeline_style(pipeline).label


def _winner(held: dict) -> str:
    """Who earned more, in a line."""
    k_a, a_k = (held["metrics"].get(order, {}).get("reward") for order in ORDERS)
    if not (k_a and a_k):
        return "It does not hold the reward of both orders, so there is nothing to compare."
    rewards = f"reward {number(a_k['estimate'])} for A-K, {number(k_a['estimate'])} for K-A"
    claim, count = held["claims"][0], len(held["seeds"])
    if held["no_verdict"]:
        return f"{rewards[0].upper()}{rewards[1:]} ({held['no_verdict']})."
    span = f"difference {_span(claim)}, {count} seeds"
    leader = A_K if (claim["low"] or 0) > 0 else K_A if (claim["high"] or 0) < 0 else None
    said = f"{_name(leader)} earned more" if leader else "neither order clearly earned more"
    invalid = "; a check failed, so no verdict is valid" if claim["verdict"] == "invalid" else ""
    return f"{said[0].upper()}{said[1:]}: {rewards}; {span}{invalid}."


def _what_ran(held: dict) -> list[tuple[str, str]]:
    changed = ", ".join(f"{name} = {_short(value)}" for name, value in held["changed_settings"].items())
    return [
        ("world", WORLD_LABEL[held["world"]]),
        ("preset", f"{held['preset']}, on {held['device']}"),
        ("alignment", held["algorithm"].upper()),
        ("target", held["target"].replace("_", " ")),
        ("seeds", ", ".join(map(str, held["seeds"]))),
        ("pipelines", "; ".join(_name(name) for name in held["pipelines"])),
        ("changed settings", changed or "none"),
    ]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _span(found: Mapping | None, metric: str = "") -> str:
    if found is None:
        return "–"
    spans = [found[part] for part in ("estimate", "low", "high")]
    return interval(*(None if part is None else shown(metric, part) for part in spans))


def _cells(metrics: Mapping) -> list[str]:
    return [_span(metrics[metric], metric) for metric in METRICS]


def _verdict(claim: Mapping) -> tuple[str, str, str, str]:
    words = CLAIM_WORDS[claim["metric"], claim["statistic"]].replace("A-K", _name(A_K), 1)
    return SYMBOLS[claim["verdict"]], words, claim["verdict"], f"{_span(claim)}, {100 * claim['level']:.4g} %"


def _cost(cost: Mapping) -> list[str]:
    return [
        number(cost["minutes"]),
        *(f"{round(cost[f'tokens_{kind}'] or 0):,}" for kind in ("sampled", "trained", "scored")),
        number(cost["memory_gib"]),
    ]


def _responses(run: Records) -> dict | None:
    """The first response of base, K-A and A-K to the first prompts in the first seed, whatever they say."""
    rows = run.responses[run.responses["seed"] == run.seeds[0]] if len(run.responses) else run.responses
    names = [name for name in ("base", *ORDERS) if name in set(rows["pipeline"])]
    if not set(ORDERS) & set(names):
        return None
    first = rows.drop_duplicates(["pipeline", "prompt"]).set_index(["prompt", "pipeline"])
    prompts = list(dict.fromkeys(rows["prompt"]))[:PROMPTS]
    table = [(prompt, [_answer(first, prompt, name) for name in names]) for prompt in prompts]
    return {"seed": run.seeds[0], "heads": [_name(name) for name in names], "rows": table}


def _answer(first: Any, prompt: str, name: str) -> tuple[str, str]:
    if (prompt, name) not in first.index:
        return "–", ""
    row = first.loc[(prompt, name)]
    words = str(row["response"]).split()
    text = " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
    return text, f"{'target, ' if row['target'] else ''}reward {number(row['reward'])}"


def _sweep(runs: Sequence[Records]) -> dict:
    """A row a cell: what differs, the reward of both orders, their difference, and its verdict."""
    together = records.concat(list(runs))
    heads = [name for name in ("preset", "algorithm", "target", "device") if together.runs[name].nunique() > 1]
    settings = varying_settings(together)
    rows = []
    for run in runs[:CELLS]:
        held, about = run_json(run), run.the_run()
        claim, reward = held["claims"][0], {name: metrics["reward"] for name, metrics in held["metrics"].items()}
        means = [number(reward[order]["estimate"]) if reward.get(order) else "–" for order in ORDERS]
        differ = [about[name] for name in heads] + [_short(run.settings[name]) for name in settings]
        rows.append([*differ, len(held["seeds"]), *means, _span(claim), held["no_verdict"] or claim["verdict"]])
    return {"heads": [name.replace("_", " ") for name in (*heads, *settings)], "rows": rows, "all": len(runs)}


def _beside(run: Records) -> dict | None:
    """A-K minus K-A in reward, in this run and in the recorded ones of its world."""
    about = run.the_run()
    study, arms = ("gaussians-study", ["main", "sharpening"]), ["main", "targets"]
    study, arms = study if about["world"] == "mog" else ("smollm2-study", arms)
    path = data_folder() / "records" / f"{study}.zip"
    if not path.is_file() or not run.paired_seeds():
        return None
    recorded = records.load(path).select(arm=arms, pipeline=list(ORDERS))
    rows = [("This run\n" + _label(run), run, run)]
    for other in recorded.each():
        if about["world"] == "lm" or other.the_run()["algorithm"] == about["algorithm"]:
            rows.append((f"Recorded\n{_label(other)}", other, other))
    figure = sweeps.leads_figure(rows, "record", ("reward",), marked=(0,))
    return _picture(figure, "A-K minus K-A in reward: this run (marked) and recorded runs of the same world.")


def _label(run: Records) -> str:
    about, seeds = run.the_run(), len(run.paired_seeds())
    if about["world"] == "mog":
        what = f"sharpening {run.settings['sharpening']:g}, β = {run.settings['beta']:g}"
    else:
        what = f"{about['target']}, {about['preset']}"
    return f"{about['algorithm'].upper()}, {what}, {seeds} {'seed' if seeds == 1 else 'seeds'}"


def _next(held: dict, folder: Path) -> list[tuple[str, str]]:
    """Command lines, with what each is for."""
    words = [f"--{name} {shlex.quote(held[name])}" for name in ("world", "preset", "algorithm", "target")]
    changed = [shlex.quote(f"{name}={json.dumps(value)}") for name, value in held["changed_settings"].items()]
    plain = " ".join(["alignkd run", *words, *(["--set", *changed] if changed else [])])
    first, out = max(held["seeds"]) + 1, f"--out {shlex.quote(str(folder))}"
    return [
        ("more seeds", f"{plain} --seeds {first}-{first + 4} {out}"),
        ("these numbers for a program", f"alignkd report {shlex.quote(str(folder))} --json"),
    ]


def _picture(figure: Figure, caption: str) -> dict:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=_DPI, format="png")
    return {"data": base64.b64encode(buffer.getvalue()).decode(), "caption": caption}
