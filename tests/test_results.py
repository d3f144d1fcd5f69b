"""What `data/records/RESULTS.md` and the README say of the records is what the records say; what they name is there."""

import itertools
import json
import re
from collections import Counter
from statistics import mean, stdev

import numpy as np
import pytest
from results_text import (
    INTERVAL,
    LM_METRICS,
    PARTS,
    README,
    RESULTS,
    RESULTS_FILE,
    ROOT,
    recorded,
    runs,
    signs_of,
    table,
    written,
)

from alignkd_lab.explorers import methods
from alignkd_lab.figures import alignment_curves, mean_curve
from alignkd_lab.lm import plan
from alignkd_lab.lm.rewards import SECOND_RULES
from alignkd_lab.metrics import A_K, K_A, rank_correlation, t_interval
from alignkd_lab.mog import study
from alignkd_lab.mog.lead import lead
from alignkd_lab.mog.study_map import foretold_rightly, shows_target
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import CONTROLS, METHODS, ORDERS, YARDSTICKS
from alignkd_lab.report.alignments import HEADS, alignment_rows
from alignkd_lab.report.evidence import across, alignments, difference, paired, pairs, sampled_rates
from alignkd_lab.report.evidence import mean as over_seeds
from alignkd_lab.report.tables import CLAIM_WORDS, claims_table
from alignkd_lab.runs import by_seed, seed_values, summarise_run
from alignkd_lab.style import interval, pipeline_style, shown

METRICS = ("reward", "target_rate", "overall_precision", "overall_recall")
BASE_PAIRS = "kd_then_align_base_preferences"
HOT = "kd_then_align_high_temperature"


@pytest.fixture(scope="module")
def registered():
    return study.load()


@pytest.fixture(scope="module")
def summaries(registered):
    return [summarise_run(run) for run in registered.distinct(study.REGISTERED)]


def test_the_table_of_the_main_setting_is_that_of_the_study(registered):
    run = registered.runs("beta", "rlhf")[0.5]
    assert run["settings"]["sharpening"] == 2.0
    assert len(run["records"]) == 100
    measured = {
        pipeline_style(name).label: [written(metrics[metric], metric) for metric in METRICS]
        for name, metrics in summarise_run(run)["pipelines"].items()
    }
    rows = table("**The main setting**")
    assert len(rows) == 6
    assert rows == {label: measured[label] for label in rows}


def test_the_table_of_verdicts_counts_those_of_the_study(summaries):
    counted = {words: Counter() for words in CLAIM_WORDS.values()}
    for summary in summaries:
        for claim in summary["claims"]:
            words = CLAIM_WORDS[claim["metric"], claim["statistic"]]
            counted[words][summary["algorithm"], claim["verdict"]] += 1
    columns = [("rlhf", v) for v in ("holds", "undecided", "fails")]
    columns += [("dpo", v) for v in ("holds", "undecided", "fails", "invalid")]
    measured = {words: [str(counts[column]) for column in columns] for words, counts in counted.items()}
    assert table("The five claims in every registered setting") == measured
    assert not any(counts["rlhf", "invalid"] for counts in counted.values())


def test_what_came_out_counts_the_registered_settings(summaries):
    verdicts = [summary["claims"][0]["verdict"] for summary in summaries]
    assert f"A-K earns more in {verdicts.count('holds')} of {len(verdicts)} registered settings" in README


def test_every_interval_in_the_text_is_one_of_the_study(registered):
    paired = {
        interval(*difference(run, *pair))
        for run in registered.distinct()
        for pair in itertools.permutations(summarise_run(run)["pipelines"], 2)
    }
    measured = paired | {
        written(entry, metric)
        for run in registered.distinct()
        for metrics in summarise_run(run)["pipelines"].values()
        for metric, entry in metrics.items()
    }
    stated = INTERVAL.findall(RESULTS.partition("Where the claim stops")[2].partition("\n## ")[0])
    assert len(stated) >= 10
    assert set(stated) <= measured


