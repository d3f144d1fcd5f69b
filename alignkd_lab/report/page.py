"""One self-contained HTML page from the records below a folder, and the PNG figures beside it.

Everything on the page comes from `runs.summarise_run` and `figures`; here it is put into words and
tables. The page holds no script and no link to outside, and what a model wrote is escaped. Its markup
is `template.html`; `tables.py` lays out the tables.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from matplotlib.figure import Figure

import alignkd_lab
from alignkd_lab.mog.settings import MogSettings
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, CONTROLS, K_A, METHODS, ORDERS, YARDSTICKS
from alignkd_lab.plots import figures
from alignkd_lab.plots.drawing import estimates, only, pipelines_of, run_title
from alignkd_lab.plots.style import METRIC_STYLE, interval, metric_label, pipeline_style
from alignkd_lab.records import ALGORITHMS, load_records
from alignkd_lab.report.tables import (
    FEW_SEEDS,
    cells_table,
    checks_table,
    claims_table,
    costs_table,
    in_short,
    methods_table,
    metrics_table,
    provenance_rows,
    responses_table,
    settings_rows,
)
from alignkd_lab.runs import apart, group_runs, summarise_run, varying_settings
from alignkd_lab.study import plan

TEMPLATE = "template.html"
_SHIPPED_NOTE = (
    "Made earlier with more seeds and shipped with the project, so that one evening's run can be read beside "
    "it. The two are shown apart and never pooled."
)


def write_report(folder: Path | str, out: Path | str | None = None, shipped: Path | str | None = None) -> Path:
    """Write the report on every run below `folder` and return its path (`out`, or `folder/report.html`).

    The figures lie beside it in `figures/` as PNG. The runs of `shipped`, another folder of records, are
    shown under a heading of their own.
    Raises RecordError if either folder holds no records, or a line that is not one.
    """
    folder = Path(folder)
    out = Path(out) if out is not None else (folder if folder.is_dir() else folder.parent) / "report.html"
    depth = "record" if folder.resolve().is_relative_to(data_folder()) else "live"
    heading = "The recorded run" if depth == "record" else "This run"
    runs = group_runs(load_records(folder))
    parts = [_part(apart(runs), heading, "", depth, out.parent / "figures", "")]
    if shipped is not None and Path(shipped).resolve() != folder.resolve():
        parts.append(
            _part(
                apart(group_runs(load_records(shipped))),
                "The recorded run",
                _SHIPPED_NOTE,
                "record",
                out.parent / "figures",
                "recorded-",
            )
        )
    page = _template().render(
        parts=parts,
        study=_study(folder, runs, out.parent / "figures"),
        orders={name: pipeline_style(name) for name in ORDERS},
        metrics=_metric_meanings(),
        limits=_limits(parts),
        few_seeds=FEW_SEEDS,
        version=alignkd_lab.__version__,
        made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page.lstrip(), encoding="utf-8")
    return out


def _study(folder: Path, runs: list[dict], figures_folder: Path) -> dict | None:
    """The registered study, where the folder holds records of it."""
    from alignkd_lab.report.evidence import Evidence
    from alignkd_lab.report.study import study_part

    evidence = Evidence.below(folder, runs) if folder.is_dir() else None
    if evidence is None:
        return None
    keeper = _Keeper(figures_folder, "", runs)
    return study_part(evidence, lambda name, figure, text: keeper.keep(name, figure, text, [], ()))


def cell_groups(runs: Sequence[dict]) -> list[list[dict]]:
    """Runs that belong on one page section: the cells of a Gaussian sweep together, every other run alone."""
    groups: list[list[dict]] = []
    for run in runs:
        kin = next((group for group in groups if _same_sweep(group[0], run)), None)
        if kin is None:
            groups.append([run])
        else:
            kin.append(run)
    return groups


def main_cell(cells: Sequence[dict]) -> dict:
    """The cell shown in full: nearest to the default settings, RLHF before DPO, whatever came out."""
    defaults, varying = dataclasses.asdict(MogSettings()), varying_settings(cells)

    def distance(run: dict) -> tuple[int, int]:
        departures = sum(run["settings"].get(name) != defaults.get(name) for name in varying)
        return departures, ALGORITHMS.index(run["algorithm"])

    return min(cells, key=distance)


def headline_runs(runs: Sequence[dict]) -> list[dict]:
    """The runs of the title picture: one of the Gaussian world, then one for each target of the language world.

    Of several it is the one with most seeds, then with most pipelines. Methods other than the orders have a
    picture of their own, and a control waits until every seed has it.
    """
    mains = [main_cell(group) for group in cell_groups(runs)]
    shown = [only(run, (*YARDSTICKS, *ORDERS, *CONTROLS), whole=True) for run in mains]
    shown.sort(key=lambda run: (len(run["records"]), len(pipelines_of(run))), reverse=True)
    first: dict[str, dict] = {}
    for run in sorted(shown, key=lambda run: run["world"] == "lm"):
        first.setdefault(run["target"] if run["world"] == "lm" else "mog", run)
    return list(first.values())


def _same_sweep(first: dict, second: dict) -> bool:
    return first["world"] == "mog" and all(
        first[name] == second[name] for name in ("world", "preset", "device", "target")
    )


def _part(runs: list[dict], heading: str, note: str, depth: str, folder: Path, prefix: str) -> dict:
    groups = cell_groups(runs)
    mains = [main_cell(group) for group in groups]
    keeper = _Keeper(folder, prefix, runs)
    headline = headline_runs(runs)
    title = keeper.keep(
        "title",
        figures.title_figure(headline, depth),
        "Reward, target precision and target rate by pipeline.",
        headline,
        ("reward", "target_precision", "target_rate"),
    )
    worlds = [run["world"] for run in mains]
    names = [
        f"{world}-{worlds[:i].count(world) + 1}" if world in worlds[:i] else world for i, world in enumerate(worlds)
    ]
    sections = [_section(*entry, depth, keeper) for entry in zip(names, mains, groups, strict=True)]
    return {"heading": heading, "id": f"{prefix}run", "note": note, "title": title, "sections": sections}


def _section(name: str, run: dict, cells: list[dict], depth: str, keeper: _Keeper) -> dict:
    summary = summarise_run(run)
    return {
        "id": f"{keeper.prefix}{name}",
        "world": run["world"],
        "title": _title(run),
        "seeds": len(run["records"]),
        "preset": run["preset"],
        "device": run["device"],
        "label": summary["label"],
        "short": in_short(summary),
        "claims": claims_table(summary) if set(ORDERS) <= set(summary["pipelines"]) else [],
        "checks": checks_table(summary),
        "metrics": metrics_table(summary),
        "costs": costs_table(run),
        "methods": methods_table(run, summary),
        "responses": responses_table(run),
        "settings": settings_rows(run),
        "provenance": provenance_rows(run),
        "uses_built_in": _uses_built_in(run),
        "figures": _section_figures(name, run, depth, keeper),
        "cells": cells_table([summarise_run(cell) for cell in cells]) if len(cells) > 1 else None,
        "cells_figure": _cells_figure(name, cells, depth, keeper),
    }


def _title(run: dict) -> str:
    """The run's heading, with its place in the plan if it has one."""
    both = any(set(ORDERS) <= set(record["pipelines"]) for record in run["records"])
    cell = plan.cell_of(run) if both else next(plan.cells_of(run), None)
    if cell is None:
        return run_title(run)
    value = "" if cell.value == plan.AS_REGISTERED else f" {cell.value}"
    return f"{run_title(run)} · {plan.ARMS[cell.arm].label}{value}"


