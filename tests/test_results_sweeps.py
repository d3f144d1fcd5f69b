"""What RESULTS.md says of the sweeps with three seeds a value is what the records say."""

import pytest
from results_text import INTERVAL, NUMBERS, README, alignments, recorded, section, signs_of, table, written

from alignkd_lab.lm import plan
from alignkd_lab.metrics import A_K, K_A, t_interval
from alignkd_lab.pipelines import ORDERS
from alignkd_lab.report.evidence import across, difference, leads, pairs
from alignkd_lab.report.evidence import mean as over_seeds
from alignkd_lab.runs import summarise_run
from alignkd_lab.style import interval


def of_three(run):
    """A run cut to the seeds of a sweep."""
    return {**run, "records": [record for record in run["records"] if record["seed"] in plan.SWEEP_SEEDS]}


@pytest.fixture(scope="module")
def slow():
    """The main experiment, where the rule gives both orders 0.0003."""
    return of_three(recorded("main"))


@pytest.fixture(scope="module")
def fast():
    """Both orders at 0.0006."""
    return of_three(recorded("learning_rate_both"))


def learning_rate(run, name):
    (rate,) = {info["learning_rate"] for info in alignments(run, name)}
    return rate


def row(run):
    """Reward and target rate of the aligned base, both orders' rewards and their difference, both target rates."""
    pipelines = summarise_run(run)["pipelines"]
    rewards, rates = (
        {name: written(pipelines[name][metric], metric) for name in ("base_aligned", K_A, A_K)}
        for metric in ("reward", "target_rate")
    )
    return [
        rewards["base_aligned"], rates["base_aligned"], rewards[K_A], rewards[A_K],
        interval(*difference(run, A_K, K_A)), rates[K_A], rates[A_K],
    ]  # fmt: skip


def decided(run):
    """The corrected differences of the registered signs that hold or fail, by their words."""
    return {words: told for words, (told, *_, verdict) in signs_of(run).items() if verdict in ("holds", "fails")}


def points(found):
    return interval(*(100 * value for value in found))


def test_what_is_said_of_flipped_labels_is_what_the_records_say(slow, fast):
    text, cells = section("Flipped labels"), plan.ARMS["dpo_label_noise"].cells
    few, many = (recorded("dpo_label_noise", cell.value) for cell in cells)
    assert [run["settings"]["dpo_label_noise"] for run in (few, many)] == [0.1, 0.3]
    held = ", ".join(f"{len(run['records'])} of {len(plan.SWEEP_SEEDS)}" for run in (few, many))
    assert f"({held})" in text
    labelled = {("none", 0.0003): slow, ("none", 0.0006): fast, ("10 %", 0.0003): few, ("30 %", 0.0006): many}
    for (_, rate), run in labelled.items():
        assert {learning_rate(run, name) for name in ("base_aligned", K_A)} == {rate}
    assert table("with true labels stand there at both rates", text) == {
        f"{labels}, {rate}": row(run) for (labels, rate), run in labelled.items()
    }
    costs = {}
    for true, noisy in ((slow, few), (fast, many)):
        costs[noisy["settings"]["dpo_label_noise"]] = [
            points(across(true, noisy, ("base_aligned", "base_aligned"), "target_rate")),
            *(interval(*across(true, noisy, (name, name))) for name in ("base_aligned", K_A, A_K)),
        ]
    told = [difference(run, A_K, K_A) for run in (few, many)]
    assert all(lead.low < 0 < lead.high for lead in told)  # "three seeds do not tell"
    assert INTERVAL.findall(text.partition("\n- ")[2]) == [
        *costs[0.1],
        *costs[0.3],
        *(interval(*lead) for lead in told),
    ]
    for name in ("base_aligned", K_A, A_K):  # "no reward that three seeds could tell"
        assert across(slow, few, (name, name)).low < 0
    rates = [over_seeds(run, "base_aligned", "target_rate").estimate for run in (few, slow)]
    assert 2 / 3 < rates[0] / rates[1] < 0.72  # "nearly a third of its target rate"
    for run in (few, many):
        own, base = ({*pairs(run, name).values()} for name in (K_A, "base_aligned"))
        assert f"K-A learns from {min(own)} to {max(own)} informative pairs here" in text
        assert f"the base has {min(base)} to {max(base)}." in text
    for order in ORDERS:  # README: "both orders lose most of their reward"
        assert over_seeds(many, order).estimate < over_seeds(fast, order).estimate / 2