def test_the_closed_form_is_as_right_as_the_results_say():
    rows = foretold_rightly(study.load_map())
    counted = ("cells", "a_k_target", "k_a_target", "named", "missed", "reversed", "false_lead", "wrong_lead")
    sums = {name: sum(getattr(row, name) for row in rows) for name in counted}
    cells, a_k, k_a, named, missed, backwards, *wrong = sums.values()
    line = next(line for line in RESULTS.splitlines() if "closed form foretells little" in line)
    right = sum(row.right for row in rows)
    leads = f"A-K leads in {named + missed}, of which it foretells {named}, all rightly; K-A leads in {backwards}, "
    by_target = f"rightly in {a_k} cells, but for K-A, to which it promises too much, only in {k_a}."
    for words in (f"map of {cells} cells", f"rightly in {right}. ", leads, by_target):
        assert words in line
    assert all(row.algorithm == "rlhf" and row.sharpening <= 1 for row in rows if row.reversed)
    assert wrong == [0, 0]
    shown, hidden = leads_of_a_k(study.load_map())
    assert f"more than half of its draws in {len(shown)} cells; in the other {len(hidden)} neither does" in line
    assert f"and the median lead is {np.median(hidden):.3f}. " in line


def leads_of_a_k(held):
    """A-K's leads in the cells of a map where an order shows the target in most draws, and where neither does."""
    shown, hidden = [], []
    for a, algorithm in enumerate(held.grid.algorithms):
        for s, sharpening in enumerate(held.grid.sharpenings):
            found, target = lead(held, algorithm, sharpening), shows_target(held, (a, s))
            leads, either = found.decided & (found.difference > 0), target[A_K] | target[K_A]
            shown += [*found.difference[leads & either]]
            hidden += [*found.difference[leads & ~either]]
    return shown, hidden


def exclaimed_words_off_target(run, name):
    """(Recorded responses without the target that meet the second rule, recorded responses without the target.)"""
    samples = [sample for record in run["records"] for sample in record["pipelines"][name]["samples"]]
    off = [sample["response"] for sample in samples if not sample["target"]]
    return sum(map(SECOND_RULES["exclamation"], off)), len(off)


@pytest.fixture(scope="module")
def language():
    """The language study's main run."""
    return recorded("main")


@pytest.fixture(scope="module")
def larger_step():
    """The study's exploratory run with twice the learning rate: both orders, and K-A with the base's pairs."""
    return recorded("learning_rate_both")


def test_the_results_know_how_far_the_study_has_come(language, larger_step):
    (cell,) = plan.ARMS["main"].cells
    held = plan.seeds_held(language, cell)
    assert f"{len(held)} of {len(cell.seeds)} seeds of its main experiment are recorded" in RESULTS
    assert f"(exploratory, {len(larger_step['records'])} of {len(cell.seeds)} seeds, no verdict)" in RESULTS


def test_the_table_of_the_language_study_is_that_of_its_records(language):
    measured = {
        pipeline_style(name).label: [written(metrics[metric], metric) for metric in LM_METRICS]
        for name, metrics in summarise_run(language)["pipelines"].items()
    }
    rows = table("## SmolLM2, the main experiment")
    assert list(rows) == [pipeline_style(name).label for name in (*YARDSTICKS, *ORDERS, *CONTROLS)]
    assert rows == {label: measured[label] for label in rows}


def test_the_language_verdicts_are_those_of_its_records(language):
    assert table("The four signs") == signs_of(language)


def test_the_table_of_alignments_is_that_of_the_records(language):
    rows = alignment_rows(language, ("base_aligned", K_A, *CONTROLS))
    assert {row["seeds"] for row in rows} == {len(plan.SEEDS)}
    without_start = [place for place, head in enumerate(HEADS[1:]) if head != "KL from its anchor before"]
    measured = {row["label"]: ["{} ({})".format(*row["numbers"][place]) for place in without_start] for row in rows}
    assert table("What each alignment had to learn from") == measured