def _section_figures(name: str, run: dict, depth: str, keeper: _Keeper) -> list[dict]:
    drawn = [
        (
            "precision-recall",
            figures.precision_recall([run], depth),
            "Overall precision against overall recall by pipeline; up and to the right is better.",
            ("overall_precision", "overall_recall"),
        ),
        (
            "target-through-stages",
            figures.target_through_stages([run], depth),
            "How often the target is shown before, between and after the two stages of either order.",
            ("target_rate",),
        ),
    ]
    if any(set(METHODS) & set(record["pipelines"]) for record in run["records"]):
        text = "Reward, target precision, overall precision and recall of every method; without a bar: one seed."
        picture = figures.four_metrics(
            [only(run, (*YARDSTICKS, *ORDERS, *METHODS))], depth, "What every method earns, and what it pays"
        )
        drawn.append(("methods", picture, text, ("reward", "overall_recall")))
    if figures.has_curves(run):
        text = "Reward against the KL from the stage's own reference, along every alignment."
        drawn.append(("reward-against-kl", figures.reward_against_kl([run], depth), text, ("reward",)))
    if figures.has_views(run):
        text = "Density of the truth and of every stage for the first seed; the target is circled."
        drawn.append(("densities", figures.densities(run, depth), text, ("target_rate",)))
    return [keeper.keep(f"{name}-{kind}", figure, text, [run], shown) for kind, figure, text, shown in drawn]


