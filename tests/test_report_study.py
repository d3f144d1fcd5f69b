"""The study's part of the report: no verdict from too few seeds, answers from records, and what was not run."""

import math
import shutil

import numpy as np
import pytest
from scipy import stats
from synthetic_records import LM, lm_record, recorded, swap_orders, write

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.costs import stages_of
from alignkd_lab.paths import data_folder
from alignkd_lab.pipelines import A_K, K_A, METHODS, YARDSTICKS
from alignkd_lab.plots.style import interval, number, pipeline_style
from alignkd_lab.records import load_records, plain_settings
from alignkd_lab.report import failures, signs, study
from alignkd_lab.report.answers import answers
from alignkd_lab.report.evidence import Evidence, across, difference, mean, paired, pairs
from alignkd_lab.report.numbers import report_json
from alignkd_lab.report.page import write_report
from alignkd_lab.report.study_figures import leads_figure
from alignkd_lab.runs import by_seed, group_runs, seed_values, summarise_run
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan

MAIN = plan.ARMS["main"].cells[0]
CONTROLS = plan.ARMS["controls"].cells[0]


def answer(evidence, part):
    """The lines of the one question that holds `part`."""
    (found,) = [given for given in answers(evidence) if part in given.question]
    return found.lines


def test_records_outside_the_study_make_no_study(tmp_path):
    write([lm_record(seed) for seed in range(3)], tmp_path / "pilot.jsonl")
    assert Evidence.below(tmp_path, group_runs(load_records(tmp_path))) is None
    assert 'id="study"' not in write_report(tmp_path).read_text(encoding="utf-8")


def test_nothing_is_concluded_from_fewer_seeds_than_registered(evidence):
    held = evidence(recorded(MAIN, range(9)))
    cells = [row["cells"][0] for row in signs.signs(held)["rows"]]
    assert [cell["verdict"] for cell in cells] == [None] * 5
    assert "9 of 10 seeds: no verdict" in cells[0]["text"]
    assert list(failures.fails(held)) == []
    assert [answer for *_, answer in failures.against(held.places[0])] == [
        "not decided: 9 of 10 seeds so far, nothing is concluded"
    ]
    assert {"arm": "main experiment", "held": 9, "registered": 10}.items() <= study.not_run(held)[0].items()
    assert "nothing is concluded" in answer(held, "lost recall")[0][1]


def test_all_registered_seeds_make_a_verdict(evidence):
    held = evidence(recorded(MAIN, range(10)))
    cells = [row["cells"][0] for row in signs.signs(held)["rows"]]
    assert [cell["verdict"] for cell in cells[:4]] == ["holds", "holds", "undecided", "holds"]
    assert cells[4]["verdict"] is None
    criteria = {criterion: came for _, criterion, came in failures.against(held.places[0])}
    assert criteria["A-K's reward is the lower one"] == "no: holds"
    assert all(row["arm"] != "main experiment" for row in study.not_run(held))


def test_a_claim_that_fails_is_told_where_it_fails(evidence):
    held = evidence(recorded(MAIN, range(10), swap_orders))
    assert any("“A-K earns more reward” fails" in line for line in failures.fails(held))
    criteria = {criterion: came for _, criterion, came in failures.against(held.places[0])}
    assert criteria["A-K's reward is the lower one"] == "yes: fails"


def test_recall_that_was_lost_and_did_not_matter_counts_against_the_claim(evidence):
    level = {**LM, A_K: LM[K_A]}
    held = evidence(recorded(MAIN, range(10), effects=level))
    criteria = {criterion: came for _, criterion, came in failures.against(held.places[0])}
    found = criteria["Reward undecided although recall was lost"]
    assert found.startswith("yes: undecided; distilling lost more than half of the base's target rate in")


def test_a_run_whose_check_fails_decides_nothing(evidence):
    def sick(record):
        return {**record, "checks": {"healing_gap": 1.4, "healing_bar": 1.0}}

    held = evidence(recorded(MAIN, range(10), sick))
    assert signs.signs(held)["rows"][0]["cells"][0]["verdict"] == "invalid"
    assert any("no verdict is valid, the check healing failed" in line for line in failures.fails(held))