def test_what_is_said_of_the_kl_weight_is_what_the_records_say(slow):
    text = section("The KL weight")
    by_value = {"0.03": recorded("beta", "0.03"), "0.1": slow, "0.3": recorded("beta", "0.3")}
    assert [run["settings"]["beta"] for run in by_value.values()] == [float(value) for value in by_value]
    small, _, large = by_value.values()
    held = ", ".join(f"{len(run['records'])} of {len(plan.SWEEP_SEEDS)}" for run in (small, large))
    assert f"({held})" in text
    assert table("that rate stayed within the KL budget of its one trial", text) == {
        value: [f"{learning_rate(run, K_A):g}", *row(run)] for value, run in by_value.items()
    }
    assert {learning_rate(run, "base_aligned") for run in by_value.values()} == {0.0003}
    (trial,) = [found for found in alignments(large, K_A)[0]["trials"] if found["learning_rate"] == 0.0006]
    assert trial["kl"] <= large["settings"]["kl_budget"]
    went = [
        t_interval([info["curve"][-1]["kl"] for info in alignments(run, "base_aligned")]) for run in by_value.values()
    ]
    told = [difference(run, A_K, K_A) for run in by_value.values()]
    assert all(lead.low < 0 < lead.high for lead in told)  # "three seeds do not tell at any β"
    assert INTERVAL.findall(text.partition("\n- ")[2]) == [
        *(interval(*found) for found in went),
        *(interval(*across(small, large, (name, name))) for name in ("base_aligned", A_K)),
        *(interval(*lead) for lead in told),
        decided(small)["A-K is more precise overall"],
    ]
    assert [list(decided(run)) for run in (small, large)] == [["A-K is more precise overall"], []]
    assert f"A-K's overall precision fails, by {decided(small)['A-K is more precise overall']}" in text
    wins = sum(value > 0 for run in by_value.values() for value in leads(run).values())
    assert f"above zero in {NUMBERS[wins]} of {NUMBERS[9]} seeds" in text
    assert min(told, key=lambda lead: lead.estimate) == told[2]  # "The mean is the smallest at 0.3"


def test_what_is_said_of_twice_the_samples_is_what_the_records_say(slow):
    text, more = section("Twice the samples"), recorded("preference_responses", "doubled")
    assert recorded("preference_responses", "halved") is None  # "Halved samples were not run."
    assert f"({len(more['records'])} of {len(plan.SWEEP_SEEDS)})" in text
    drawn = [run["settings"]["preference_responses"] for run in (slow, more)]
    assert f"{drawn[1]} samples a prompt and not {drawn[0]}" in text
    assert {learning_rate(run, name) for run in (slow, more) for name in ("base_aligned", K_A)} == {0.0003}

    def counts(run):
        return ", ".join("{} to {}".format(*_ends(pairs(run, name).values())) for name in ("base_aligned", K_A))

    assert table("Halved samples were not run.", text) == {
        f"{96 * each:,}": [counts(run), *row(run)] for each, run in zip(drawn, (slow, more), strict=True)
    }
    lead, gains = difference(more, A_K, K_A), [across(more, slow, (name, name)) for name in (K_A, A_K)]
    beside = across(slow, more, (A_K, K_A))
    third = across(recorded("equal_compute"), recorded("main"), (K_A, K_A))
    assert lead.low > 0  # "A-K leads, and three seeds tell it"
    assert all(found.low < 0 < found.high for found in (*gains, beside))  # "not told"
    assert gains[0].high > third.estimate  # "three seeds do not rule such a gain out"
    assert min(leads(more).values()) > 0  # "above zero in each"
    assert signs_of(more)["A-K earns more reward"][-1] == "holds"
    assert len(decided(more)) == 1  # "the other three are undecided"
    assert min(leads(slow, more).values()) > 0  # "it earns more in each seed"
    own = [sum(pairs(run, K_A).values()) for run in (slow, more)]
    assert own[1] > 2 * own[0]  # "more than twice the pairs"
    assert INTERVAL.findall(text.partition("\n- ")[2]) == [
        interval(*lead), decided(more)["A-K earns more reward"], points(difference(more, A_K, K_A, "target_rate")),
        *(interval(*found) for found in (*gains, beside, third)),
    ]  # fmt: skip
    went = [_ends([info["curve"][-1]["kl"] for info in alignments(run, K_A)]) for run in (more, slow)]
    (least, most), (fewer_least, fewer_most) = went
    assert (
        f"it ends {least:.2f} to {most:.2f} nats from its anchor here, and {fewer_least:.2f} to {fewer_most:.2f}"
        in text
    )


def _ends(values):
    return min(values), max(values)


def test_the_readme_says_of_the_sweeps_what_the_records_say():
    (told,) = [line for line in README.splitlines() if line.startswith("- *In sweeps of three seeds*")]
    assert INTERVAL.findall(told) == [interval(*difference(recorded("preference_responses", "doubled"), A_K, K_A))]
    small, large = plan.ARMS["beta"].cells
    assert f"β ({small.value} to {large.value};" in told
