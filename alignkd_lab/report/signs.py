"""The registered signs and their verdicts, a column a place and two for the Gaussians."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from alignkd_lab.claims import CLAIMS
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.report.evidence import NOT_RUN, Evidence, complete
from alignkd_lab.report.tables import CLAIM_WORDS, claims_table
from alignkd_lab.runs import summarise_run
from alignkd_lab.study import plan

COUNTED = {"holds": "holds in", "fails": "fails in", "undecided": "undecided in", "invalid": "invalid in"}
_TOO_FEW = "not decided by so few seeds"


def signs(evidence: Evidence) -> dict:
    """One row a registered sign; a column for the language main experiment of each place and two for the Gaussians.

    A Gaussian column holds the main setting's verdict, and how many of all settings hold, are undecided, fail.
    """
    columns, cells = [], []
    for place in evidence.places:
        cell, run = plan.ARMS["main"].cells[0], place.main()
        columns.append(place.words)
        cells.append(_language_signs(run, cell))
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        columns.append(f"Gaussians, {algorithm.upper()}")
        cells.append(_gaussian_signs(evidence, algorithm))
    rows = []
    for place, claim in enumerate(CLAIMS):
        words = CLAIM_WORDS[claim.metric, claim.statistic]
        rows.append({"words": words, "cells": [column[place] for column in cells]})
    return {"columns": columns, "rows": rows}


def _language_signs(run: Mapping | None, cell: plan.Cell) -> list[dict]:
    if run is None:
        return [{"verdict": None, "text": NOT_RUN} for _ in CLAIMS]
    table = claims_table(summarise_run(run))
    if not complete(run, cell):
        so_far = f"{len(run['records'])} of {len(cell.seeds)} seeds: no verdict"
        return [
            {"verdict": None, "text": f"{so_far}. So far {measured(row)}" if row["decided"] else _TOO_FEW}
            for row in table
        ]
    return [{**row, "text": measured(row)} if row["decided"] else {"verdict": None, "text": _TOO_FEW} for row in table]


def _gaussian_signs(evidence: Evidence, algorithm: str) -> list[dict]:
    table = claims_table(evidence.gaussian(algorithm).summary)
    verdicts = [[claim["verdict"] for claim in held.summary["claims"]] for held in evidence.distinct(algorithm)]
    counts = [Counter(column) for column in zip(*verdicts, strict=True)]
    return [
        {**row, "text": measured(row), "counts": ", ".join(f"{COUNTED[v]} {count[v]}" for v in COUNTED if count[v])}
        for row, count in zip(table, counts, strict=True)
    ]


def measured(row: Mapping) -> str:
    """A claim's difference with its interval and effect size, of a row of `tables.claims_table`."""
    told = f"{row['difference']} ({row['interval']})" if row["interval"] else row["difference"]
    return told if row["effect"] == "–" else f"{told}, g\u00a0=\u00a0{row['effect']}"