def _cells_figure(name: str, cells: list[dict], depth: str, keeper: _Keeper) -> dict | None:
    if len({cell["settings"].get("sharpening") for cell in cells}) < 2:
        return None
    figure = figures.reward_by_sharpening(cells, depth)
    return keeper.keep(f"{name}-reward-by-sharpening", figure, "Reward of both orders by sharpening.", [], ())


class _Keeper:
    """Saves a part's figures as PNG, and hands back what the page embeds."""

    def __init__(self, folder: Path, prefix: str, runs: Sequence[dict]) -> None:
        self.folder, self.prefix = folder, prefix
        commits = dict.fromkeys(_commit(record) for run in runs for record in run["records"])
        self.source = f"records of commit {', '.join(commits)}"

    def keep(self, name: str, figure: Figure, text: str, runs: Sequence[dict], metrics: Sequence[str]) -> dict:
        alt = " ".join([text, *(_in_words(run, metric) for run in runs for metric in metrics)])
        path = figures.save_figure(figure, self.folder / f"{self.prefix}{name}.png", alt, self.source)
        width, height = (round(inches * 96) for inches in figure.get_size_inches())
        data = base64.b64encode(path.read_bytes()).decode()
        kind = name.partition("-")[2]
        return {"data": data, "alt": alt, "caption": text, "width": width, "height": height, "kind": kind}


def _commit(record: dict) -> str:
    commit = record["provenance"].get("commit") or "unknown"
    return f"{commit[:12]} (changed)" if record["provenance"].get("dirty") else commit[:12]


def _in_words(run: dict, metric: str) -> str:
    """What the picture shows of the two orders, for readers who cannot see it."""
    found = estimates(run, metric)
    told = [f"{label} {interval(*found[order][0])}" for order, label in ((K_A, "K-A"), (A_K, "A-K")) if order in found]
    return f"{run_title(run)}, {metric_label(metric, run['world'])}: {', '.join(told)}." if told else ""


def _metric_meanings() -> list[tuple[str, str]]:
    return [(style.label, style.meaning) for style in METRIC_STYLE.values()]


def _limits(parts: Sequence[dict]) -> list[str]:
    sections = [section for part in parts for section in part["sections"]]
    limits = [
        "This is a replication of the claim on our own settings: the published weights, seeds, rewards and "
        "figures are not known, so nothing here is the paper's own setting.",
        "Intervals speak of other seeds of the same settings, not of other targets, models or prompts.",
        "The correction for several claims is made within a run; the cells of a sweep are not corrected "
        "against each other.",
        "The interval of the variance ratio assumes normal values and is easily misled by outlying seeds.",
    ]
    if any(section["uses_built_in"] for section in sections):
        limits.append(
            "Language figures made with the built-in weights come from SmolLM2-135M-Instruct quantised to "
            "Q4_1: real, slightly degraded, and small."
        )
    if any(section["seeds"] == 1 for section in sections):
        limits.append("A run of one seed shows that everything works, and what it looks like. It decides nothing.")
    if any(section["preset"] == "tiny" for section in sections):
        limits.append("The tiny preset uses random models and a few steps: it tests the plumbing, not the claim.")
    return limits


def _uses_built_in(run: dict) -> bool:
    if run["world"] != "lm":
        return False
    from alignkd_lab.lm.settings import BUILT_IN

    return BUILT_IN in [value for value in run["settings"].values() if isinstance(value, str)]


def _template():
    read = FunctionLoader(lambda name: files("alignkd_lab.report").joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(
        loader=read, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE)