def test_a_failed_check_stands_before_every_sentence_of_its_run(evidence):
    def sick(record):
        return {**record, "checks": {"healing_gap": 1.4, "healing_bar": 1.0}}

    held = evidence(recorded(MAIN, range(10), sick))
    doubt = "invalid, the check healing failed"
    ((_, told),) = answer(held, "anchoring it to the reference")
    assert told.startswith(f"{doubt}. As figures: ")
    assert [answer for *_, answer in failures.against(held.places[0])] == [f"not decided: {doubt}"]
    assert not any("earns more than A-K" in line for line in failures.fails(held))


def test_a_pipeline_that_earns_more_than_a_k_is_told_where_the_claim_fails(evidence):
    better = {**LM, CONTROLS.pipelines[1]: LM["base_aligned"]}
    lines = list(failures.fails(evidence(recorded(MAIN, range(10), effects=better))))
    assert any("“K-A, pairs from the base” (controls of K-A) earns more than A-K, by 0.0" in line for line in lines)
    assert not any("anchored to the base” (controls of K-A) earns more" in line for line in lines)


def test_k_a_that_comes_level_with_a_k_under_another_setting_is_told_where_the_claim_fails(evidence):
    cells = plan.ARMS["learning_rate"].cells
    same = {**{name: LM[name] for name in YARDSTICKS}, **dict.fromkeys(cells[0].pipelines, LM[A_K])}
    simile = plan.ARMS["targets"].cells[1]
    lower = {**LM, A_K: LM[K_A]}  # A-K for similes: K-A at another rate earns more than that
    groups = [recorded(MAIN, MAIN.seeds), recorded(simile, simile.seeds, effects=lower)]
    held = evidence(*groups, *(recorded(cell, cell.seeds, effects=same) for cell in cells))
    lines = [line for line in failures.fails(held) if "learning rate (exploratory)" in line]
    place = held.places[0]
    level = across(place.run(cells[0]), place.main(), (K_A, A_K))
    more = across(place.run(cells[1]), place.run(simile), (K_A, A_K))
    assert f"0.0006) is not told apart from A-K as registered: {interval(*level)} of reward." in lines[0]
    assert f"0.0006, simile) earns more than A-K, by {interval(*more)}." in lines[-1]
    assert len(lines) == 3


def test_what_was_not_run_is_named_among_what_would_count_against_the_claim(evidence):
    held = evidence(recorded(MAIN, range(10)))
    told = {criterion: came for _, criterion, came in failures.against(held.places[0])}
    line = told["K-A with more samples, or anchored to the base, equals A-K at no more cost"]
    assert line.endswith("samples and steps × 1.36: not run; samples doubled: not run")
    assert "times the tokens sampled" in line


def test_of_the_pairs_that_k_a_lacks_those_that_the_smaller_size_costs_are_told_apart(evidence):
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(plan.ARMS["methods"].cells[0], MAIN.seeds,
                    effects={**LM, **dict.fromkeys(METHODS, LM[A_K])}))  # fmt: skip
    run = held.places[0].main()
    alone = paired(pairs(run, K_A), pairs(run, "align_student_only"))
    ((_, told),) = answer(held, "lost recall")
    assert f"of which distilling alone makes {interval(*alone)}: the small student before it has " in told


def test_nothing_is_concluded_from_an_arm_beside_an_unfinished_main_run(evidence):
    cell = plan.ARMS["equal_compute"].cells[0]
    held = evidence(recorded(MAIN, range(5)), recorded(cell, range(10)))
    assert "5 of 10 seeds so far, nothing is concluded. As figures" in answer(held, "may spend as much")[-1][1]


def test_an_arm_that_shares_no_seed_with_the_main_run_is_told_alone(evidence):
    cell = plan.ARMS["learning_rate"].cells[0]
    held = evidence(recorded(MAIN, range(5)), recorded(cell, range(5, 10)))
    told = [told for _, told in answer(held, "tuned as well")]
    assert sum("no seed of A-K beside it yet" in line for line in told) == len(cell.pipelines)
    assert study.study_part(held, lambda *_: {})["language"]


