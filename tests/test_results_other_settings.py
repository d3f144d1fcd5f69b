"""What RESULTS.md and the README say of the other targets and of RLHF is what the records say."""

import itertools
from statistics import mean

import pytest
from results_text import INTERVAL, LM_METRICS, NUMBERS, README, recorded, section, signs_of, table, written

from alignkd_lab.costs import stages_of
from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A, t_interval
from alignkd_lab.pipelines import ORDERS, YARDSTICKS
from alignkd_lab.report.alignments import HEADS, alignment_rows
from alignkd_lab.report.evidence import across, difference, leads, paired, pairs, sampled_rates
from alignkd_lab.report.evidence import mean as over_seeds
from alignkd_lab.runs import by_seed, summarise_run
from alignkd_lab.style import interval, pipeline_style


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


@pytest.fixture(scope="module")
def similes():
    """The run with another rare target."""
    return recorded("targets", "simile")


@pytest.fixture(scope="module")
def similes_larger_step():
    """K-A alone, at the learning rate that the rule gives A-K for similes."""
    return recorded("learning_rate", "0.0006, simile")


COLOURS = section("A commoner target")


def per_hit(run, name):
    """What a response on target earns."""
    return mean(by_seed(run, name).values()) / mean(by_seed(run, name, "target_rate").values())


def row_of(run, name):
    (row,) = alignment_rows(run, (name,))
    return row


def trial_of(run, name, learning_rate):
    """That of the rule that chose the learning rate of `name`'s alignment, made once for all seeds."""
    held = stages_of(run["records"][0], name)[-1]["info"]["trials"]
    return next(trial for trial in held if trial["learning_rate"] == learning_rate)


@pytest.mark.parametrize(("target", "heading"), [("colour", "A commoner target"), ("simile", "A third target")])
def test_the_tables_of_another_target_are_those_of_its_records(target, heading):
    run = recorded("targets", target)
    summary = summarise_run(run)
    measured = {
        pipeline_style(name).label: [written(metrics[metric], metric) for metric in LM_METRICS]
        for name, metrics in summary["pipelines"].items()
    }
    rows = table(f"## {heading}\n")
    assert list(rows) == [pipeline_style(name).label for name in (*YARDSTICKS, *ORDERS)]
    assert rows == measured
    assert table("**The same four signs**", section(heading)) == signs_of(run)
    assert f"{len(run['records'])} of 10 seeds" in section(heading)


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
        interval(*(100 * value for value in difference(colours, K_A, A_K, "target_rate"))),
        interval(*difference(colours, K_A, A_K, "overall_precision")),
        interval(*difference(colours, A_K, K_A, "entropy")),
        interval(*difference(colours, A_K, K_A, "kl_to_truth")),
        interval(*difference(colours, A_K, "kd_only", "kl_to_truth")),
        interval(*difference(colours, "base_aligned", "base", "kl_to_truth")),
        interval(*difference(colours, "base", "base_aligned", "entropy")),
        interval(*difference(colours, A_K, "kd_only", "entropy")),
        interval(*difference(larger_step, A_K, K_A)),
    ]
    apart = difference(colours, A_K, K_A, "kl_to_truth")
    assert apart.low < 0 < apart.high  # "in KL to the truth the two are not told apart"
    shares = [mean(held[1].values()) / mean(held[0].values()) for held in (rates, counts)]
    assert 0.5 < shares[1] < shares[0] < 0.8  # "leaves most of that", "more than half of the base's informative pairs"
    assert f"below the base's {100 * mean(rates[0].values()):.2f} %" in COLOURS
    (base, student) = (f"{min(held.values())} to {max(held.values())}" for held in counts)
    assert f"keeps {student} informative pairs where the base has {base}" in COLOURS
    hit = {name: per_hit(colours, name) for name in ORDERS}
    assert f"earns {hit[K_A]:.3f} with K-A, {hit[A_K]:.3f} with A-K" in COLOURS
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


