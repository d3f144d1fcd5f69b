"""What the README and `data/records/RESULTS.md` say, and the records that they say it of."""

import re
from functools import cache
from pathlib import Path

from alignkd_lab.costs import stages_of
from alignkd_lab.lm import plan
from alignkd_lab.paths import data_folder
from alignkd_lab.records import load_records
from alignkd_lab.report.tables import claims_table
from alignkd_lab.runs import group_runs, summarise_run
from alignkd_lab.style import interval, shown

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS_FILE = data_folder() / "records" / "RESULTS.md"
RESULTS = RESULTS_FILE.read_text(encoding="utf-8")
INTERVAL = re.compile(r"[−\d.,]+ \([−\d.,]+ to [−\d.,]+\)")
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PARTS = ("overall_precision", "entropy", "kl_to_truth")  # the first is minus the sum of the others
LM_METRICS = ("reward", "target_rate", "target_precision", *PARTS, "overall_recall", "second_rule_rate")


@cache
def runs():
    """All shipped records, by run."""
    return group_runs(load_records(data_folder() / "records"))


def recorded(arm, value=None):
    """The laptop's run of that cell of the language study, or of the only one of its arm."""
    (cell,) = [cell for cell in plan.ARMS[arm].cells if value in (None, cell.value)]
    return plan.run_of(runs(), cell, "laptop", "cpu")


def alignments(run, name):
    """What each seed's record says of the last stage of a pipeline, its alignment."""
    return [stages_of(record, name)[-1]["info"] for record in run["records"]]


def table(heading, text=RESULTS):
    """The rows of the first table after `heading`, by their first cell."""
    lines = text.partition(heading)[2].partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def signs_of(run):
    """The rows of a table of the registered signs, as the texts write them."""
    return {
        row["words"]: [f"{row['difference']} ({row['interval']})", row["level"], row["effect"], row["verdict"]]
        for row in claims_table(summarise_run(run))
        if row["decided"]
    }


def written(entry, metric):
    return interval(*(shown(metric, entry[name]) for name in ("mean", "low", "high")))


def section(heading):
    """The text of RESULTS.md below `## heading`."""
    return RESULTS.partition(f"## {heading}\n")[2].partition("\n## ")[0]