def test_every_interval_in_the_language_part_is_one_of_its_records(language, larger_step):
    names = summarise_run(language)["pipelines"]
    measured = {
        interval(*(shown(metric, value) for value in found))
        for metric in seed_values(language)["base"]
        for pair in itertools.permutations(names, 2)
        if (found := difference(language, *pair, metric))
    }
    rates, counts = ([of(language, name) for name in ("base_aligned", K_A)] for of in (sampled_rates, pairs))
    measured |= {interval(*(100 * value for value in paired(*rates))), interval(*paired(*counts))}
    measured |= {interval(*rank_correlation([(list(counts[1].values()), list(by_seed(language, K_A).values()))]))}
    measured |= {
        written(entry, metric)
        for metrics in summarise_run(language)["pipelines"].values()
        for metric, entry in metrics.items()
    }
    for name in (K_A, A_K, BASE_PAIRS):
        measured |= {interval(*over_seeds(larger_step, name)), interval(*across(language, larger_step, (A_K, name)))}
    measured.add(interval(*difference(larger_step, A_K, K_A)))
    measured.add(interval(*(100 * value for value in difference(larger_step, BASE_PAIRS, K_A, "target_rate"))))
    measured.add(interval(*difference(larger_step, BASE_PAIRS, K_A, "entropy")))
    measured.add(interval(*across(language, larger_step, (A_K, K_A), "overall_recall")))
    measured.add(interval(*across(larger_step, language, (K_A, A_K), "kl_to_truth")))
    as_often = across(language, larger_step, (A_K, K_A), "target_rate")
    assert as_often.low < 0 < as_often.high  # "the two show the target as often, as far as can be told"
    measured.add(interval(*(100 * value for value in as_often)))
    measured.add(interval(*t_interval([record["checks"]["healing_gap"] for record in language["records"]])))
    measured |= {f"{row['difference']} ({row['interval']})" for row in claims_table(summarise_run(language))}
    healed = sampled_rates(language, "align_student_only")
    measured.add(interval(*(100 * value for value in t_interval(list(healed.values())))))
    for control in CONTROLS:
        assert difference(language, control, K_A).low < 0 < difference(language, A_K, control).low
    bullets = RESULTS.partition("The four signs")[2].partition("**What each alignment")[0].partition("\n- ")[2]
    assert "earns more than K-A in each of the ten seeds" in bullets
    assert all(by_seed(language, A_K)[seed] > by_seed(language, K_A)[seed] for seed in range(10))
    share = 100 * mean(sampled_rates(language, "base_aligned").values())
    counts = pairs(language, "base_aligned").values()
    assert f"below the base's {share:.2f} %" in bullets
    assert f"of {min(counts)} to {max(counts)} informative pairs" in bullets
    counts = pairs(language, "align_student_only").values()
    assert f"but has no more pairs, {min(counts)} to {max(counts)} a seed" in bullets
    a_k, k_a = (mean(by_seed(language, name).values()) / mean(by_seed(language, name, "target_rate").values())
                for name in (A_K, K_A))  # fmt: skip
    assert f"a response on target earns {a_k:.3f} with A-K, {k_a:.3f} with K-A" in bullets
    each = paired(*({seed: reward / by_seed(language, name, "target_rate")[seed]
                     for seed, reward in by_seed(language, name).items()} for name in (A_K, K_A)))  # fmt: skip
    assert each.low < 0 < each.high
    measured.add(interval(*each))
    measured |= {interval(*rank_correlation([(list(pairs(run, K_A).values()), list(by_seed(run, K_A).values()))]))
                 for run in (recorded("targets", "colour"), recorded("targets", "simile"))}  # fmt: skip
    spread = [stdev(by_seed(*of).values()) for of in ((language, A_K), (recorded("equal_compute"), K_A))]
    assert "A-K's standard deviation is the smaller one: {:.3f} and {:.3f}".format(*spread) in bullets
    assert list(pairs(language, HOT).values()).count(0) == 6  # "no pair at all in six of ten seeds"
    entropies = [over_seeds(language, name, "entropy").estimate for name in (HOT, "base")]
    assert entropies[0] == pytest.approx(2 * entropies[1], rel=0.01)  # "twice the truth's"
    second = {name: exclaimed_words_off_target(language, name) for name in (A_K, "base")}
    assert "off the target {} of {} hold a word".format(*second[A_K]) in bullets
    assert "the base's {} of {}.".format(*second["base"]) in bullets
    further = interval(*difference(language, A_K, K_A, "kl_to_truth"))
    assert f"in KL to the truth A-K lies {further} further" in README
    short = README.partition("**What came out.**")[2].partition("and similes")[0]  # the rest has tests of its own
    stated = INTERVAL.findall(bullets + short)
    assert len(stated) >= 8
    assert set(stated) <= measured


