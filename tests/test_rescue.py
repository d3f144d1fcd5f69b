"""Rescue K-A: entries are scored on reward and recall, refused where they may not take part, and kept."""

import pytest

from alignkd_lab import course
from alignkd_lab.course.exercises import rescue as challenge
from alignkd_lab.errors import BadInput
from alignkd_lab.mog.world import MogWorld
from alignkd_lab.pipelines import A_K, K_A, PIPELINES, Align, Distil
from alignkd_lab.plots.style import pipeline_style
from alignkd_lab.presets import preset

FLAT = (Align("aligned", "base", "base", "base"), Distil("small", "aligned", temperature="high"))


@pytest.fixture(autouse=True)
def _own_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNKD_ANSWERS", str(tmp_path))
    monkeypatch.setattr(challenge, "out_folder", lambda: tmp_path)


def test_k_a_earns_nothing_a_k_forgets_and_an_entry_that_does_neither_beats_both():
    table = course.rescue(FLAT, "ada")
    k_a, a_k = (table.loc[pipeline_style(name).label] for name in (K_A, A_K))
    assert table.index[0] == "ada"
    assert k_a["reward"] < 0.1 < 3 < a_k["reward"]
    assert a_k["recall"] < -20 < k_a["recall"]
    assert table.loc["ada", "score"] > 1  # as notebook 03 says
    assert max(k_a["score"], a_k["score"]) < 0
    own = table.loc["ada"]
    assert own["score"] == pytest.approx(own["reward"] + 0.5 * own["recall"], abs=0.01)


def test_entries_are_kept_and_the_line_to_share_makes_the_same_entry(capsys):
    first = course.rescue(FLAT, "ada")
    line = capsys.readouterr().out.split(maxsplit=1)[1]
    assert course.rescue().equals(first)
    again = eval(line.replace("'ada'", "'grace'"), {"course": course, "Align": Align, "Distil": Distil})
    assert again.loc["grace"].equals(again.loc["ada"])
    assert "ada" in course.rescue(PIPELINES[K_A], "grace").index
    with pytest.raises(BadInput, match="choose another"):
        course.rescue(FLAT, pipeline_style(K_A).label)


def test_an_entry_that_another_page_keeps_while_one_runs_stays(monkeypatch):
    accept, other = challenge.check, challenge.score(PIPELINES[K_A], "rlhf")

    def meanwhile(*entry):
        challenge.keep_answer("rescue_k_a", {"grace": other})
        return accept(*entry)

    monkeypatch.setattr(challenge, "check", meanwhile)
    assert {"ada", "grace"} <= set(course.rescue(FLAT, "ada").index)


@pytest.mark.parametrize("algorithm", ["rlhf", "dpo"])
def test_the_budget_counts_what_the_stages_train_on(algorithm):
    world = MogWorld(challenge.BOARDS["mog"].settings, algorithm, (0,))
    policies, trained = {"base": world.start("base"), "student": world.start("student")}, 0
    for stage in PIPELINES[K_A]:
        made = world.run(stage, policies)
        policies[stage.name], trained = made.policy, trained + made.cost.trained
    assert challenge.draws(PIPELINES[K_A], algorithm) == trained


def test_an_entry_on_text_stands_beside_our_record_and_not_among_gaussians(monkeypatch, capsys):
    board = challenge.BOARDS["lm"]
    ours = course.rescue(world="lm")
    k_a = ours.loc[pipeline_style(K_A).label]
    assert k_a["draws"] == 96 * 5 + 24 * 6 * 2
    assert k_a["reward"] == pytest.approx(course.recorded_smollm2().table("reward").at[0, K_A], abs=0.005)
    with pytest.raises(BadInput, match=r"1,920 draws, more than the budget of 1,800"):
        course.rescue([Distil(f"s{k}", "base") for k in range(4)], "ada", world="lm")
    monkeypatch.setitem(challenge.BOARDS, "lm", board._replace(settings=preset("tiny").lm))
    table = course.rescue(FLAT, "ada", world="lm")
    own = table.loc["ada"]
    assert own["score"] == pytest.approx(own["reward"] + 0.1 * own["recall"], abs=0.01)
    assert "'dpo', 'lm'" in capsys.readouterr().out
    assert "ada" not in course.rescue().index


@pytest.mark.parametrize(
    ("entry", "algorithm", "said"),
    [
        ([Align(f"a{k}", "base", "base", "base") for k in range(3)] + [Distil("s", "a0")], "rlhf", "154,600 draws"),
        ([Align("a", "base", "base", "base"), Distil("s", "a"), Align("b", "s", "s", "s")], "dpo", "205,800 draws"),
        ("kd_then_align", "rlhf", "a tuple of Distil and Align"),
        ([Distil("s", "teacher")], "rlhf", "teacher of 's' 'teacher' is unknown. Accepted: base, student"),
        ([Distil("s", "base", temperature="warm")], "rlhf", "temperature of the stage 's' 'warm' is unknown"),
        ([Distil("s", "base"), Distil("s", "base")], "rlhf", "'s' is made twice"),
        ([Align("a", "base", "base", "base")], "rlhf", "must be a small one"),
        ([], "rlhf", "must be a small one"),
        ([Distil("s", "base")], "ppo", "algorithm 'ppo' is unknown"),
    ],
)
def test_an_entry_that_may_not_take_part_is_refused_before_anything_runs(entry, algorithm, said, monkeypatch):
    ours = course.rescue()
    monkeypatch.setattr(MogWorld, "start", None)
    with pytest.raises(BadInput, match=said):
        course.rescue(entry, "ada", algorithm)
    assert course.rescue().equals(ours)
