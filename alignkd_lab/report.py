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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from alignkd_lab import __version__, records
from alignkd_lab.claims import checks, decide, why_no_verdict
from alignkd_lab.costs import typical_costs
from alignkd_lab.errors import BadInput
from alignkd_lab.paths import data_folder, make_folder
from alignkd_lab.pipelines import A_K, ALGORITHMS, K_A, METHODS, ORDERS, YARDSTICKS, reading_order
from alignkd_lab.plots import drawing, figures, style, sweeps
from alignkd_lab.presets import PRESETS, default_pipelines
from alignkd_lab.recording import full_settings, plain_settings
from alignkd_lab.records import Records, varying_settings

NUMBERS = ("reward", "target_rate", "target_precision", "overall_precision", "overall_recall")
ORDER_WORDS = {K_A: "distil, then align (K-A)", A_K: "align, then distil (A-K)"}
PROMPTS, WORDS, CELLS = 3, 20, 12  # that are shown: prompts, words of a response, rows of a sweep
_NOTEBOOKS = {"mog": "notebooks/03_both_orders_on_gaussians.ipynb", "lm": "notebooks/07_both_orders_on_smollm2.ipynb"}


def report_json(folder: Path | str) -> dict:
    """`runs`: every run of one's own below the folder; `studies`: a line for each of the plan's. None: undefined.

    Raises RecordError where the folder holds no record, or one that cannot be read.
    """
    held = records.load(folder)
    return {"version": __version__, "runs": [run_json(run) for run in _live(held)], "studies": studies(held)}


def run_json(run: Records) -> dict:
    """One run in numbers: what ran, metrics with 95 % intervals, checks, verdicts and costs."""
    about = run.the_run()
    rows = run.metrics[run.metrics["metric"].isin(NUMBERS)].sort_values("seed")
    found: dict[str, dict] = {name: dict.fromkeys(NUMBERS) for name in run.pipelines}
    for (name, metric), values in rows.groupby(["pipeline", "metric"])["value"]:
        if all(map(math.isfinite, values)):
            found[name][metric] = style.over_seeds(metric, values.tolist())._asdict()
    numbers = {
        **{name: about[name] for name in ("world", "preset", "algorithm", "target", "device")},
        "seeds": run.seeds,
        "paired_seeds": run.paired_seeds(),
        "pipelines": run.pipelines,
        # A preset of the Gaussians has several values of these two.
        "changed_settings": changed_settings(run, ("beta", "sharpening") if about["world"] == "mog" else ()),
        "metrics": found,
        "checks": [check._asdict() for check in checks(run)],
        "claims": decide(run).to_dict("records"),
        "no_verdict": why_no_verdict(run),
        "costs": typical_costs(run).to_dict("index") if len(run.stages) else {},
    }
    text = json.dumps(numbers, default=lambda value: value.item())  # numpy's numbers
    return json.loads(text, parse_constant=lambda _: None)


def changed_settings(run: Records, always: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that are not those of the run's preset, and those named in `always`."""
    world, known = run.the_run()["world"], PRESETS.get(run.the_run()["preset"])
    usual = full_settings(world, plain_settings(getattr(known, world)) if known else {})
    return {name: value for name, value in run.settings.items() if value != usual.get(name) or name in always}


def studies(held: Records) -> list[str]:
    """A line for each packed study, and for each experiment of the plan's second part."""
    named, lines = _study_of(held), []
    for study, rows in held.metrics[named != ""].groupby(named):
        (world,), counts = rows["world"].unique(), rows[["run", "seed"]].nunique()
        what = f"{style.WORLD_LABEL[world]}, {counts['run']} settings, {counts['seed']} seeds"
        lines.append(f"{study}: {what}, see {_NOTEBOOKS[world]}")
    return lines


def _study_of(held: Records) -> pd.Series:
    """The study of each row of metrics, or its experiment, which has no two orders to compare; "" for one's own run."""
    experiments = {run: held.settings_of(run).get("experiment", "") for run in held.runs["run"]}
    return held.metrics["study"].where(held.metrics["study"] != "", held.metrics["run"].map(experiments))


def _live(held: Records) -> Iterator[Records]:
    own = held.metrics.loc[_study_of(held) == "", "run"].unique()
    if len(own):
        yield from held.select(run=own.tolist()).each()


class Block(NamedTuple):
    """A part of the page: what it has of pictures (base64, caption), a table, lines, commands and a note."""

    heading: str
    pictures: Sequence[tuple[str, str]] = ()
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    commands: Sequence[str] = ()
    note: str = ""


def write_report(folder: Path | str, out: Path | str | None = None) -> Path | None:
    """Writes the page on the runs below `folder` to `out`, or `folder/report.html`; None of mere studies."""
    folder = Path(folder)
    worlds: dict[str, list[Records]] = {}
    for run in _live(records.load(folder)):
        worlds.setdefault(run.the_run()["world"], []).append(run)
    if not worlds:
        return None
    out = Path(out) if out is not None else (folder if folder.is_dir() else folder.parent) / "report.html"
    make_folder(out.parent)
    if out.is_dir():
        raise BadInput(f"out: {out} is a folder; name the page's file")
    sections = []
    for runs in worlds.values():
        run = min(runs, key=_place)
        sections.append((drawing.run_title(run), _winner(run_json(run)), list(_blocks(run, runs, folder))))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("alignkd_lab").joinpath("report.html").read_text(encoding="utf-8"))
    metrics = [style.METRIC_STYLE[metric] for metric in NUMBERS]
    page = template.render(sections=sections, orders=ORDER_WORDS, metrics=metrics, version=__version__)
    out.write_text(page, encoding="utf-8")
    return out


