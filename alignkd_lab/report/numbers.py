"""What the report shows, as JSON for programs: every run below a folder, and the study where the folder holds one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alignkd_lab.records import load_records, strict
from alignkd_lab.report.answers import answers
from alignkd_lab.report.evidence import Evidence
from alignkd_lab.report.expectations import expectations
from alignkd_lab.report.failures import against, fails
from alignkd_lab.report.signs import signs
from alignkd_lab.report.study import not_run
from alignkd_lab.runs import apart, group_runs, summarise_run
from alignkd_lab.study.gaussian_map import predicted_rightly


def report_json(folder: Path | str) -> dict:
    """`runs`: every run below `folder`, summarised; `study`: as `study_json`, or None. What is undefined is None.

    Raises:
        RecordError: no record below `folder`, or a line that is not one.
    """
    folder = Path(folder)
    runs = group_runs(load_records(folder))
    evidence = Evidence.below(folder, runs) if folder.is_dir() else None
    return strict(
        {"runs": [summarise_run(run) for run in apart(runs)], "study": study_json(evidence) if evidence else None}
    )


def study_json(evidence: Evidence) -> dict:
    """The study in numbers and sentences, for programs: what `study_part` shows without its pictures.

    `gaussians` holds a summary a setting, `map` a row a panel; the language runs stand among the report's runs.
    """
    return {
        "signs": signs(evidence),
        "expectations": expectations(evidence),
        "against": [
            dict(zip(("where", "criterion", "came"), line, strict=True))
            for place in evidence.places
            for line in against(place)
        ],
        "fails": list(fails(evidence)),
        "answers": [
            {"question": given.question, "answers": [{"where": where, "text": text} for where, text in given.lines]}
            for given in answers(evidence)
        ],
        "gaussians": [
            {"arm": held.arm, "value": held.value, **_without_seeds(held.summary)} for held in evidence.settings
        ],
        "map": [row._asdict() for row in predicted_rightly(evidence.map)] if evidence.map else [],
        "not_run": not_run(evidence),
    }


def _without_seeds(summary: Mapping) -> dict:
    """A summary without the hundred values behind each mean, which the record holds."""
    pipelines = {
        name: {metric: {part: entry[part] for part in ("mean", "low", "high")} for metric, entry in metrics.items()}
        for name, metrics in summary["pipelines"].items()
    }
    return {**summary, "pipelines": pipelines}