def test_what_is_said_of_the_third_target_is_what_its_records_say(similes, similes_larger_step):
    text = section("A third target")
    lead = difference(similes, A_K, K_A)
    assert lead.low > 0  # "as the plan expected"
    for name in ORDERS:
        assert interval(*over_seeds(similes, name)) in README
    wins = sum(value > 0 for value in leads(similes).values())
    assert f"in {NUMBERS[wins]} of ten seeds" in text.partition("By the registered rule")[2].partition("\n")[0]
    assert wins == 10  # README: "in all ten seeds"
    rates, counts = ([of(similes, name) for name in ("base_aligned", K_A)] for of in (sampled_rates, pairs))
    assert f"show it in {100 * mean(rates[0].values()):.2f} %" in text
    level = across(similes, similes_larger_step, (A_K, K_A))
    assert level.low < 0 < level.high  # "not told apart"
    assert f"K-A earns {interval(*over_seeds(similes_larger_step, K_A))}, and" in README
    went = row_of(similes_larger_step, K_A)["numbers"][HEADS.index("KL after") - 1]
    assert INTERVAL.findall(text.partition("\n- ")[2]) == [
        interval(*lead),
        interval(*(100 * value for value in difference(similes, A_K, K_A, "target_rate"))),
        interval(*difference(similes, K_A, A_K, "overall_precision")),
        interval(*over_seeds(similes_larger_step, K_A)),
        interval(*level),
        interval(*across(similes, similes_larger_step, (A_K, K_A), "overall_recall")),
        interval(*across(similes_larger_step, similes, (K_A, A_K), "kl_to_truth")),
        f"{went[0]} ({went[1]})",
        interval(*(100 * value for value in paired(*rates))),
    ]
    assert f"(exploratory, {len(similes_larger_step['records'])} of 10 seeds, no verdict)" in text
    (base, student) = (f"{min(held.values())} to {max(held.values())}" for held in counts)
    assert f"keeps {student} informative pairs where the base has {base}" in text
    hit = {name: per_hit(similes, name) for name in ORDERS}
    assert f"earns {hit[A_K]:.3f} with A-K, {hit[K_A]:.3f} with K-A" in text
    last = {name: stages_of(similes["records"][0], name)[-1] for name in ("base_aligned", K_A)}
    rates = [stage["info"]["learning_rate"] for stage in last.values()]
    assert f"picks {rates[0]} for A-K's base, but {rates[1]} for K-A's student" in text


def test_the_trials_of_similes_and_colours_went_as_far_as_is_said(similes, colours):
    text = section("A third target")
    barred, passed = trial_of(similes, K_A, 0.0006), trial_of(colours, "base_aligned", 0.0006)
    budget = similes["settings"]["kl_budget"]
    assert barred["kl"] > budget > passed["kl"]
    assert f"went {barred['kl']:.1f} nats from its anchor, where the budget is {budget:g}" in text
    assert f"passed it with {passed['kl']:.2f}" in text