def test_a_larger_step_for_both_leaves_a_k_ahead_and_for_k_a_alone_the_two_level(language, larger_step):
    assert difference(larger_step, A_K, K_A).low > 0
    assert sum(by_seed(larger_step, A_K)[seed] > by_seed(larger_step, K_A)[seed] for seed in plan.SEEDS) == 9
    dearer = interval(*across(language, larger_step, (A_K, K_A), "overall_recall"))
    assert f"not told apart in reward, but K-A pays {dearer} nats of recall for it" in README
    level = [across(language, larger_step, (A_K, name)) for name in (K_A, BASE_PAIRS)]
    level.append(difference(larger_step, BASE_PAIRS, K_A))  # "but not its reward"
    assert all(found.low < 0 < found.high for found in level)


def test_reward_along_alignment_is_that_of_the_records(language, larger_step):
    def point(run, name, place):
        held = [info["curve"][place] for _, info in alignments(run, name)]
        kl, reward, rate = (mean(part[of] for part in held) for of in ("kl", "reward", "target_rate"))
        return f"{kl:.1f}", f"{reward:.2f}", f"{100 * rate:.0f} %"

    base, student = point(language, "base_aligned", 1), point(larger_step, BASE_PAIRS, 1)
    assert (
        f"{student[0]} nats away in {student[2]} of responses, where the base does in {base[2]} after {base[0]}"
        in RESULTS
    )
    far, further = point(larger_step, "base_aligned", 1), point(larger_step, BASE_PAIRS, 2)
    assert f"{further[0]} nats away in {further[2]} (the base: {far[2]} after {far[0]})" in RESULTS
    own = point(larger_step, K_A, 1)
    assert f"With pairs of its own it needs {own[0]} nats for {own[2]}" in RESULTS
    assert f"its reward is {student[1]} and {further[1]} there, the base's {base[1]} and {far[1]}" in RESULTS
    alone, k_a = point(language, "align_student_only", 2), point(larger_step, K_A, 2)
    words = (
        f"after {alone[0]} nats it shows the target in {alone[2]} of responses and earns {alone[1]}, K-A at 0.0006 in "
    )
    assert f"{words}{k_a[2]} after {k_a[0]}, and earns {k_a[1]}." in RESULTS
    kl, reward = mean_curve(alignment_curves(language)["align_student_only"])
    for run in (language, larger_step):  # "at the same KL it earns less than K-A does at either learning rate"
        curve = mean_curve(alignment_curves(run)[K_A])
        assert np.interp(curve[0, -1], kl, reward) < curve[1, -1]


def test_every_file_that_readme_and_results_name_is_there():
    for text, folder in ((README, ROOT), (RESULTS, RESULTS_FILE.parent)):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (folder / link).is_file(), link
        for path in re.findall(r"`((?:alignkd_lab|notebooks|data|tests)/[\w./-]*)`", text):
            assert (ROOT / path).exists(), path


def test_the_pilot_s_table_is_that_of_its_records():
    run = next(
        run
        for run in runs()
        if (run["world"], run["algorithm"], run["target"], len(run["records"])) == ("lm", "dpo", "colour", 3)
    )
    values = seed_values(run)
    columns = (("reward", ".3f", 1), ("target_rate", ".1f", 100), ("target_precision", ".2f", 1),
               ("overall_precision", ".2f", 1), ("overall_recall", ".2f", 1))  # fmt: skip

    def cell(name, metric, form, scale):
        seeds = [value * scale for _, value in sorted(values[name][metric].items())]
        mean = sum(seeds) / len(seeds)
        return f"{mean:{form}} [{', '.join(f'{value:{form}}' for value in seeds)}]".replace("-", "−")

    measured = {pipeline_style(name).label: [cell(name, *column) for column in columns] for name in values}
    rows = table("## A pilot before the plan")
    assert len(rows) == 8
    assert rows == {label: measured[label] for label in rows}


