"""Answers to the questions that reviewers of Order asked and to those of the plan, in sentences made from the records.

Intervals here are 95 %, paired by seed, and not corrected: the registered signs are decided elsewhere. An answer of the
language world that lacks seeds says so and concludes nothing; one without any record says *not run*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import NamedTuple

from alignkd_lab.checks import failed_check, run_checks
from alignkd_lab.costs import TOKENS, cost, stages_of, typical_cost
from alignkd_lab.mog.world import ALGORITHMS
from alignkd_lab.pipelines import A_K, K_A, ORDERS
from alignkd_lab.plots.style import interval, number, pipeline_style
from alignkd_lab.report.evidence import (
    NOT_RUN,
    Evidence,
    Place,
    across,
    complete,
    difference,
    mean,
    paired,
    pairs,
    sampled_rates,
    why_not,
)
from alignkd_lab.report.phrases import more_or_less, on_gaussians, points, short, span, with_doubt
from alignkd_lab.report.tables import FEW_SEEDS
from alignkd_lab.runs import summarise_run
from alignkd_lab.stats import t_interval
from alignkd_lab.study import gaussians as mog_study
from alignkd_lab.study import plan


class Answer(NamedTuple):
    """A question, and what each world's records answer: `lines` are (where, sentence)."""

    question: str
    lines: list[tuple[str, str]]


def answers(evidence: Evidence) -> list[Answer]:
    """Every question with its answers, those of PAPERS' reviewers first."""
    return [Answer(question, list(lines(evidence))) for question, lines in _QUESTIONS.items()]


def _control(name: str) -> Callable[[Evidence], Iterator[tuple[str, str]]]:
    def lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
        for algorithm in ALGORITHMS if evidence.gaussians else ():
            main = evidence.gaussian(algorithm)
            if mean(main.run, name):
                yield f"{on_gaussians(algorithm)}, main setting", _beside_orders(main.run, name)
                yield f"{on_gaussians(algorithm)}, registered settings", _over_settings(evidence, algorithm, name)
        for place in evidence.places:
            yield from _language(place, "controls", lambda run: _beside_orders(run, name))

    return lines


def _over_settings(evidence: Evidence, algorithm: str, name: str) -> str:
    """In how many valid settings a control earns more or less than either order, and where the furthest."""
    held = [setting for setting in evidence.distinct(algorithm) if setting.valid]
    told = []
    for order, signs in ((K_A, (1, -1)), (A_K, (1,))):
        gaps = [(difference(setting.run, name, order), setting) for setting in held]
        for sign in signs:
            apart = [found for found in gaps if (found[0].low > 0 if sign > 0 else found[0].high < 0)]
            words = f"{'more' if sign > 0 else 'less'} than {short(order)} in {len(apart)} of {len(held)}"
            if apart:
                gap, setting = max(apart, key=lambda found: sign * found[0].estimate)
                words += f", furthest {interval(*gap)} at {mog_study.ARMS[setting.arm].label} {setting.value:g}"
            told.append(words)
    return "; ".join(told)


def _beside_orders(run: Mapping, name: str) -> str:
    """A pipeline's reward beside that of both orders, and its differences from them."""
    told = [f"{short(name)} earns {span(mean(run, name))}"]
    for order in ORDERS:
        gap = difference(run, name, order)
        told += [f"{more_or_less(gap)} {short(order)} ({span(mean(run, order))})"] if gap else []
    return "; ".join(told)


def _by_arm(gaussian: Sequence[str], *language: str) -> Callable[[Evidence], Iterator[tuple[str, str]]]:
    """At which values of a setting which order earns more, arm by arm."""

    def lines(evidence: Evidence) -> Iterator[tuple[str, str]]:
        for arm, algorithm in product(gaussian, ALGORITHMS):
            held = [held for held in evidence.settings if (held.arm, held.algorithm) == (arm, algorithm)]
            if held:
                exploratory = arm in mog_study.EXPLORATORY
                leads = _leads({f"{found.value:g}": found.run for found in held}, exploratory)
                yield on_gaussians(algorithm), f"{mog_study.ARMS[arm].label}: {leads}"
        for place, arm in product(evidence.places, language):
            yield from _language_arm(place, arm)

    return lines