def test_the_table_of_three_targets_is_that_of_their_runs_at_one_learning_rate(
    larger_step, colours, similes, similes_larger_step
):
    text = section("Three targets at one learning rate")
    runs = {
        "Exclamations": (larger_step, larger_step),
        "Similes": (similes, similes_larger_step),
        "Colours": (colours, colours),
    }
    for a_k, k_a in runs.values():
        for run, name in ((a_k, "base_aligned"), (k_a, K_A)):
            infos = [stages_of(record, name)[-1]["info"] for record in run["records"]]
            assert {info["learning_rate"] for info in infos} == {0.0006}
    assert table("*Share*", text) == {
        label: [
            f"{100 * mean(sampled_rates(a_k, 'base_aligned').values()):.2f}",
            f"{mean(pairs(k_a, K_A).values()):.1f}",
            interval(*over_seeds(k_a, K_A)),
            interval(*over_seeds(a_k, A_K)),
            interval(*across(a_k, k_a, (A_K, K_A))),
        ]
        for label, (a_k, k_a) in runs.items()
    }
    assert {len(run["records"]) for both in runs.values() for run in both} == {10}
    assert "(exploratory, 10 seeds each, no verdict)" in text
    counts = [f"{mean(pairs(k_a, K_A).values()):.0f}" for _, k_a in runs.values()]
    for said in (text, README):
        assert f"{counts[0]}, {counts[1]} and {counts[2]} pairs" in said
    apart = [across(first, second, (K_A, K_A)) for (_, first), (_, second) in itertools.combinations(runs.values(), 2)]
    assert all(found.low < 0 < found.high for found in apart)  # "K-A's rewards are not told apart"
    assert f"the largest difference is {interval(*max(apart, key=lambda found: abs(found.estimate)))}" in text
    beside = [across(larger_step, other, (A_K, A_K)) for other in (similes, colours)]
    assert all(found.low > 0 for found in beside)  # "A-K earns more with exclamations"
    level = across(similes, colours, (A_K, A_K))
    assert level.low < 0 < level.high
    words = "by {} than with similes and {} than with colours; these two are not told apart, by {}"
    assert words.format(*(interval(*found) for found in (*beside, level))) in text
    rate = {
        (label, name): f"{100 * mean(by_seed(run, name, 'target_rate').values()):.1f}"
        for label, (a_k, k_a) in runs.items()
        for run, name in ((a_k, "base_aligned"), (a_k, A_K), (k_a, K_A))
    }
    of = {name: [rate[label, name] for label in runs] for name in ("base_aligned", A_K, K_A)}
    assert f"exclaims in {of['base_aligned'][0]} % of its responses, and K-A in {of[K_A][0]} %" in text
    for place, words in ((1, "similes come to"), (2, "colours to")):
        assert f"{words} {of['base_aligned'][place]} and {of[K_A][place]} %" in text
    assert f"({of[A_K][0]}, {of[A_K][1]} and {of[A_K][2]} %)" in text
    kept = [t_interval([of / pairs(a_k, "base_aligned")[seed] for seed, of in pairs(k_a, K_A).items()])
            for a_k, k_a in runs.values()]  # fmt: skip
    words = "keeps {} of the base's pairs of exclamations, {} of similes, {} of colours"
    assert words.format(*(interval(*share) for share in kept)) in text
    of = [f"{100 * share.estimate:.0f} %" for share in kept]
    assert f"keeps the smallest part: {of[0]}, of similes {of[1]}, of colours {of[2]}." in README
    assert [across(*both, (A_K, K_A)).low > 0 for both in runs.values()] == [True, False, False]  # "the first alone"
    for a_k, k_a in runs.values():  # "with none is it told to be likelier"
        assert across(a_k, k_a, (A_K, K_A), "overall_precision").low < 0
        assert across(a_k, k_a, (A_K, K_A), "overall_precision").estimate < 0


def test_what_is_said_of_k_a_with_as_much_compute_is_what_its_records_say(language, larger_step):
    run, text = recorded("equal_compute"), section("K-A with A-K's compute")
    held = run["records"]
    assert f"{len(held)} of 10 seeds" in text
    lead = across(language, run, (A_K, K_A))
    assert lead.low > 0  # "A-K still earns more"
    main = difference(language, A_K, K_A)
    assert 0.33 < lead.estimate / main.estimate < 0.4  # "little more than a third of the lead"
    for told in (interval(*over_seeds(run, K_A)), f"from {main.estimate:.3f} to {interval(*lead)}"):
        assert told in README
    wins = sum(value > 0 for value in leads(language, run).values())
    assert f"above zero in {NUMBERS[wins]} of ten seeds" in text
    went = [row_of(found, K_A)["numbers"][HEADS.index("KL after") - 1] for found in (run, language)]
    assert INTERVAL.findall(text) == [
        interval(*over_seeds(run, K_A)),
        interval(*across(run, language, (K_A, K_A))),
        interval(*lead),
        interval(*(100 * value for value in across(language, run, (A_K, K_A), "target_rate"))),
        *(f"{mean} ({span})" for mean, span in went),
        interval(*across(language, run, (A_K, K_A), "overall_recall")),
        interval(*across(run, language, (K_A, A_K), "kl_to_truth")),
        interval(*across(larger_step, run, (A_K, K_A))),
    ]
    base = row_of(language, "base_aligned")["numbers"][HEADS.index("KL after") - 1][0]
    assert float(went[0][0]) == pytest.approx(float(base), rel=0.05)  # "as far as A-K's base"
    counts = [pairs(found, K_A).values() for found in (run, language)]
    assert f"from {min(counts[0])} to {max(counts[0])} informative pairs" in text
    assert f"from {min(counts[1])} to {max(counts[1])}. It pays" in text
    assert {stages_of(record, K_A)[-1]["info"]["learning_rate"] for record in held} == {0.0003}
    more, usual = (plan.settings_of(plan.ARMS[arm].cells[0]) for arm in ("equal_compute", "main"))
    words = "{} samples a prompt and {} steps for {} of each"
    assert words.format(more.preference_responses, more.align_steps, usual.align_steps) in text
    assert usual.align_steps == usual.preference_responses


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
