"""The families of the plan's second part, on tables whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from synthetic_records import mog_record, tabulated

from alignkd_lab.plots import sweeps
from alignkd_lab.study.families import fair_family, fitted_lead, gaussian_split, lead_family


class Held:
    """Stands for records: of each method and seed a response to each of 200 prompts, the SFT student's worth 0."""

    def __init__(self, rates):
        wins = {"sft": [0] * 8, **{name: np.clip(200 * values, 0, 200) for name, values in rates.items()}}
        rows = [
            {"pipeline": name, "seed": seed, "prompt": prompt, "reward": float(prompt < won)}
            for name, values in wins.items()
            for seed, won in enumerate(values)
            for prompt in range(200)
        ]
        # A tie is half, so what does not win loses: it earns less than the SFT student's.
        rows = [row | {"reward": -1.0} if row["pipeline"] != "sft" and not row["reward"] else row for row in rows]
        self.responses = pd.DataFrame(rows)

    def select(self, **where):
        return self


def test_a_method_that_wins_in_every_seed_is_for_one_that_cannot_win_by_much_against_else_undecided():
    generator = np.random.default_rng(0)
    level = generator.normal(0.6, 0.05, 8)
    rates = {
        "adpa": level,
        "dckd": level - 0.1 + generator.normal(0, 0.01, 8),
        "align_then_kd": level + generator.normal(0, 0.01, 8),
        "adpa_plus": generator.normal(0.6, 0.3, 8),
    }
    found = fair_family(Held(rates))
    assert found["verdict"].tolist() == ["for", "against", "undecided"]
    assert (found["level"] >= 0.95).all()
    first = found.iloc[0]
    assert np.ptp(first["unpaired"]) > first["high"] - first["low"]
    assert first["two_way"][0] < first["estimate"] < first["two_way"][1]
    assert first["seeds"] == 8
    # Seeds that hold some of the four alone count in no comparison.
    fewer = fair_family(Held({**rates, "adpa_plus": rates["adpa_plus"][:6]}))
    assert (fewer["seeds"] == 6).all()
    whole = fair_family(Held({name: values[:6] for name, values in rates.items()}))
    pd.testing.assert_frame_equal(fewer, whole)


PLACEBO = pd.DataFrame(
    {"target": range(24), "variant": "placebo", "distilled_base": 4 * [0.1, -0.1, 0.05, -0.02, 0, 0.03]}
)


def made(slope, alignment_part, count=24, draw=1):
    """Targets whose lead falls with the share kept by `slope`, and whose alignment carries a part of it."""
    generator = np.random.default_rng(draw)
    kept, m0 = np.exp(generator.uniform(-2, 0, count)), np.exp(generator.uniform(-6, -1, count))
    lead = slope * np.log(kept) + generator.normal(0, 0.2, count)
    alignment = alignment_part * lead + generator.normal(0, 0.05, count)
    table = pd.DataFrame({"kept": kept, "m0": m0, "lead": lead, "alignment": alignment})
    return pd.concat([table.assign(target=range(count), variant="healed", seed=seed) for seed in (0, 1)])


def test_a_lead_that_falls_with_the_share_kept_is_for_a_rising_one_against_and_a_placebo_off_nought_invalid():
    assert set(lead_family(made(-1.0, 0.9))["verdict"]) == {"no placebo"}
    off = PLACEBO.assign(distilled_base=PLACEBO["distilled_base"] + 1)
    assert set(lead_family(pd.concat([made(-1.0, 0.9), off]))["verdict"]) == {"invalid"}
    assert set(lead_family(pd.concat([made(-1.0, 0.9), PLACEBO[:9]]))["verdict"]) == {"no placebo"}
    found = lead_family(pd.concat([made(-1.0, 0.9), PLACEBO]))
    assert found["verdict"].tolist() == ["for", "undecided", "for"]
    assert found["estimate"].iloc[0] == pytest.approx(-1.0, abs=0.15)
    assert found["estimate"].iloc[2] == pytest.approx(0.9, abs=0.1)
    assert lead_family(pd.concat([made(1.0, 0.1), PLACEBO]))["verdict"].tolist()[::2] == ["against", "against"]


def test_without_an_effect_one_family_in_twenty_says_otherwise():
    families = [lead_family(pd.concat([made(0.0, 0.5, draw=draw), PLACEBO])) for draw in range(200)]
    assert sum((found["verdict"] != "undecided").any() for found in families) <= 20  # ten are expected


def test_a_gaussian_lead_splits_exactly_and_a_k_a_without_the_target_lost_it_or_was_short():
    made = []
    for seed, (rate, gap) in enumerate([(0.9, 0.3), (0.0, 0.01), (0.2, 0.5)]):
        record = mog_record(seed, evaluation_draws=4000)
        for name, share in zip(("base", "base_aligned", "kd_only", "kd_then_align", "align_then_kd"),
                               (0.04, 0.9, 0.01, rate, 1.0), strict=True):  # fmt: skip
            record["pipelines"][name]["metrics"]["target_rate"] = share
        record["stages"][record["pipelines"]["kd_then_align"]["stages"][-1]]["info"]["gap"] = gap
        made.append(record)
    found = gaussian_split(tabulated(*made))
    assert found["outcome"].tolist() == ["found", "lost", "short"]
    np.testing.assert_allclose(found["alignment"] + found["distilling"], found["lead"])
    odds = [np.log((4000 * rate + 0.5) / (4000 - 4000 * rate + 0.5)) for rate in (1.0, 0.0)]
    assert found["lead"].iloc[1] == pytest.approx(odds[0] - odds[1])
    drawn = sweeps.split_figure({"one": found.assign(cell=found["outcome"]), "two": found.assign(cell="all")}, "note")
    marks = [line.get_xdata() for line in drawn.axes[1].lines if line.get_marker() == "D" and len(line.get_xdata())]
    np.testing.assert_allclose(marks, [[found["lead"].mean()]])


def test_a_line_of_leads_is_equivalent_where_its_interval_lies_within_a_tenth():
    table = made(-1.0, 0.9)
    table["lead_rate"] = -0.15 * np.log(table["kept"]) + np.random.default_rng(2).normal(0, 0.01, len(table))
    found = fitted_lead(table)
    np.testing.assert_allclose(found["estimate"], -0.15 * np.log(found["kept"]), atol=0.02)
    near = found["kept"] > np.exp(-0.1 / 0.15)
    assert found["equivalent"][near & (found["kept"] > 0.6)].all()
    assert not found["equivalent"][~near].any()