def _language_arm(place: Place, arm: str) -> Iterator[tuple[str, str]]:
    runs = place.by_value(arm)
    done = {cell.value: run for cell, run in runs.items() if complete(run, cell)}
    told = [_leads(done, arm in plan.EXPLORATORY)] if done else []
    for cell, run in runs.items():
        if not complete(run, cell):
            told.append(f"{cell.value}: {why_not(run, cell)}")
    yield f"{place.words}, {plan.ARMS[arm].label}", "; ".join(told) or NOT_RUN


def _leads(runs: Mapping[str, Mapping], exploratory: bool) -> str:
    """By how much A-K earns more at each value; with the verdicts where there are any."""
    if not exploratory:
        return _who_leads({value: summarise_run(run) for value, run in runs.items()})
    valid = {value: run for value, run in runs.items() if not failed_check(run_checks(run))}
    found = [f"{interval(*difference(run, A_K, K_A))} at {value}" for value, run in valid.items()]
    return f"the lead of A-K is {', '.join(found)}" if found else "no check passed"


def _who_leads(summaries: Mapping[str, Mapping]) -> str:
    """Which order earns more at which value, and how far the lead goes where the checks passed."""
    words = {"holds": "A-K earns more at", "fails": "K-A earns more at", "undecided": "undecided at"}
    words["invalid"] = "no verdict at"
    rewards = {name: summary["claims"][0] for name, summary in summaries.items()}
    found = {name: claim["verdict"] for name, claim in rewards.items()}
    parts = [
        f"{text} {', '.join(name for name, verdict in found.items() if verdict == kind)}"
        for kind, text in words.items()
        if kind in found.values()
    ]
    valid = {name: claim for name, claim in rewards.items() if claim["verdict"] != "invalid"}
    if not valid:
        return parts[0]
    leads = {name: interval(claim["difference"], claim["low"], claim["high"]) for name, claim in valid.items()}
    low, high = (pick(valid, key=lambda name: valid[name]["difference"]) for pick in (min, max))
    if low == high:
        return f"{parts[0]} (by {leads[low]})"
    course = f"the lead of A-K goes from {leads[low]} at {low} to {leads[high]} at {high}"
    return f"{'; '.join(parts)}; {course}"


def _by_temperature(evidence: Evidence) -> Iterator[tuple[str, str]]:
    yield from _by_arm(("sharpening",), "kd_temperature", "plain_kd")(evidence)
    for place in evidence.places:
        yield from _one_rate(place)


def _one_rate(place: Place) -> Iterator[tuple[str, str]]:
    """Who leads where one order has another learning rate than the rule gave it, beside the cell of both orders."""
    for cell in plan.ARMS["plain_kd_rate"].cells:
        partner = plan.partner(cell)
        where = f"{place.words}, distilled at temperature {partner.value}, {cell.value} for both (exploratory)"
        held = place.orders(cell)
        if held is None:
            yield where, why_not(place.run(cell), cell) or why_not(place.run(partner), partner)
        else:
            earned = [
                f"{short(order)} earns {span(mean(run, order))}" for order, run in zip((A_K, K_A), held, strict=True)
            ]
            shown = points(across(*held, (A_K, K_A), "target_rate"))
            lead = f"A-K: {more_or_less(across(*held, (A_K, K_A)))} K-A"
            yield where, f"{', '.join(earned)}; {lead}; target rate of A-K minus K-A: {shown}"