def test_values_by_seed_are_those_of_the_records(evidence):
    run = evidence(recorded(MAIN, range(4))).places[0].main()
    del run["records"][1]["pipelines"][K_A]
    del run["records"][2]["pipelines"][K_A]["metrics"]["reward"]
    run["records"][3]["pipelines"][A_K]["metrics"]["reward"] = None
    written = [record["pipelines"] for record in run["records"]]
    assert list(by_seed(run, K_A)) == [0, 3]
    assert by_seed(run, K_A)[0] == written[0][K_A]["metrics"]["reward"]
    assert by_seed(run, A_K) == pytest.approx(
        {seed: written[seed][A_K]["metrics"]["reward"] for seed in range(3)} | {3: math.nan}, nan_ok=True
    )
    assert by_seed(run, "dckd") == by_seed(run, K_A, "no metric") == {}
    assert seed_values(run)[A_K]["reward"] == pytest.approx(by_seed(run, A_K), nan_ok=True)


def test_an_undefined_reward_breaks_no_page(evidence):
    def undefined(record):
        if record["seed"] == 3:
            record["pipelines"][K_A]["metrics"]["reward"] = None
        return record

    held = evidence(recorded(MAIN, range(10), undefined))
    assert study.study_part(held, lambda *_: {})["language"]


def test_a_control_is_held_against_both_orders(evidence):
    held = evidence(recorded(MAIN, range(10)))
    run = held.places[0].run(CONTROLS)
    name = CONTROLS.pipelines[0]
    values = seed_values(run)
    gaps = np.array([values[name]["reward"][seed] - values[K_A]["reward"][seed] for seed in range(10)])
    found = difference(run, name, K_A)
    assert found.estimate == pytest.approx(gaps.mean())
    assert found.high - found.estimate == pytest.approx(stats.sem(gaps) * stats.t.ppf(0.975, 9))
    ((_, told),) = answer(held, "anchoring it to the reference")
    assert "from K-A (" in told
    assert "less than A-K (" in told


def test_the_trials_of_both_sides_are_told(evidence):
    (colour, _) = plan.ARMS["targets"].cells
    lines = answer(evidence(recorded(MAIN, range(2)), recorded(colour, range(1))), "tuned as well")
    tried, rates = lines[:4], lines[4:]
    assert [where.split(", ")[2] for where, _ in tried] == ["exclamation", "exclamation", "colour", "colour"]
    for _, told in tried:
        assert "0.0003 earned 0.100 at a KL of 6" in told
        assert told.endswith("the best within a KL of 10 nats a response was taken, 0.0003")
    names = ["K-A at 0.0006", "K-A, pairs from the base at 0.0006", "K-A at 0.0006, simile"]
    assert rates == [
        *((f"SmolLM2 (laptop, CPU), {name}, whatever its KL (exploratory)", "not run") for name in names),
        ("SmolLM2 (laptop, CPU), learning rate of both orders (exploratory)", "not run"),
    ]


def test_trials_that_all_left_the_budget_are_told_so(evidence):
    def further(record):
        for stage in record["stages"].values():
            for trial in stage["info"].get("trials", ()):
                trial["kl"] += 10
        return record

    lines = answer(evidence(recorded(MAIN, range(2), further)), "tuned as well")[:2]
    for _, told in lines:
        assert "0.0003 earned 0.100 at a KL of 16" in told
        assert told.endswith(
            "none stayed within a KL of 10 nats a response, so the one that went least far was taken, 0.0003"
        )


def test_k_a_at_another_rate_is_held_against_a_k_at_the_registered_one(evidence):
    cell = plan.ARMS["learning_rate"].cells[0]
    only = {name: effect for name, effect in LM.items() if name != A_K}
    held = evidence(recorded(MAIN, range(10)), recorded(cell, range(10), effects={**only, K_A: LM[A_K]}))
    told = dict(answer(held, "tuned as well"))
    assert "A-K: not told apart (" in told["SmolLM2 (laptop, CPU), K-A at 0.0006, whatever its KL (exploratory)"]
    others = study.study_part(held, lambda *_: {})["language"][0]["others"]
    row, _ = [row for row in others if row["value"] == "0.0006"]
    reward, beyond_k_a, beyond_a_k = (np.mean([seed_values(held.places[0].run(c))[n]["reward"][s] for s in range(10)])
                                      for c, n in ((cell, K_A), (MAIN, K_A), (MAIN, A_K)))  # fmt: skip
    shown = [float(mean.replace("−", "-")) for mean, _ in row["numbers"]]
    assert shown == pytest.approx([reward, reward - beyond_k_a, reward - beyond_a_k], abs=6e-4)


