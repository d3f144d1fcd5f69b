"""What RESULTS.md and the README say of the other targets and of RLHF is what the records say."""

from statistics import mean

import pytest
from results_text import INTERVAL, LM_METRICS, README, recorded, section, table, written

from alignkd_lab.costs import stages_of
from alignkd_lab.metrics import A_K, K_A
from alignkd_lab.pipelines import ORDERS, YARDSTICKS
from alignkd_lab.report.evidence import difference, leads, paired, pairs, sampled_rates
from alignkd_lab.report.evidence import mean as over_seeds
from alignkd_lab.report.tables import claims_table
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.style import interval, pipeline_style

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def language():
    """The main run, whose target is exclamations."""
    return recorded("main")


@pytest.fixture(scope="module")
def larger_step():
    return recorded("learning_rate_both")


@pytest.fixture(scope="module")
def colours():
    """The run with the commoner target."""
    return recorded("targets", "colour")


COLOURS = section("A commoner target")


def test_the_tables_of_the_commoner_target_are_those_of_its_records(colours):
    summary = summarise_run(colours)
    measured = {
        pipeline_style(name).label: [written(metrics[metric], metric) for metric in LM_METRICS]
        for name, metrics in summary["pipelines"].items()
    }
    rows = table("## A commoner target")
    assert list(rows) == [pipeline_style(name).label for name in (*YARDSTICKS, *ORDERS)]
    assert rows == measured
    signs = {
        row["words"]: [f"{row['difference']} ({row['interval']})", row["level"], row["effect"], row["verdict"]]
        for row in claims_table(summary)
        if row["decided"]
    }
    assert table("**The same four signs**") == signs
    assert f"{len(colours['records'])} of 10 seeds" in COLOURS


def test_what_is_said_of_the_commoner_target_is_what_its_records_say(colours, language, larger_step):
    lead = difference(colours, A_K, K_A)
    assert lead.high < 0  # "The order turns round."
    rates, counts = ([of(colours, name) for name in ("base_aligned", K_A)] for of in (sampled_rates, pairs))
    less = paired(leads(language), leads(colours))
    assert less.low > 0
    for name in ORDERS:
        assert README.count(interval(*over_seeds(colours, name))) == 2
    wins = sum(value < 0 for value in leads(colours).values())
    assert f"more in {NUMBERS[wins]} of ten seeds" in README
    assert f"more in {NUMBERS[wins]} of {NUMBERS[len(colours['records'])]} seeds" in COLOURS
    stated = INTERVAL.findall(COLOURS.partition("\n- ")[2])
    assert stated == [
        interval(*difference(colours, K_A, A_K)),
        interval(*less),
        interval(*(100 * value for value in paired(*rates))),
        interval(*difference(colours, K_A, A_K, "overall_precision")),
        interval(*difference(colours, "kd_only", A_K, "overall_precision")),
        interval(*difference(colours, "base", "base_aligned", "overall_precision")),
        interval(*difference(colours, "kd_only", K_A, "overall_precision")),
        interval(*difference(larger_step, A_K, K_A)),
    ]
    shares = [mean(held[1].values()) / mean(held[0].values()) for held in (rates, counts)]
    assert 0.5 < shares[1] < shares[0] < 0.8  # "leaves most of that", "more than half of the base's informative pairs"
    assert f"below the base's {100 * mean(rates[0].values()):.2f} %" in COLOURS
    (base, student) = (f"{min(held.values())} to {max(held.values())}" for held in counts)
    assert f"keeps {student} informative pairs where the base has {base}" in COLOURS
    per_hit = {
        name: mean(by_seed(colours, name).values()) / mean(by_seed(colours, name, "target_rate").values())
        for name in ORDERS
    }
    assert f"earns {per_hit[K_A]:.3f} with K-A, {per_hit[A_K]:.3f} with A-K" in COLOURS
    assert difference(colours, K_A, A_K, "overall_precision").low > 0
    chosen = {stage["info"]["learning_rate"] for record in colours["records"] for stage in record["stages"].values()
              if stage["kind"] == "align"}  # fmt: skip
    assert chosen == {0.0006}
    for lost in (paired(*(of(language, name) for name in ("base_aligned", K_A))) for of in (sampled_rates, pairs)):
        assert lost.low > 0
    base, student = (
        [mean(of(language, name).values()) for of in (sampled_rates, pairs)] for name in ("base_aligned", K_A)
    )
    assert student[0] < base[0] / 2  # "more than half were gone"
    assert student[1] == pytest.approx(base[1] / 4, rel=0.1)  # "three quarters of the pairs"


def test_what_is_said_of_rlhf_is_what_its_records_say():
    run = recorded("rlhf")
    records = sorted(run["records"], key=lambda record: record["seed"])
    text = section("RLHF")

    def listed(values, form="{}"):
        return " and ".join(form.format(value) for value in values)

    infos = {name: [stages_of(record, name)[-1]["info"] for record in records] for name in ("base_aligned", K_A)}
    rates = [100 * record["pipelines"]["base_aligned"]["metrics"]["target_rate"] for record in records]
    assert f"{len(records)} of 10 seeds, {listed(record['seed'] for record in records)};" in text
    assert f"Of them {listed(info['target_responses'] for info in infos['base_aligned'])} were on target" in text
    assert f"in {listed(rates, '{:.1f}')} % of test responses" in text
    assert f"K-A's student {listed(info['target_responses'] for info in infos[K_A])}, " in text
    assert f"left it {listed(info['informative_groups'] for info in infos[K_A])} of 48 groups" in text
    assert {info["groups"] for info in infos[K_A]} == {48}
    assert {info["responses"] for found in infos.values() for info in found} == {288}
    for name, words in ((K_A, "K-A ends with rewards of"), (A_K, "A-K with")):
        rewards = [record["pipelines"][name]["metrics"]["reward"] for record in records]
        assert f"{words} {listed(rewards, '{:.3f}')}" in text