def _recall_by_temperature(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        runs = evidence.gaussians.runs("sharpening", algorithm)
        told = [f"{number(mean(run, A_K, 'overall_recall').estimate)} at s = {s:g}" for s, run in sorted(runs.items())]
        gap = across(runs[min(runs)], runs[max(runs)], (A_K, A_K), "overall_recall")
        rises = f"the hottest teacher (smallest s) gives {more_or_less(gap)} the sharpest one"
        yield on_gaussians(algorithm), f"overall recall of A-K: {', '.join(told)}; {rises}"
    for place in evidence.places:
        runs = {cell.value: run for cell, run in place.by_value("kd_temperature").items() if complete(run, cell)}
        told = [f"{interval(*mean(run, A_K, 'overall_recall'))} at {value}" for value, run in runs.items()]
        if len(told) < 2:
            yield place.words, NOT_RUN
            continue
        (cold, *_, hot), values = runs.values(), [*runs]
        gap = more_or_less(across(hot, cold, (A_K, A_K), "overall_recall"))
        compared = f"A-K at temperature {values[-1]} has {gap} at {values[0]}, over the seeds that both have"
        yield place.words, f"overall recall of A-K by temperature: {', '.join(told)}; {compared}"


def _compute(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for place in evidence.places:
        run = place.main()
        if run is not None:
            cell, costs = plan.ARMS["main"].cells[0], {order: typical_cost(run, order) for order in ORDERS}
            told = [
                f"{short(order)} {found.seconds / 60:.1f} minutes a seed, "
                + ", ".join(f"{round(found.tokens[kind]):,} tokens {kind}" for kind in TOKENS)
                for order, found in costs.items()
            ]
            held = [{order: cost(record, order).seconds for order in ORDERS} for record in run["records"]]
            ratio = interval(*t_interval([seconds[A_K] / seconds[K_A] for seconds in held]))
            own = run["settings"]["base"] == run["settings"]["truth"]
            note = "nothing that the base writes has to be read again for the reward, since it is the truth here"
            told = f"{'; '.join(told)}: A-K takes {ratio} times as long" + own * f" ({note})" + _all_read(run)
            yield place.words, with_doubt(why_not(run, cell), told)
        yield from _beside_a_k(place, "equal_compute", "with A-K's compute")


def _all_read(run: Mapping) -> str:
    """Seeds timed while the truth read every response that K-A's pairs were made of, if there are any."""
    spent = [stages_of(record, K_A)[-1]["tokens"] for record in run["records"]]
    older = sum(tokens["scored"] >= tokens["sampled"] for tokens in spent)
    if not older:
        return ""
    return (
        f"; in {older} of {len(spent)} seeds the truth read all of K-A's preference samples for their reward, two to "
        "three minutes that later code, which reads only those on target, saves"
    )


def _beside_a_k(place: Place, arm: str, words: str) -> Iterator[tuple[str, str]]:
    """The pipelines of an arm against A-K at the registered settings; `words` may hold a cell's `{value}`."""
    cells = [(cell, place.run(cell), name) for cell in plan.ARMS[arm].cells for name in cell.pipelines]
    for cell, run, name in cells:
        main = place.run(plan.registered(cell))
        where, own = f"{place.words}, {short(name)} {words.format(value=cell.value)}", mean(run, name) if run else None
        gap = across(main, run, (A_K, name)) if own and main else None
        if own is None:
            yield where, NOT_RUN
        elif gap is None:
            yield where, f"it earns {span(own)}; no seed of A-K beside it yet"
        else:
            told = f"it earns {span(own)}; A-K: {more_or_less(gap)} that"
            if gap.low <= 0 <= gap.high and len(cell.seeds) < FEW_SEEDS:
                told += f" ({len(cell.seeds)} seeds, which tell little)"
            yield where, with_doubt(why_not(main, plan.registered(cell)) or why_not(run, cell), told)


def _clipped(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """By target rate: a cut reward is another scale, on which rewards cannot be compared."""
    for algorithm in ALGORITHMS:
        held = [held for held in evidence.settings if (held.arm, held.algorithm) == ("reward_clip", algorithm)]
        told = []
        for found in held:
            rates = [
                interval(*(100 * value for value in mean(found.run, order, "target_rate"))) for order in (A_K, K_A)
            ]
            told.append(f"cut at {found.value:g}, {rates[0]} % for A-K and {rates[1]} % for K-A")
        if told:
            yield on_gaussians(algorithm), f"target rate (exploratory, the top is 4): {'; '.join(told)}"
    yield "SmolLM2", f"{NOT_RUN}: its reward lies between 0 and 1 by construction"


def _tuning(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for place in evidence.places:
        for cell in (cell for arm in ("main", "targets") for cell in plan.ARMS[arm].cells):
            if run := place.run(cell):
                yield from _trials(place, run)
        yield from _beside_a_k(place, "learning_rate", "at {value}, whatever its KL (exploratory)")
        yield from _language_arm(place, "learning_rate_both")


def _trials(place: Place, run: Mapping) -> Iterator[tuple[str, str]]:
    """What each learning rate earned that was tried for a run, and which was taken."""
    for role, name in (("base, for A-K", "base_aligned"), ("distilled student, for K-A", K_A)):
        info = stages_of(run["records"][0], name)[-1]["info"]
        if not info.get("trials"):
            continue
        tried = [
            f"{trial['learning_rate']:g} earned {number(trial['reward'])} at a KL of {number(trial['kl'])}"
            for trial in info["trials"]
        ]
        allowed = run["settings"]["kl_budget"]
        if any(trial["kl"] <= allowed for trial in info["trials"]):
            budget = f"the best within a KL of {allowed:g} nats a response was taken"
        else:
            budget = f"none stayed within a KL of {allowed:g} nats a response, so the one that went least far was taken"
        won = next(trial for trial in info["trials"] if trial["learning_rate"] == info["learning_rate"])
        doubt = ", which earned nothing: formally as well tuned, in practice hardly" if not won["reward"] else ""
        told = f"{'; '.join(tried)}; {budget}, {info['learning_rate']:g}{doubt}"
        yield f"{place.words}, {run['target']}, {role}", told


def _methods(evidence: Evidence) -> Iterator[tuple[str, str]]:
    names = plan.ARMS["methods"].cells[0].pipelines
    for place in evidence.places:
        for name in names:
            yield from (
                (f"{where}, {pipeline_style(name).label}", told)
                for where, told in _language(place, "methods", lambda run, name=name: _beside_orders(run, name))
            )
        yield from _beside_a_k(place, "gamma", "at γ = {value} (exploratory)")


def _mechanism(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for algorithm in ALGORITHMS if evidence.gaussians else ():
        yield on_gaussians(algorithm), _pruned(evidence.gaussian(algorithm).run)
    for place in evidence.places:
        yield from _language(place, "main", _pruned)


def _pruned(run: Mapping) -> str:
    """What distillation did to the target, and what was left to learn from."""
    before, after = (mean(run, name, "target_rate") for name in ("base", "kd_only"))
    told = (
        f"distilling takes the target's rate in test responses from {number(100 * before.estimate)} % to "
        f"{number(100 * after.estimate)} %, a change of {points(difference(run, 'kd_only', 'base', 'target_rate'))}"
    )
    base, student, healed = (pairs(run, name) for name in ("base_aligned", K_A, "align_student_only"))
    if base and student:
        told += (
            f"; informative pairs: {min(base.values())} to {max(base.values())} a seed at the base, "
            f"{min(student.values())} to {max(student.values())} at the distilled student, a change of "
            f"{span(paired(student, base))}"
        )
    if healed and student:
        told += (
            f", of which distilling alone makes {span(paired(student, healed))}: the small student before it has "
            f"{min(healed.values())} to {max(healed.values())}"
        )
    base, student = sampled_rates(run, "base_aligned"), sampled_rates(run, K_A)
    if base and student:
        shares = [100 * fmean(rates.values()) for rates in (base, student)]
        told += (
            f"; in the many more samples that pairs are made of, {number(shares[0])} % and {number(shares[1])} %, a "
            f"change of {points(paired(student, base))}"
        )
    return told


def _parts_of_the_lead(evidence: Evidence) -> Iterator[tuple[str, str]]:
    """How often the target is shown in every setting, and the two parts of overall precision, A-K minus K-A."""
    for place in evidence.places:
        compared = [(cell, held) for cell in plan.cells() if (held := place.orders(cell))]
        for cell, held in compared:
            rate, *parts = (across(*held, (A_K, K_A), metric) for metric in ("target_rate", "entropy", "kl_to_truth"))
            entropy, kl = map(span, parts)
            told = f"target rate {points(rate)}, entropy {entropy} and KL to the truth {kl} nats a token"
            yield f"{place.words}, {plan.ARMS[cell.arm].label}: {cell.value}", told
        if not compared:
            yield place.words, NOT_RUN


def _second_rule(evidence: Evidence) -> Iterator[tuple[str, str]]:
    for place in evidence.places:
        yield from _language(place, "main", _beyond_reward)


def _beyond_reward(run: Mapping) -> str:
    told = []
    for name in ("base_aligned", *ORDERS):
        gap = difference(run, name, "base", "second_rule_rate")
        if gap:
            told.append(f"{short(name)} {points(gap)}")
    return f"second rule, beyond the base: {'; '.join(told)}" if told else "the records hold no second rule"


def _language(place: Place, arm: str, tell: Callable[[Mapping], str]) -> Iterator[tuple[str, str]]:
    """A sentence on the one cell of an arm at the main settings."""
    cell = plan.ARMS[arm].cells[0]
    run = place.run(cell)
    yield place.words, NOT_RUN if run is None else with_doubt(why_not(run, cell), tell(run))


_QUESTIONS: dict[str, Callable[[Evidence], Iterator[tuple[str, str]]]] = {
    "Is K-A repaired by anchoring it to the reference from before distillation?": _control(
        "kd_then_align_base_reference"
    ),
    "Is K-A repaired by preferences from the base?": _control("kd_then_align_base_preferences"),
    "Is K-A repaired by distilling at a higher temperature?": _control("kd_then_align_high_temperature"),
    "Does A-K's recall rise with the temperature of distillation?": _recall_by_temperature,
    "Which order wins by temperature?": _by_temperature,
    "A target made of two modes? (As registered the second takes the place of a common mode. The exploratory arms "
    "change one number of modes, and with it how many components the student, with three, is short of.)": _by_arm(
        ("targets", "second_target", "common_modes")
    ),
    "Noisy preferences?": _by_arm(("dpo_label_noise",), "dpo_label_noise"),
    "What does each order cost, and what if K-A may spend as much?": _compute,
    "Was K-A tuned as well as A-K?": _tuning,
    "Clipped against unclipped reward?": _clipped,
    "How rare must the target be?": _by_arm(("target_weight",), "targets"),
    "How much does the KL weight matter?": _by_arm(("beta",), "beta"),
    "Does a larger student make the order irrelevant?": _by_arm(("student_components",), "student_layers"),
    "Do more preference samples repair K-A?": _by_arm((), "preference_responses"),
    "Does the order matter under RLHF on text?": _by_arm((), "rlhf"),
    "Is it lost recall?": _mechanism,
    "Is A-K's lead the target, or how likely its text is? (A-K minus K-A. Overall precision is minus entropy minus KL "
    "to the truth, and the reward pays likelihood under the truth, so either costs.)": _parts_of_the_lead,
    "What about methods that align and distil at once?": _methods,
    "Did the policy grasp the meaning, or the sign alone?": _second_rule,
}