def test_an_exploratory_arm_is_told_without_a_verdict_and_at_95_per_cent(evidence):
    (cell,) = plan.ARMS["learning_rate_both"].cells
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(cell, cell.seeds))
    lead = interval(*difference(held.places[0].run(cell), A_K, K_A))
    where, told = answer(held, "tuned as well")[-1]
    assert where.endswith(plan.ARMS[cell.arm].label)
    assert told == f"the lead of A-K is {lead} at 0.0006"
    rows = {row["arm"]: row for row in study.study_part(held, lambda *_: {})["language"][0]["orders"]}
    assert rows[plan.ARMS[cell.arm].label]["verdicts"] == [None] * len(rows["main experiment"]["verdicts"])
    assert all(verdict["verdict"] for verdict in rows["main experiment"]["verdicts"])


def test_adpa_with_less_weight_is_held_against_a_k(evidence):
    cells = plan.ARMS["gamma"].cells
    effects = {**{name: LM[name] for name in YARDSTICKS}, "adpa": LM[K_A]}
    groups = [recorded(cell, cell.seeds, effects=effects) for cell in cells]
    held = evidence(recorded(MAIN, MAIN.seeds), *groups)
    lines = dict(answer(held, "align and distil at once"))
    for cell in cells:
        gap = across(held.places[0].main(), held.places[0].run(cell), (A_K, "adpa"))
        told = lines[f"SmolLM2 (laptop, CPU), {pipeline_style('adpa').label} at γ = {cell.value} (exploratory)"]
        assert told.endswith(f"A-K: {interval(*gap)} more than that")


def test_seeds_that_were_timed_while_all_samples_were_read_are_told(evidence):
    def half(record):
        if record["seed"] < 6:
            stages_of(record, K_A)[-1]["tokens"]["scored"] = 100
        return record

    ((_, told), *_) = answer(evidence(recorded(MAIN, MAIN.seeds, half)), "each order cost")
    assert "; in 4 of 10 seeds the truth read all of K-A's preference samples" in told


def test_what_has_no_record_is_not_run(evidence):
    held = evidence(recorded(MAIN, range(10)))
    assert answer(held, "RLHF on text")[-1][1] == "not run"
    rows = study.not_run(held)
    # The synthetic records hold the controls beside both orders.
    assert len(rows) == len(plan.cells()) - 2
    assert [row["held"] for row in rows] == [0] * len(rows)
    assert [row["arm"] for row in rows[:3]] == ["other methods", "target", "target"]


def test_without_any_language_record_all_of_that_part_is_not_run(tmp_path):
    (tmp_path / "study").mkdir()
    shutil.copy(data_folder() / mog_study.FILE, tmp_path / "study")
    held = Evidence.below(tmp_path, [])
    assert [row["held"] for row in study.not_run(held)] == [0] * len(plan.cells())


def test_the_page_is_made_of_complete_records_of_every_registered_cell(evidence):
    effects = {**LM, **dict.fromkeys(METHODS, LM[A_K])}
    held = evidence(*(recorded(cell, cell.seeds, effects=effects) for cell in plan.cells()))
    part = study.study_part(held, lambda name, figure, text: {})
    assert part["not_run"] == []
    told = [text for given in part["answers"] for _, text in given.lines]
    assert all("not run" not in text or "by construction" in text for text in told)
    criteria = {criterion: came for _, criterion, came in part["against"]}
    assert (
        "anchored to the base: no"
        in criteria["K-A with more samples, or anchored to the base, equals A-K at no more cost"]
    )
    assert (
        "samples doubled: no" in criteria["K-A with more samples, or anchored to the base, equals A-K at no more cost"]
    )


def test_a_seed_that_was_not_registered_does_not_count(evidence):
    held = evidence(recorded(MAIN, range(5, 15)))
    assert "5 of 10 seeds" in signs.signs(held)["rows"][0]["cells"][0]["text"]


