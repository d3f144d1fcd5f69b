"""What RESULTS.md and the README say of the temperature of distillation is what the records say."""

from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest
from results_text import INTERVAL, NUMBERS, PARTS, README, recorded, runs, section, signs_of, table, written

from alignkd_lab.costs import stages_of
from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.report.alignments import HEADS, alignment_rows
from alignkd_lab.report.evidence import across, difference, leads, paired, pairs, sampled_rates
from alignkd_lab.report.evidence import mean as over_seeds
from alignkd_lab.report.tables import claims_table
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.style import interval, pipeline_style

SWEEP, _, TEXT = section("The temperature of distillation").partition("**Seven more seeds at 1**")
SHOWN = ("base_aligned", "kd_only", K_A, A_K)


@pytest.fixture(scope="module")
def compared():
    """The runs of A-K and of K-A by temperature and learning rate; by the rule K-A has the larger rate at 1."""
    main, larger_step, plain = recorded("main"), recorded("learning_rate_both"), recorded("plain_kd")
    return {
        ("0.7", 0.0003): (main, main),
        ("0.7", 0.0006): (larger_step, larger_step),
        ("1", 0.0003): (plain, recorded("plain_kd_rate", "0.0003")),
        ("1", 0.0006): (recorded("plain_kd_rate", "0.0006"), plain),
    }


@pytest.fixture(scope="module")
def swept():
    """Both orders by KD temperature, with the seeds of the sweep."""
    cells = [replace(cell, seeds=plan.SWEEP_SEEDS) for cell in plan.with_main("kd_temperature")]
    return {cell.value: plan.run_of(runs(), cell, "laptop", "cpu") for cell in cells}


@pytest.fixture(scope="module")
def plain(compared):
    """Both orders distilled at 1, with the seeds that were registered for it."""
    return compared["1", 0.0003][0]


def learning_rates(run, order):
    place = 0 if order == A_K else -1
    return {stages_of(record, order)[place]["info"]["learning_rate"] for record in run["records"]}


def test_the_table_of_temperatures_is_that_of_the_sweep(swept):
    assert [[record["seed"] for record in run["records"]] for run in swept.values()] == [[0, 1, 2]] * 5
    columns = [(order, metric) for metric in ("reward", "target_rate") for order in (K_A, A_K)]
    columns += [(A_K, metric) for metric in ("entropy", "kl_to_truth", "overall_recall")]
    rows = {}
    for value, run in swept.items():
        (rate,) = learning_rates(run, K_A)
        means = [written(summarise_run(run)["pipelines"][order][metric], metric) for order, metric in columns]
        rows[value] = [str(rate), *means[:2], interval(*difference(run, A_K, K_A)), *means[2:]]
        assert learning_rates(run, A_K) == {0.0003}
        lead = difference(run, A_K, K_A)
        assert lead.low < 0 < lead.high  # "three seeds do not tell at any value"
    assert table("The plan moves τ alone", SWEEP) == rows


def test_what_is_said_of_the_sweep_is_what_its_records_say(swept):
    hot, cold, plain = (swept[value] for value in ("1.25", "0.5", "1"))
    rates = {
        order: [100 * over_seeds(run, order, "target_rate").estimate for run in swept.values()] for order in ORDERS
    }
    assert f"it is {min(rates[A_K]):.0f} to {max(rates[A_K]):.0f} % at the five values" in SWEEP
    lost = [paired(*(sampled_rates(run, name) for name in (K_A, "base_aligned"))) for run in swept.values()]
    assert all(first.high < second.estimate for first, second in pairwise(lost))  # "in order"
    assert [gap.high < 0 for gap in lost] == [True, True, True, False, False]  # "sharp distilling prunes"
    assert all(gap.low > 0 for gap in lost[3:])
    spread, earned = (
        [over_seeds(run, A_K, metric).estimate for run in (cold, hot)] for metric in ("entropy", "reward")
    )
    words = (
        "shows the target in {:.0f} to {:.0f} % of responses, but its entropy goes from {:.2f} to {:.2f} nats a token"
    )
    assert words.format(min(rates[A_K]), max(rates[A_K]), *spread) in README
    assert "and its reward from {:.3f} to {:.3f}. Distilled".format(*earned) in README
    oftener, further, repaired = (
        across(hot, cold, (A_K, A_K), metric) for metric in ("target_rate", "kl_to_truth", "overall_recall")
    )
    assert oftener.low < 0 < oftener.high
    assert repaired.low < 0 < repaired.high  # "not told apart"
    assert INTERVAL.findall(SWEEP.partition("\n- ")[2]) == [
        interval(*(100 * value for value in oftener)),
        interval(*across(hot, cold, (A_K, A_K), "entropy")),
        interval(*further),
        interval(*across(cold, hot, (A_K, A_K))),
        *(interval(*(100 * value for value in gap)) for gap in lost),
        interval(*across(plain, cold, (A_K, A_K), "overall_recall")),
        interval(*repaired),
        interval(*across(hot, cold, ("kd_only", "kd_only"), "overall_recall")),
    ]
    counts = [[*pairs(hot, name).values()] for name in (K_A, "base_aligned")]
    assert {*counts[0]} == {1, 2}
    assert f"is left 1 or 2 informative pairs, the base {min(counts[1])} to {max(counts[1])}." in SWEEP
    sharp, usual, warm, at_1, hottest = (f"{rate:.0f}" for rate in rates[K_A])
    assert (
        f"it is {usual}, {warm} and {hottest} % at 0.0003 (τ = 0.7, 0.85, 1.25) and {sharp} and {at_1} % at 0.0006"
        in SWEEP
    )
    assert [learning_rates(run, K_A) for run in swept.values()] == [{0.0006}, {0.0003}, {0.0003}, {0.0006}, {0.0003}]