def _place(run: Records) -> tuple:
    """First the run with most seeds, then that nearest to the preset's settings, RLHF before DPO."""
    return -len(run.seeds), len(changed_settings(run)), ALGORITHMS.index(run.the_run()["algorithm"])


def _blocks(run: Records, runs: Sequence[Records], folder: Path) -> Iterator[Block]:
    """What the page shows of one world: a run in full, its kin as a table of cells."""
    held, world = run_json(run), run.the_run()["world"]
    pictures = [
        _picture(figures.four_metrics(run, "live"), "The four metrics by pipeline."),
        _picture(figures.target_through_stages(run, "live"), "How often the target shows before and after each step."),
    ]
    yield Block("What ran", pictures, rows=_what_ran(held))
    named = [name for name in held["pipelines"] if name in ("base", *ORDERS, *METHODS)]
    heads = ["pipeline", *(style.metric_label(metric, world) for metric in NUMBERS)]
    of, every = run.metrics.groupby("pipeline")["seed"].nunique(), len(run.seeds)
    fewer = {n: f", {of[n]} of {every} seeds" for n in named if of[n] < every}
    rows = [[_name(n) + fewer.get(n, ""), *(_span(held["metrics"][n][m], m) for m in NUMBERS)] for n in named]
    note = "Means over seeds with 95 % t-intervals; " * (every > 1) + "– where a metric does not exist."
    yield Block("The numbers", heads=heads, rows=rows, note=note)
    yield _verdicts(held)
    if len(runs) > 1:
        yield _sweep(runs, run)
    if len(run.responses):
        yield _responses(run)
    yield from _beside(run)
    note = f"First more seeds, then these numbers as JSON. The course explains this world in {_NOTEBOOKS[world]}."
    yield Block("What to do next", commands=_next(held, shlex.quote(str(folder))), note=note)


def _winner(held: dict) -> str:
    """Who earned more, in a line."""
    k_a, a_k = (held["metrics"].get(order, {}).get("reward") for order in ORDERS)
    if not (k_a and a_k):
        return "It does not hold the reward of both orders, so there is nothing to compare."
    rewards = f"reward {style.number(a_k['estimate'])} for A-K, {style.number(k_a['estimate'])} for K-A"
    if held["no_verdict"]:
        return f"R{rewards[1:]} ({held['no_verdict']})."
    claim = held["claims"][0]
    leader = A_K if (claim["low"] or 0) > 0 else K_A if (claim["high"] or 0) < 0 else None
    said = f"{_name(leader)} earned more" if leader else "Neither order clearly earned more"
    invalid = "; a check failed, so no verdict is valid" if claim["verdict"] == "invalid" else ""
    return f"{said}: {rewards}; difference {_span(claim)}, {len(held['paired_seeds'])} seeds{invalid}."


def _what_ran(held: dict) -> list[tuple[str, str]]:
    changed = ", ".join(f"{name} = {_short(value)}" for name, value in held["changed_settings"].items())
    return [
        ("world and preset", f"{style.WORLD_LABEL[held['world']]}, {held['preset']}, on {held['device']}"),
        ("alignment and target", f"{held['algorithm'].upper()}, {held['target'].replace('_', ' ')}"),
        ("seeds", drawing.spans(held["seeds"])),
        ("pipelines", "; ".join(_name(name) for name in held["pipelines"])),
        ("settings beside the preset's", changed or "none"),
    ]


def _verdicts(held: dict) -> Block:
    """A line a check and a line a verdict."""
    lines = []
    for check in held["checks"]:
        passed = "passed" if check["passed"] else "failed"
        lines.append(f"Check, {style.CHECK_WORDS[check['name']]}: {passed}; {check['text']}.")
    if held["no_verdict"]:
        return Block("Checks and verdicts", lines=[*lines, f"{held['no_verdict'].capitalize()}."])
    for claim in held["claims"]:
        words, verdict = style.CLAIM_WORDS[claim["metric"], claim["statistic"]], claim["verdict"]
        lines.append(f"{style.SYMBOLS[verdict]} {words}: {verdict}, {_span(claim)}.")
    note = "Numbers: A-K minus K-A, or the ratio of their variances; intervals corrected for several claims by Holm."
    return Block("Checks and verdicts", lines=lines, note=note)