def test_another_kind_of_machine_is_a_place_of_its_own(evidence):
    def on_gpu(record):
        settings = plain_settings(plan.settings_of(MAIN, "gpu"))
        provenance = {**record["provenance"], "device": "cuda"}
        return {**record, "preset": "gpu", "settings": settings, "provenance": provenance}

    held = evidence(recorded(MAIN, range(10)), recorded(MAIN, range(3), on_gpu))
    assert [place.words for place in held.places] == ["SmolLM2 (laptop, CPU)", "SmolLM2 (gpu, CUDA)"]
    told = [row["text"] for row in signs.signs(held)["rows"][0]["cells"]]
    assert "seeds" not in told[0]
    assert "3 of 10 seeds" in told[1]


def test_gaussian_failures_are_those_of_a_plain_t_test(evidence):
    held = evidence(recorded(MAIN, range(2)), gaussians=True)
    (line,) = [line for line in failures.fails(held) if "RLHF: “A-K earns more reward”" in line]
    for value, run in held.gaussians.runs("sharpening", "rlhf").items():
        values = seed_values(run)
        gaps = [values[A_K]["reward"][seed] - values[K_A]["reward"][seed] for seed in held.gaussians.seeds]
        surely_less = stats.ttest_1samp(gaps, 0, alternative="less").pvalue < 1e-6
        assert (f"sharpening s {value:g}" in line) == surely_less


def test_the_main_setting_counts_once_among_all_settings(evidence):
    held = evidence(recorded(MAIN, range(2)), gaussians=True)
    counts = signs.signs(held)["rows"][0]["cells"][1]["counts"]
    total = sum(int(part.split()[-1]) for part in counts.split(", "))
    distinct = {
        settings
        for name, _, algorithm, settings in mog_study.wanted()
        if algorithm == "rlhf" and name in mog_study.REGISTERED
    }
    assert total == len(distinct)


def test_a_control_is_counted_once_in_every_registered_setting_whose_checks_passed(evidence):
    held = evidence(recorded(MAIN, range(2)), gaussians=True)
    lines = dict(answer(held, "higher temperature"))
    runs = [run for run in held.gaussians.distinct(mog_study.REGISTERED) if run["algorithm"] == "dpo"]
    valid = [run for run in runs if failed_check(run_checks(run)) is None]
    assert len(runs) - len(valid) == 3
    above = 0
    for run in valid:
        values = seed_values(run)
        gaps = [values[CONTROLS.pipelines[2]]["reward"][seed] - values[A_K]["reward"][seed] for seed in mog_study.SEEDS]
        above += np.mean(gaps) > stats.sem(gaps) * stats.t.ppf(0.975, len(gaps) - 1)
    told = lines["Gaussians, DPO, registered settings"]
    assert f"more than A-K in {above} of {len(valid)}," in told
    assert "labels flipped 0.4" not in told


