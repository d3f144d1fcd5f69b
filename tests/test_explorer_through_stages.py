"""One prompt through every stage of both orders: what is drawn is what the run kept."""

import itertools

import pytest
from scene import Scene
from synthetic_records import lm_record, tabulated

from alignkd_lab.course.explorers import through_stages
from alignkd_lab.course.explorers.through_stages import MARKED, STAGES, texts
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K
from alignkd_lab.plots.style import pipeline_style

RUN = recorded_smollm2()
KEPT = RUN.responses[RUN.responses["seed"] == 0]


def answer(pipeline, prompt):
    return KEPT[(KEPT["pipeline"] == pipeline) & (KEPT["prompt"] == prompt)].iloc[0]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_text_reward_and_squares_are_those_that_each_pipeline_kept(stage):
    chart = through_stages.show(stage=stage)
    (chosen,) = next(param["value"] for param in chart.spec["params"] if param["name"] == "at")
    prompt = texts(RUN)["prompts"][chosen["prompt"] - 1]
    scene = Scene(chart)
    words = " ".join(scene.words.replace("\u00a0", " ").split())
    assert f"Prompt {chosen['prompt']}: {prompt}" in words
    squares = scene.places("symbol")
    for (order, stages), drawn in zip(STAGES.items(), squares, strict=True):
        kept = answer(stages[stage], prompt)
        assert " ".join(kept["response"].split()) in words
        assert (f"on target, reward {kept['reward']:.2f}" if kept["target"] else "off target, reward 0") in words
        hits = KEPT[KEPT["pipeline"] == stages[stage]]["target"]
        colour = pipeline_style(order).colour.lower()
        assert [square["fill"].lower() == colour for square in drawn] == hits.tolist()
        assert f"{hits.sum()} of {len(hits)} on target" in words


def test_it_begins_where_the_orders_part_and_marks_what_is_the_target():
    held = texts(RUN)
    (chosen,) = next(p["value"] for p in through_stages.show().spec["params"] if p["name"] == "at")
    hits = [[answer(order, prompt)["target"] for prompt in held["prompts"][: chosen["prompt"]]] for order in STAGES]
    assert [not k_a and a_k for k_a, a_k in zip(*hits, strict=True)] == [False] * (chosen["prompt"] - 1) + [True]
    for order in range(2):
        columns = (itertools.chain.from_iterable(held[name][order]) for name in ("said", "marks", "hits"))
        for said, marks, hit in zip(*columns, strict=True):
            drawn = [line.strip().removeprefix("\u200b") for line in marks]  # Vega strips lines so, too
            red = " ".join(drawn).replace("\u00a0", " ").split()
            for line, mark in zip(said, drawn, strict=True):
                assert all(sign in ("\u00a0", letter) for sign, letter in zip(mark, line, strict=False))
            assert red == [word for word in " ".join(said).split() if "!" in word]
            assert bool(red) == bool(hit)
    fills = [mark["items"][0].get("fill") for mark in Scene(through_stages.show(stage=2)).marks if mark["items"]]
    assert fills.count(MARKED) == 2
    assert "in red" not in Scene(through_stages.show(tabulated(lm_record(3)), "live")).words  # a target that is no word


def test_a_run_without_one_of_the_stages_is_refused_with_its_name():
    record = lm_record(0)
    del record["pipelines"][A_K]
    with pytest.raises(BadInput, match=A_K):
        through_stages.show(tabulated(record), "live")
