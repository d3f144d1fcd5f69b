"""Experiment 2 of the plan's second part: targets, blocks, and both orders for three students on tiny models."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from alignkd_lab import records
from alignkd_lab.errors import BadInput
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.settings import BUILT_IN
from alignkd_lab.rerun import compare, rerun
from alignkd_lab.study import lead
from alignkd_lab.study.fair_run import Experiment
from alignkd_lab.study.families import leads
from alignkd_lab.study.lab import Over
from alignkd_lab.study.lead import PER_STRATUM, STRATA, Sizes, blocks, candidates, draw_targets, logit, rule, run

SMALL = Sizes(
    preference_prompts=4, preference_responses=4, max_tokens=5, align_steps=1, align_batch=2, distil_prompts=4,
    distil_responses=2, test_prompts=4, start_responses=2, screening_prompts=4, screening_responses=2, lora_rank=2,
)  # fmt: skip
TINY = {"base": "tiny-base", "dtype": "float32", "students": {"healed": "tiny-student", BUILT_IN: "tiny-base"}}


def test_a_set_asks_for_one_of_its_words_and_a_conjunction_for_each_and_what_one_topic_holds_is_no_candidate():
    either, both = rule("sun|moon"), rule("light&night")
    assert either("The Moon rose.") and not either("moonlight")  # noqa: PT018
    assert both("Light at night") and not both("night alone")  # noqa: PT018
    assert rule("it's")("It’s late") and not rule("sun")("the sun's light")  # noqa: PT018
    texts, topics = ["the sea calls"] * 3 + ["a quiet hill"] * 97, [0] * 3 + [at % 8 for at in range(97)]
    found = candidates(texts + ["warm rain and warm wind"] * 6, topics + list(range(6)), np.random.default_rng(0))
    assert "sea" not in found
    assert "rain" in found
    assert "hill&quiet" in found
    # Either tree in every topic, both of them in one alone.
    texts += ["oak elm"] * 4 + ["oak"] * 14 + ["elm"] * 14
    topics += [0] * 4 + [1 + at % 7 for at in range(28)]
    found = candidates(texts + ["warm rain and warm wind"] * 6, topics + list(range(6)), np.random.default_rng(0))
    assert {"oak", "elm"} <= set(found)
    assert "elm&oak" not in found


def test_targets_are_four_a_stratum_two_on_either_side_of_the_median_share_kept():
    generator = np.random.default_rng(2)
    rates = {}
    for at in range(400):
        base = float(np.exp(generator.uniform(np.log(STRATA[0]), np.log(STRATA[-1]))))
        rates[f"w{at}|w{at + 1}" if at % 3 else f"w{at}"] = {"base": base, "healed": base * generator.uniform(0.2, 1.5)}
    targets = draw_targets(rates, np.random.default_rng(1))
    assert Counter(target["stratum"] for target in targets) == dict.fromkeys(range(len(STRATA) - 1), PER_STRATUM)
    assert max(Counter(word for target in targets for word in target["target"].split("|")).values()) == 1
    for target in targets:
        assert STRATA[target["stratum"]] <= target["base"] < STRATA[target["stratum"] + 1]
    with pytest.raises(BadInput, match=r"3 words or sets show in 0\.003 to 0\.006"):
        draw_targets({name: {"base": 0.004, "healed": 0.002} for name in "abc"}, generator)
    kept = [np.log(target["healed"] / target["base"]) for target in targets]
    assert abs(np.corrcoef(kept, [np.log(target["base"]) for target in targets])[0, 1]) < 0.5


def test_every_target_has_two_seeds_and_a_seed_one_of_each_stratum():
    targets = [{"target": f"{stratum}-{at}", "stratum": stratum} for stratum in range(6) for at in range(4)]
    found = list(blocks(targets))
    assert set(Counter(target for _, target in found).values()) == {2}
    for seed in range(8):
        assert sorted(target[0] for at, target in found if at == seed) == list("012345")
    together = Counter(frozenset(t for at, t in found if at == seed) for seed in range(8))
    assert max(together.values()) == 1


def test_neither_a_logit_nor_the_logarithm_of_a_share_is_infinite_where_no_response_shows_the_target():
    assert logit(0, 10) == pytest.approx(np.log(0.5 / 10.5))
    assert logit(5, 10) == 0
    assert np.log(lead._rate(lambda text: False, ["a"] * 9)) == pytest.approx(np.log(0.05))


def test_only_the_plans_seeds_run_and_only_within_the_minutes(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="800001 is not one of the plan's"):
        run(tmp_path, seeds=[0, 800_001])
    monkeypatch.setattr(lead.LeadLab, "__init__", None)  # nothing is begun
    for begin in (partial(run, tmp_path), Experiment(tmp_path).run):
        with pytest.raises(Over):
            begin(lambda: True)
    assert lead.main([str(tmp_path), "--minutes", "-1"]) == 1
    assert not (tmp_path / "targets.json").exists()


def test_a_starts_responses_are_read_once_for_all_targets_of_a_seed(monkeypatch):
    lab, read = object.__new__(lead.LeadLab), []
    lab.sizes, lab._starts, lab.context = SMALL, {}, SimpleNamespace(texts=lambda samples: ["sun", "sea"])
    monkeypatch.setattr(lead.LeadLab, "tested", lambda self, policy, responses: "drawn")
    monkeypatch.setattr(lead.LeadLab, "_beside", lambda self, samples: read.append(samples) or {"entropy": 1.0})
    found = [lab.measure_start(Policy("base"), target)["metrics"] for target in ("sun", "sea|sun")]
    assert [each["target_rate"] for each in found] == [0.5, 1.0]
    assert read == ["drawn"]


def test_the_family_runs_first_then_what_the_placebos_check_reads(tmp_path, monkeypatch):
    class Both:
        def both_orders(self, target, temperature):
            return [(name, None) for name in ("base", "base_aligned", "kd_only")]

    ran = []
    monkeypatch.setattr(lead, "screen", lambda *given, **where: [dict.fromkeys(("base", "healed", "uncut"), 0.1) | {
        "target": "sun", "stratum": 0}])  # fmt: skip
    monkeypatch.setattr(lead, "_lab", lambda *given: Both())
    monkeypatch.setattr(lead.Lab, "record", lambda *given: ran.append(given[3:6]))
    run(tmp_path, seeds=[0, 1])
    assert ran[:6] == [(seed, name, "healed") for seed in (0, 1) for name in ("base", "base_aligned", "kd_only")]
    assert ran[6:10] == [(seed, name, "placebo") for seed in (0, 1) for name in ("base", "kd_only")]


@pytest.mark.slow
def test_the_lead_splits_exactly_and_nothing_is_made_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(lead, "blocks", lambda targets, seeds: [(0, "target")])
    monkeypatch.setattr(lead, "rule", lambda name: lambda text: sum(map(ord, text)) % 2 == 0)
    drawn = {"target": "target", "stratum": 0, "base": 0.01, "healed": 0.004, "uncut": 0.005}
    (tmp_path / "targets.json").write_text(json.dumps([drawn]))
    run(tmp_path, sizes=SMALL, **TINY)
    held = records.load(tmp_path)
    for variant in lead.VARIANTS:
        logits = held.select(variant=variant).table("target_logit").iloc[0]
        alignment = (logits["base_aligned"] - logits["base"]) - (logits["kd_then_align"] - logits["kd_only"])
        distilling = (logits["align_then_kd"] - logits["base_aligned"]) - (logits["kd_only"] - logits["base"])
        assert alignment + distilling == pytest.approx(logits["align_then_kd"] - logits["kd_then_align"])
        assert ("kd_then_align_sharpened" in logits) == (variant != "placebo")
    sharpened = held.metrics[held.metrics["pipeline"] == "kd_then_align_sharpened"].set_index("metric")["value"]
    assert sharpened[["entropy", "kl_to_base"]].isna().all()
    table = leads(held).set_index("variant")
    assert (table["alignment"] + table["distilling"]).to_numpy() == pytest.approx(table["lead"].to_numpy())
    checked = held.metrics[(held.metrics["arm"] != "placebo") | held.metrics["pipeline"].isin(lead.CHECKED)]
    assert leads(replace(held, metrics=checked)).set_index("variant")["distilled_base"].equals(table["distilled_base"])
    assert table["kept"].to_dict() == pytest.approx({"healed": 0.4, "uncut": 0.5, "placebo": 0.5})
    made = rerun(held.select(variant="uncut"), out=tmp_path / "again", again=partial(lead.again, **TINY))
    rows = compare(held.select(variant="uncut"), made)
    assert set(rows["verdict"]) == {"same"}
    assert set(rows["pipeline"]) == set(held.pipelines)
    monkeypatch.setattr(lead.LeadLab, "measure", None)
    run(tmp_path, sizes=SMALL, **TINY)