def test_the_tables_of_plain_distillation_are_those_of_its_records(plain):
    assert [record["seed"] for record in plain["records"]] == [*range(3, 10)]
    summary = summarise_run(plain)
    metrics = ("reward", "target_rate", *PARTS, "overall_recall")
    assert table("7 of 7 seeds", TEXT) == {
        pipeline_style(name).label: [written(summary["pipelines"][name][metric], metric) for metric in metrics]
        for name in SHOWN
    }
    assert table("**The same four signs**", TEXT) == signs_of(plain)
    assert [learning_rates(plain, order) for order in (K_A, A_K)] == [{0.0006}, {0.0003}]


def test_what_is_said_of_plain_distillation_is_what_its_records_say(plain, compared):
    main, larger_step = (compared["0.7", rate][0] for rate in (0.0003, 0.0006))
    first, methods = recorded("kd_temperature", "1"), recorded("methods")
    lead = difference(plain, K_A, A_K)
    assert lead.low > 0
    assert all(value < 0 for value in leads(plain).values())  # "in seven of seven"
    assert all(row["verdict"] == "fails" for row in claims_table(summarise_run(plain)) if row["decided"])
    told = {}
    for order in ORDERS:
        *before, last = (f"{value:.3f}" for value in by_seed(first, order).values())
        told[order] = f"{', '.join(before)} and {last}"
    assert f"In the first three seeds, A-K {told[A_K]}, K-A {told[K_A]}" in TEXT
    for metric in ("target_rate", "kl_to_truth"):  # "is not told apart from that at 0.7, nor is its KL to the truth"
        same = across(plain, main, (A_K, A_K), metric)
        assert same.low < 0 < same.high
    widths = [over_seeds(main, name, "entropy").estimate for name in ("kd_only", "base")]  # the base is the truth
    assert widths[0] == pytest.approx(widths[1], abs=0.005)
    assert f"KD only has the truth's entropy there, {widths[0]:.2f}." in TEXT
    sampled = paired(*(sampled_rates(plain, name) for name in (K_A, "base_aligned")))
    counts = [pairs(*of).values() for of in ((plain, K_A), (main, K_A), (plain, "base_aligned"))]
    own, sharp, base = (f"{min(count)} to {max(count)}" for count in counts)
    assert f"{own} informative pairs, where it had {sharp} at 0.7 and the base has {base}," in TEXT
    recall, entropy, off = "overall_recall", "entropy", "kl_to_truth"
    equal = [across(*runs, (A_K, K_A), recall) for runs in (compared["1", 0.0003], compared["1", 0.0006])]
    assert all(found.low < 0 < found.high for found in equal)  # "by K-A's larger step"
    yardstick = across(plain, main, ("base_aligned", "base_aligned"))
    assert INTERVAL.findall(TEXT.partition("\n\n|")[0]) == [interval(*yardstick)]
    assert INTERVAL.findall(TEXT.partition("\n- ")[2].partition("**Both orders")[0]) == [
        interval(*lead),
        interval(*across(main, plain, (A_K, A_K))),
        *(interval(*found) for found in equal),
        interval(*across(plain, main, (A_K, A_K), off)),
        *(interval(*across(plain, main, (name, name), entropy)) for name in (A_K, "kd_only")),
        interval(*difference(plain, "kd_only", K_A, entropy)),
        interval(*difference(plain, K_A, "kd_only", off)),
        *(interval(*across(methods, plain, (name, A_K))) for name in ("dckd", "on_policy_distillation")),
        interval(*(100 * value for value in sampled)),
        interval(*across(plain, larger_step, (K_A, K_A))),
        *(interval(*across(plain, main, (name, name), recall)) for name in (A_K, "kd_only")),
    ]
    for words in (interval(*over_seeds(plain, order)) for order in ORDERS):
        assert words in README
    assert f"A-K earns {interval(*across(main, plain, (A_K, A_K)))} less with exclamations" in README
    wider = interval(*across(plain, main, (A_K, A_K), entropy))
    assert f"spreads more, by {wider} nats of entropy" in README
    for name in ("dckd", "on_policy_distillation"):
        assert across(methods, plain, (name, A_K)).low > 0  # "it no longer leads DCKD or on-policy distillation"