def test_the_page_holds_the_study_with_all_its_parts(evidence, tmp_path):
    evidence(recorded(MAIN, range(4)))
    page = write_report(tmp_path, out=tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    parts = ("The registered signs", "What would count against the claim", "Where it fails", "Beside every reward")
    for part in (*parts, "Planned, and not run", "4 of 10 seeds: no verdict"):
        assert part in page


def test_a_run_of_the_plan_takes_no_verdict_before_its_last_seed():
    (run,) = group_runs(recorded(MAIN, range(9)))
    summary = summarise_run(run)
    assert summary["label"] == "9 of 10 registered seeds: no verdict"
    assert {claim["verdict"] for claim in summary["claims"]} == {"unfinished"}
    (whole,) = group_runs(recorded(MAIN, range(10)))
    assert summarise_run(whole)["label"] is None
    assert summarise_run(whole)["claims"][0]["verdict"] == "holds"


def test_k_a_at_another_rate_is_held_against_a_k_with_the_same_target(evidence):
    cell, similes = plan.ARMS["learning_rate"].cells[1], plan.ARMS["targets"].cells[1]
    only = {name: effect for name, effect in LM.items() if name != A_K}
    held = evidence(
        recorded(similes, range(10), effects={**LM, A_K: LM[K_A]}),
        recorded(cell, range(10), effects=only),
    )
    place = held.places[0]
    found = across(place.run(similes), place.run(cell), (A_K, K_A))
    assert found.low < 0 < found.high
    told = dict(answer(held, "tuned as well"))[
        "SmolLM2 (laptop, CPU), K-A at 0.0006, simile, whatever its KL (exploratory)"
    ]
    assert f"A-K: not told apart ({interval(*found)}" in told
    (bar,) = [line for line in leads_figure(place).axes[0].lines if line.get_linewidth() == 3][1:]
    assert tuple(bar.get_xdata()) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("place", [0, 1])
def test_one_order_at_another_rate_is_held_against_the_other_order_distilled_as_it_was(place, evidence):
    cell, (partner,) = plan.ARMS["plain_kd_rate"].cells[place], plan.ARMS["plain_kd"].cells
    (order,) = cell.pipelines
    only = {**{name: LM[name] for name in cell.yardsticks}, order: (LM[order][0] + 0.05, *LM[order][1:])}
    moved = recorded(cell, cell.seeds, effects=only)
    groups = [recorded(MAIN, MAIN.seeds), recorded(partner, partner.seeds), moved]
    where = f"SmolLM2 (laptop, CPU), distilled at temperature 1, {cell.value} for both (exploratory)"
    held = evidence(*groups)
    runs = {name: held.places[0].run(cell if name == order else partner) for name in (A_K, K_A)}
    gap = across(*runs.values(), (A_K, K_A))
    assert held.places[0].orders(cell) == tuple(runs.values())
    assert gap.low > 0
    assert gap != difference(held.places[0].run(partner), A_K, K_A)
    means = [f"{words} earns {interval(*mean(runs[name], name))}" for words, name in (("A-K", A_K), ("K-A", K_A))]
    shown = interval(*(100 * value for value in across(*runs.values(), (A_K, K_A), "target_rate")))
    assert dict(answer(held, "wins by temperature"))[where] == (
        f"{', '.join(means)}; A-K: {interval(*gap)} more than K-A; target rate of A-K minus K-A: {shown} points"
    )
    bar = [line for line in leads_figure(held.places[0]).axes[0].lines if line.get_linewidth() == 3][2]
    assert tuple(bar.get_xdata()) == pytest.approx((gap.low, gap.high))
    rows = study.study_part(held, lambda *_: {})["language"][0]["others"]
    (row,) = [row for row in rows if row["against"]]
    assert row["against"] == "KD temperature τ, new seeds 1"
    lead = row["numbers"][1 if order == A_K else 2][0]  # minus K-A, minus A-K
    assert lead == number(gap.estimate if order == A_K else -gap.estimate)


def test_what_a_lead_is_made_of_stands_in_the_report_for_every_finished_setting(evidence):
    half = recorded(plan.ARMS["rlhf"].cells[0], range(3))
    held = evidence(recorded(MAIN, MAIN.seeds), half)
    run = held.places[0].main()
    rate = interval(*(100 * value for value in difference(run, A_K, K_A, "target_rate")))
    entropy, kl = (interval(*difference(run, A_K, K_A, metric)) for metric in ("entropy", "kl_to_truth"))
    assert answer(held, "or how likely") == [
        (
            "SmolLM2 (laptop, CPU), main experiment: as registered",
            f"target rate {rate} points, entropy {entropy} and KL to the truth {kl} nats a token",
        )
    ]
    assert answer(evidence(half), "or how likely") == [("SmolLM2 (laptop, CPU)", "not run")]


def test_one_order_at_another_rate_says_nothing_while_either_part_lacks_seeds(evidence):
    cell, (partner,) = plan.ARMS["plain_kd_rate"].cells[0], plan.ARMS["plain_kd"].cells
    where = "SmolLM2 (laptop, CPU), distilled at temperature 1, 0.0006 for both (exploratory)"
    few = evidence(recorded(MAIN, MAIN.seeds), recorded(partner, partner.seeds), recorded(cell, cell.seeds[:2]))
    assert dict(answer(few, "wins by temperature"))[where] == "2 of 7 seeds so far, nothing is concluded"
    lone = evidence(recorded(MAIN, MAIN.seeds), recorded(cell, cell.seeds), recorded(partner, partner.seeds[:3]))
    assert lone.places[0].orders(cell) is None
    assert lone.places[0].orders(plan.ARMS["controls"].cells[0]) is None


def test_a_section_s_heading_says_which_cell_of_the_plan_it_is(evidence, tmp_path):
    cell = plan.ARMS["gamma"].cells[0]
    alone = {name: LM[name] for name in YARDSTICKS}
    evidence(recorded(MAIN, range(2)), recorded(cell, range(2), effects={**alone, "adpa": LM[K_A]}))
    page = write_report(tmp_path, out=tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "Language world: exclamation, DPO · main experiment</h3>" in page
    adpa = page.partition("Language world: exclamation, DPO · ADPA&#39;s weight γ (exploratory) 0.15</h3>")[2]
    assert adpa
    assert "<h4>Verdicts</h4>" not in adpa.partition("<section>")[0]  # it does not hold both orders


def test_the_page_shows_seeds_that_were_registered_apart_as_runs_of_their_own(evidence, tmp_path):
    hot = next(cell for cell in plan.ARMS["kd_temperature"].cells if cell.value == "1")
    (new,) = plan.ARMS["plain_kd"].cells
    evidence(recorded(MAIN, MAIN.seeds), recorded(hot, (*hot.seeds, *new.seeds, 42)))
    page = write_report(tmp_path, out=tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    heading = "Language world: exclamation, DPO · "
    parts = [f"{heading}main experiment", f"{heading}KD temperature τ 1", f"{heading}KD temperature τ, new seeds 1"]
    counted = [page.partition(f"{part}</h3>")[2].partition(" seeds.")[0].rpartition(" ")[2] for part in parts]
    assert counted == ["10", "3", "7"]
    seeds = [[found["seed"] for found in run["pipelines"][A_K]["reward"]["seeds"]]
             for run in report_json(tmp_path)["runs"]]  # fmt: skip
    assert sorted(seeds) == sorted([[*MAIN.seeds], [*hot.seeds], [*new.seeds], [42]])


def test_three_seeds_that_tell_nothing_apart_are_said_to_tell_little(evidence):
    cells = plan.ARMS["gamma"].cells
    alone = {name: LM[name] for name in YARDSTICKS}
    same, less = ({**alone, "adpa": LM[name]} for name in (A_K, K_A))
    groups = [recorded(cell, cell.seeds, effects=effects) for cell, effects in zip(cells, (same, less), strict=True)]
    lines = dict(answer(evidence(recorded(MAIN, MAIN.seeds), *groups), "align and distil at once"))
    told = [lines[f"SmolLM2 (laptop, CPU), ADPA at γ = {cell.value} (exploratory)"] for cell in cells]
    assert told[0].endswith("from that (3 seeds, which tell little)")
    assert told[1].endswith(" more than that")


def test_seeds_that_were_registered_later_are_never_pooled_with_the_earlier_ones(evidence):
    hot = next(cell for cell in plan.ARMS["kd_temperature"].cells if cell.value == "1")
    (new,) = plan.ARMS["plain_kd"].cells
    held = evidence(recorded(MAIN, MAIN.seeds), recorded(hot, (*hot.seeds, *new.seeds[:2])))
    place = held.places[0]
    assert [[record["seed"] for record in place.run(cell)["records"]] for cell in (hot, new)] == [[0, 1, 2], [3, 4]]
    told = dict(answer(held, "wins by temperature"))
    assert "A-K earns more at" in told["SmolLM2 (laptop, CPU), KD temperature τ"]
    assert told["SmolLM2 (laptop, CPU), KD temperature τ, new seeds"] == "1: 2 of 7 seeds so far, nothing is concluded"
    (run,) = [run for run in place.runs if run["settings"]["kd_temperature"] == 1.0]
    assert summarise_run(run)["label"] == "seeds that were registered apart: no verdict"
    assert {claim["verdict"] for claim in summarise_run(run)["claims"]} == {"unfinished"}
    assert summarise_run(place.run(new))["label"] == "2 of 7 registered seeds: no verdict"
    assert summarise_run(place.run(hot))["label"] is None
    rows = {
        row["words"]: row["cells"][0]["text"] for row in study.study_part(held, lambda *_: {})["expectations"]["rows"]
    }
    later = [text for words, text in rows.items() if "new seeds" in words]
    assert len(later) == 2
    assert all(text.startswith("2 of 7 seeds so far, nothing is concluded") for text in later)