def _sweep(runs: Sequence[Records], shown: Records) -> Block:
    """A row a cell: what differs, A-K minus K-A in reward, and its verdict; drawn are those like the run `shown`."""
    together = records.concat(list(runs))
    heads = [name for name in ("preset", "algorithm", "target", "device") if together.runs[name].nunique() > 1]
    # Within a preset: what two presets differ in, their names say.
    alike = [varying_settings(together.select(preset=name)) for name in together.runs["preset"].unique()]
    settings, rows = [name for name in dict.fromkeys(chain(*alike)) if name not in heads], []
    for run in runs[:CELLS]:
        held, own = run_json(run), run.settings
        differ = [*(held[name] for name in heads), *(_short(own[name]) for name in settings)]
        claim = held["claims"][0]
        rows.append([*differ, _span(claim), held["no_verdict"] or claim["verdict"]])
    same = [run for run in runs if {"beta", "sharpening"}.issuperset(varying_settings(records.concat([run, shown])))]
    note = "In full above: the cell with most seeds that is nearest to the preset. No correction is made over cells."
    note += f" Here are the first {CELLS} of {len(runs)}; the JSON has all." if len(runs) > CELLS else ""
    drawn, words = len({run.settings.get("sharpening") for run in same}) > 1, "Reward of both orders by sharpening."
    pictures = [_picture(figures.reward_by_sharpening(same, "live"), words)] if drawn else []
    heads = [*heads, *settings, "reward, A-K − K-A", "A-K earns more"]
    return Block("All cells", pictures, [head.replace("_", " ") for head in heads], rows, note=note)


def _responses(run: Records) -> Block:
    """The first response of base, K-A and A-K to the first prompts in the first seed, whatever they say."""
    first = run.responses[run.responses["seed"] == run.seeds[0]].drop_duplicates(["pipeline", "prompt"])
    answers = {(row["prompt"], row["pipeline"]): row for row in first.to_dict("records")}
    names = [name for name in ("base", *ORDERS) if name in set(first["pipeline"])]
    prompts = list(dict.fromkeys(first["prompt"]))[:PROMPTS]
    rows = [[prompt, *(_answer(answers.get((prompt, name))) for name in names)] for prompt in prompts]
    note = f"The first response to each of the first prompts, seed {run.seeds[0]}: a rule fixed beforehand."
    return Block("What they write", heads=["prompt", *map(_name, names)], rows=rows, note=note)


def _answer(row: Mapping | None) -> str:
    words = str(row["response"]).split() if row else []
    text = " ".join(words[:WORDS]) + (" …" if len(words) > WORDS else "")
    return f"{text} ({'target, ' if row['target'] else ''}reward {style.number(row['reward'])})" if row else "–"


def _beside(run: Records) -> Iterator[Block]:
    """A-K minus K-A in reward, in this run and in the recorded ones of its world."""
    gaussian, algorithm = run.the_run()["world"] == "mog", run.the_run()["algorithm"]
    path = data_folder() / "records" / ("gaussians-study.zip" if gaussian else "smollm2-study.zip")
    if path.is_file() and run.paired_seeds():
        arms = ["main", "sharpening"] if gaussian else ["main", "targets"]
        kept = records.load(path).select(arm=arms, pipeline=list(ORDERS))
        kept = kept.select(algorithm=algorithm) if gaussian else kept
        rows = [("this run: " + _label(run), run, run), *((_label(other), other, other) for other in kept.each())]
        figure = sweeps.leads_figure(rows, "beside", ("reward",), marked=(0,))
        caption = "A-K minus K-A in reward: this run, marked, above recorded runs of the same world."
        yield Block("Beside the recorded runs", [_picture(figure, caption)])


def _label(run: Records) -> str:
    about, own = run.the_run(), run.settings
    mog = about["world"] == "mog"
    what = f"s = {own['sharpening']:g}, β = {own['beta']:g}" if mog else f"{about['target']}, {about['preset']}"
    return f"{about['algorithm'].upper()}, {what}, seeds: {len(run.paired_seeds())}"


def _next(held: dict, folder: str) -> list[str]:
    words = [f"--{name} {shlex.quote(held[name])}" for name in ("world", "preset", "algorithm", "target")]
    words += [f"--device {held['device'].partition(',')[0]}"]
    if held["pipelines"] != reading_order({*default_pipelines(held["world"], held["algorithm"]), *YARDSTICKS}):
        words.append(f"--pipelines {','.join(held['pipelines'])}")
    words += [f"--set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in held["changed_settings"].items()]
    seeds = f"--seeds {max(held['seeds']) + 1}-{max(held['seeds']) + 5}"
    return [f"alignkd run {' '.join(words)} {seeds} --out {folder}", f"alignkd report {folder} --json"]


def _name(pipeline: str) -> str:
    words = ORDER_WORDS.get(pipeline, style.pipeline_style(pipeline).label)
    return words[0].upper() + words[1:]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _span(found: Mapping | None, metric: str = "") -> str:
    spans = [(found or {}).get(part) for part in ("estimate", "low", "high")]
    return style.interval(*(None if part is None else style.shown(metric, part) for part in spans))


def _picture(figure: Figure, caption: str) -> tuple[str, str]:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    return base64.b64encode(buffer.getvalue()).decode(), caption