def test_the_table_of_both_orders_at_either_rate_is_that_of_the_records(plain, compared):
    rows = {}
    for (temperature, rate), (a_k, k_a) in compared.items():
        assert learning_rates(a_k, A_K) == learning_rates(k_a, K_A) == {rate}
        rows[f"{temperature}, {rate}"] = [
            str(len(leads(a_k, k_a))),
            *(interval(*over_seeds(run, order)) for run, order in ((k_a, K_A), (a_k, A_K))),
            interval(*across(a_k, k_a, (A_K, K_A))),
            *(
                interval(*(100 * value for value in over_seeds(run, order, "target_rate")))
                for run, order in ((k_a, K_A), (a_k, A_K))
            ),
            interval(*(100 * value for value in across(a_k, k_a, (A_K, K_A), "target_rate"))),
        ]
        assert across(a_k, k_a, (A_K, K_A), "target_rate").low > 0  # "A-K still shows the target more often"
    assert table("**Both orders at either rate**", TEXT) == rows
    (row,) = alignment_rows(plain, (K_A,))
    went, span = row["numbers"][HEADS.index("KL after") - 1]
    assert f"over the seeds it goes {went} ({span})" in TEXT
    assert f"which takes it {went} nats where 10 are allowed" in README
    assert float(went) > plain["settings"]["kl_budget"] == 10  # "as its one trial stayed within the KL budget"
    (trial,) = [held for held in stages_of(plain["records"][0], K_A)[-1]["info"]["trials"]
                if held["learning_rate"] == 0.0006]  # fmt: skip
    assert trial["kl"] < 10


def test_what_is_said_of_both_orders_at_either_rate_is_what_the_records_say(plain, compared):
    after = TEXT.partition("**Both orders")[2].partition("\n\n- ")[2]
    order = (A_K, K_A)
    usual_slow, usual_fast, slow, fast = compared.values()
    slower_k_a = slow[1]
    held = [(leads(*usual), leads(*runs)) for usual, runs in ((usual_slow, slow), (usual_fast, fast))]
    smaller = [paired(*both) for both in held]
    for gap, (usual, here), rate in zip(smaller, held, ("0.0003", "0.0006"), strict=True):
        assert f"by {interval(*gap)} from {mean(usual[seed] for seed in here):.3f} at {rate}" in after
    lead, other = (across(*held, (A_K, K_A)) for held in (slow, fast))
    assert lead.low > 0  # "what is left of it"
    assert other.low < 0 < other.high  # "not told apart"
    assert INTERVAL.findall(after) == [
        *(interval(*gap) for gap in smaller),
        interval(*lead),
        *(interval(*across(*both, order, "kl_to_truth")) for both in (slow, fast, usual_slow, usual_fast)),
        *(interval(*across(*both, order, "entropy")) for both in (slow, fast)),
        interval(*across(usual_slow[1], slower_k_a, (K_A, K_A))),
        *(interval(*across(*runs, (A_K, A_K))) for runs in ((usual_slow[0], slow[0]), (usual_fast[0], fast[0]))),
    ]
    wins = [sum(sign * value > 0 for value in leads(*held).values()) for sign, held in ((1, slow), (-1, fast))]
    assert f"above zero in {NUMBERS[wins[0]]} of seven seeds" in after
    assert f"K-A earns more in {NUMBERS[wins[1]]} of seven" in after
    assert f"A-K's lead is {interval(*lead)} with the smaller and {interval(*other)} with the larger one" in README
    oftener = [interval(*(100 * value for value in across(*both, order, "target_rate"))) for both in (slow, fast)]
    assert (
        f"A-K still exclaims more often, by {oftener[0]} points at the smaller and {oftener[1]} at the larger" in README
    )
    shown = [
        [over_seeds(run, "kd_only", "target_rate").estimate for run in (here, usual_slow[0])]
        for here in (plain, slower_k_a)
    ]
    assert all(at_1 > at_7 for at_1, at_7 in shown)  # "K-A's student shows more of it at 1"