def test_the_table_of_methods_is_that_of_the_records():
    run = methods.recorded()
    assert run["target"] == "exclamation"
    assert f"## The other methods\n\n{len(run['records'])} of 10 seeds" in RESULTS
    spent = ("tokens_trained", "tokens_sampled")
    measured = {}
    for name in methods.WAYS:
        metrics = summarise_run(run)["pipelines"][name]
        minutes = np.median([record["pipelines"][name]["metrics"]["minutes"] for record in run["records"]])
        measured[pipeline_style(name).label] = [
            *(written(metrics[metric], metric) for metric in (*METRICS[:2], *PARTS, "overall_recall", "kl_to_base")),
            *(f"{round(metrics[kind]['mean']):,}" for kind in spent),
            f"{minutes:.1f}",
        ]
    assert table("## The other methods") == measured


def test_what_is_said_of_the_methods_is_what_the_records_say():
    run = methods.recorded()
    text = RESULTS.partition("## The other methods")[2].partition("\n- ")[2].partition("\n## ")[0]
    lighter = [recorded("gamma", value) for value in ("0.15", "0.5")]
    measured = {interval(*over_seeds(found, "adpa")) for found in lighter}
    measured.add(interval(*over_seeds(run, "adpa", "kl_to_base")))
    measured |= {interval(*difference(run, A_K, name)) for name in METHODS}
    measured |= {interval(*difference(run, name, K_A)) for name in METHODS}
    ordered = (("adpa_plus", "adpa"), ("dckd", "adpa"), (K_A, "adpa"))
    measured |= {interval(*difference(run, *pair)) for pair in ordered}
    points = difference(run, "on_policy_distillation", A_K, "target_rate")
    measured.add(interval(*(100 * value for value in points)))
    for name in ("dckd", "on_policy_distillation"):
        measured.add(interval(*difference(run, A_K, name, "overall_precision")))
        measured.add(interval(*difference(run, name, A_K, "entropy")))
    for name in ("dckd", "on_policy_distillation", "adpa", "adpa_plus"):
        measured.add(interval(*difference(run, name, A_K, "kl_to_truth")))
        assert (difference(run, name, A_K, "kl_to_truth").low > 0) == (name != "dckd")  # "not told apart from A-K"
    measured.add(interval(*difference(run, "dckd", A_K, "overall_recall")))
    stated = INTERVAL.findall(text)
    assert len(stated) >= 10
    assert set(stated) <= measured
    assert all(difference(run, A_K, name).low > 0 for name in METHODS)
    better = [name for name in METHODS if difference(run, name, K_A).low > 0]
    assert better == ["on_policy_distillation", "align_student_only"]
    assert all(difference(run, *pair).low > 0 for pair in ordered)
    rate = difference(run, "dckd", A_K, "target_rate")
    assert rate.low < 0 < rate.high
    assert points.low > 0
    assert all(len(found["records"]) == 3 for found in lighter)
    seed = next(record for record in run["records"] if record["seed"] == 0)
    assert seed["pipelines"]["adpa"]["samples"][0]["response"] in text


def test_the_readme_takes_its_table_from_the_results():
    main, others = table("## SmolLM2, the main experiment"), table("## The other methods")
    taken = {name: [row[0], row[1], *row[3:6]] for name, row in main.items()}
    taken |= {name: row[:5] for name, row in others.items()}
    rows = table("**SmolLM2**", README)
    assert list(rows) == [pipeline_style(name).label for name in (*YARDSTICKS, *ORDERS, *METHODS)]
    assert rows == {name: taken[name] for name in rows}


def test_the_table_of_steps_is_that_of_the_bench():
    record = json.loads((data_folder() / "records" / "bench-cpu.json").read_text())
    steps = {(row["method"], row["variant"]): row for row in record["rows"] if row["length"] == 512}

    def cell(method, variant):
        row = steps.get((method, variant))
        return f"{row['seconds']:.1f} s, {row['memory_bytes'] / 1e6:,.0f} MB" if row else "–"

    methods = {"dpo": "DPO", "dckd": "DCKD", "adpa": "ADPA", "kd": "KD"}
    measured = {words: [cell(name, by) for by in ("ours", "full_logits", "trl")] for name, words in methods.items()}
    assert table("## What a training step costs", README) == measured
    assert f"takes {steps['nll', 'nll']['seconds']:.1f} s" in README
    ours = [row for (_, by), row in steps.items() if by == "ours"]
    assert all(row["ceiling_share"] > 0.5 for row in ours)
    assert all(bar["passed"] for bar in record["bars"])
