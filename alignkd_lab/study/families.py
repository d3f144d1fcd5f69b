"""The two families of claims of the plan's second part, as tables. Written before any of its results was known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from alignkd_lab.claims import verdict
from alignkd_lab.plots.style import interval, metric_label, over_seeds, pipeline_style, shown
from alignkd_lab.records import Records
from alignkd_lab.stats import ALPHA, Interval, holm_levels, paired_difference, paired_p_value, t_interval
from alignkd_lab.study.fair import wins
from alignkd_lab.study.fair_run import CURVES, METHODS

LEAST_EFFECT = 0.05  # in win rate
DRAWS = 10_000
REACHED = 0.1  # in J* − J, within which an alignment has come to its optimum
EQUIVALENT = 0.1  # in rate: a lead within it matters to nobody


def fair_family(records: Records, form: str = "adpa") -> pd.DataFrame:
    """Is ADPA better? Win rates paired by seed, Holm over three; `form` is the one that is better on validation.

    *For*: the corrected interval lies above 0. *Against*: its upper end lies below `LEAST_EFFECT`. Beside it, at the
    same level: `unpaired` is Welch's interval, `two_way` the bootstrap's over seeds and prompts.
    """
    pairs = [(form, "dckd"), (form, "align_then_kd"), ("adpa_plus", "dckd")]
    held = {name: prompt_wins(records, name) for name in (form, "dckd", "align_then_kd", "adpa_plus")}
    rates = pd.DataFrame({name: table.mean(axis=1) for name, table in held.items()}).dropna()  # seeds with all four
    held = {name: table.loc[rates.index] for name, table in held.items()}
    both = [rates[list(names)].to_numpy().T for names in pairs]
    levels = holm_levels([paired_p_value(*values) for values in both])
    rows = []
    for (first, second), values, level in zip(pairs, both, levels, strict=True):
        found = paired_difference(*values, level)
        apart = scipy_stats.ttest_ind(*values, equal_var=False).confidence_interval(level)
        decided = "for" if found.low > 0 else "against" if found.high < LEAST_EFFECT else "undecided"
        both_ways = two_way(held[first] - held[second], level)
        ends = {"unpaired": tuple(apart), "two_way": both_ways, "level": level, "seeds": values.shape[1]}
        names = (pipeline_style(name).label.partition(":")[0] for name in (first, second))
        rows.append({"claim": " − ".join(names), **found._asdict(), **ends, "verdict": decided})
    return pd.DataFrame(rows).set_index("claim")


def prompt_wins(records: Records, pipeline: str) -> pd.DataFrame:
    """How often a response of the method earns more than one of the SFT student, [seeds, prompts]; a tie is half."""
    held = records.select(arm=["start", "fair"]).responses
    rewards = held.groupby(["pipeline", "seed", "prompt"])["reward"].apply(np.array)
    both = pd.DataFrame({"own": rewards.get(pipeline), "sft": rewards["sft"]}).dropna()
    return both.apply(lambda row: wins(row["own"], row["sft"]), axis=1).unstack()


def two_way(values: pd.DataFrame, level: float) -> tuple[float, float]:
    """A bootstrap interval of the mean of [seeds, prompts] for other seeds and other prompts."""
    table, generator = values.dropna().to_numpy(), np.random.default_rng(0)
    seeds, prompts = (generator.integers(size, size=(DRAWS, size)) for size in table.shape)
    means = [table[rows].mean(axis=0)[columns].mean() for rows, columns in zip(seeds, prompts, strict=True)]
    return tuple(np.quantile(means, [(1 - level) / 2, (1 + level) / 2]))


def fair_methods(records: Records, metrics: Sequence[str]) -> pd.DataFrame:
    """Means over seeds with 95 % t-intervals of what ran with the seeds, the best first; settings in the index."""
    held = records.metrics[records.metrics["arm"].isin(["start", "fair", "runner-up"])]
    rows, firsts = {}, {}
    for (_, name, run), own in held.groupby(["arm", "pipeline", "run"]):
        settings, label = records.settings_of(run), pipeline_style(name).label
        weight = METHODS[name].weight if name in METHODS else ""
        about = f"rate {settings['rate']:g}" if weight or name == "sft_chosen" else ""
        about += f", {weight} {settings['weight']:g}" if weight else ""
        early = own["seed"].isin(CURVES)  # that measure reward at the same KL after the same early steps
        rows_of = {m: own[(own["metric"] == m) & (early | (not m.startswith("reward_at_")))] for m in metrics}
        values = {metric: of["value"] for metric, of in rows_of.items()}
        spans = {metric: over_seeds(metric, of.dropna()) for metric, of in values.items()}
        cells = {metric_label(m, "lm"): interval(*(shown(m, value) for value in span)) for m, span in spans.items()}
        for metric, of in values.items():
            if of.isna().any():  # a seed that does not reach the level is never extrapolated
                cells[metric_label(metric, "lm")] += f", {of.count()} of {len(of)} seeds"
        rows[label, about] = {**cells, "seeds": own["seed"].nunique()}
        firsts[label, about] = spans[metrics[0]].estimate
    best_first = sorted(rows, key=firsts.get, reverse=True)
    return pd.DataFrame.from_dict(rows, orient="index").loc[best_first].rename_axis(["method", "setting"])


def leads(records: Records) -> pd.DataFrame:
    """A row a target, variant and seed: the lead of A-K in logits of the target rate, and the two parts of it.

    `alignment` is D_base − D_student and `distilling` δ_post − δ_pre; they sum to `lead`, and are NaN where one of the
    five policies has not run. `m0` is the base's rate at the screening seeds, `kept` the share of it that the distilled
    student has there; `lead_rate` is the lead in rate, `distilled_base` what distilling the base changes, in logits.
    """
    held = records.metrics.rename(columns={"arm": "variant"})
    place = ["target", "variant", "seed"]
    logits = held[held["metric"] == "target_logit"].pivot_table(index=place, columns="pipeline", values="value")
    screened = held[held["metric"].isin(["screened_base", "screened_healed", "screened_uncut"])]
    rates = screened.pivot_table(index=place, columns="metric", values="value")
    parts = logits[[]].join(split(logits)).join(rates)
    healed = parts.index.get_level_values("variant") == "healed"
    after = np.where(healed, parts["screened_healed"], parts["screened_uncut"])
    shares = held[held["metric"] == "target_rate"].pivot_table(index=place, columns="pipeline", values="value")
    more = {"m0": parts["screened_base"], "kept": after / parts["screened_base"],
            "lead_rate": shares["align_then_kd"] - shares["kd_then_align"],
            "distilled_base": logits["kd_only"] - logits["base"]}  # fmt: skip
    return parts.assign(**more).drop(columns=list(rates)).reset_index()


def split(logits: pd.DataFrame) -> pd.DataFrame:
    """`lead`, `alignment` and `distilling` of each row of logits that holds all five pipelines, in columns."""
    whole = logits.dropna(subset=["base", "base_aligned", "kd_only", "kd_then_align", "align_then_kd"])
    alignment = whole["base_aligned"] - whole["base"] - (whole["kd_then_align"] - whole["kd_only"])
    distilling = whole["align_then_kd"] - whole["base_aligned"] - (whole["kd_only"] - whole["base"])
    return pd.DataFrame({"lead": alignment + distilling, "alignment": alignment, "distilling": distilling})


def gaussian_split(records: Records) -> pd.DataFrame:
    """A row a run and seed of the Gaussian part `split`: the cell, the parts of the lead, and how K-A came out.

    `outcome` is `found` where K-A shows the target in at least half of its draws. Else it is `lost` where alignment
    came within `REACHED` of its own optimum, which then lacks the target, and `short` of draws or of steps where not.
    """
    rows = []
    for run in records.each():
        settings, rates = run.settings, run.table("target_rate")
        draws = settings["evaluation_draws"]
        gaps = run.stages[run.stages["pipeline"] == "kd_then_align"].dropna(subset="gap").set_index("seed")["gap"]
        reached = gaps.reindex(rates.index) <= REACHED
        outcome = np.where(rates["kd_then_align"] >= 0.5, "found", np.where(reached, "lost", "short"))
        cell = {"beta": settings["beta"], "components": settings["student_components"]}
        logits = np.log((draws * rates + 0.5) / (draws - draws * rates + 0.5))
        rows.append(split(logits).assign(**cell, budget=run.metrics["arm_value"].iloc[0], outcome=outcome))
    return pd.concat(rows).reset_index()


def _coefficients(table: np.ndarray) -> np.ndarray:
    """Slopes of the lead on log kept and on log m0, and of its part by alignment on itself, [3].

    `table` [targets, 4]: log kept, log m0, lead, alignment.
    """
    ones = np.ones(len(table))
    slopes = np.linalg.lstsq(np.column_stack([ones, table[:, :2]]), table[:, 2], rcond=None)[0][1:]
    part = np.linalg.lstsq(np.column_stack([ones, table[:, 2]]), table[:, 3], rcond=None)[0][1]
    return np.array([*slopes, part])


def lead_family(table: pd.DataFrame, variant: str = "healed") -> pd.DataFrame:
    """When does the order matter, and why? Over targets (means of seeds), Holm over three.

    Slope on the log share kept and on log m0 (lost recall says below 0), and the rival: alignment's share of the lead's
    variance (above one half), which is the slope of alignment's part on the lead. The errors of t-intervals are those
    of slopes with one target left out (HC3). *Invalid* where the placebo leaves 0, and no verdict without one.
    """
    means = _by_target(table, variant)
    data = np.column_stack([np.log(means["kept"]), np.log(means["m0"]), means["lead"], means["alignment"]])
    slopes, errors = _with_errors(_coefficients, data)
    claims = {
        "slope on log share kept": ("down", 0.0, 3),
        "slope on log m0": ("down", 0.0, 3),
        "alignment's part": ("up", 0.5, 2),
    }
    tested = [(slope, error, null, scipy_stats.t(len(data) - fitted))
              for slope, error, (_, null, fitted) in zip(slopes, errors, claims.values(), strict=True)]  # fmt: skip
    levels = holm_levels([2 * t.sf(abs(slope - null) / error) for slope, error, null, t in tested])
    checked, rows = placebo(table, set(means.index)), []
    for (name, (expected, null, _)), (slope, error, _, t), level in zip(claims.items(), tested, levels, strict=True):
        half = error * t.ppf((1 + level) / 2)
        found = Interval(slope, slope - half, slope + half)
        decided = {"holds": "for", "fails": "against"}.get(verdict(found.low, found.high, expected, null), "undecided")
        if checked is None or checked[1]:
            decided = "no placebo" if checked is None else "invalid"
        rows.append({"claim": name, **found._asdict(), "level": level, "targets": len(data), "verdict": decided})
    return pd.DataFrame(rows).set_index("claim")


def _by_target(table: pd.DataFrame, variant: str) -> pd.DataFrame:
    """Means over the seeds in which all five policies ran."""
    return table[table["variant"] == variant].dropna(subset="lead").groupby("target").mean(numeric_only=True)


def fitted_lead(table: pd.DataFrame, variant: str = "healed", places: int = 25) -> pd.DataFrame:
    """The lead in rate on a line over targets, by the share kept, at the mean log m0; with its 90 % interval, whose
    errors are those of `lead_family`.

    `equivalent` where the interval lies within `EQUIVALENT` of 0: said of this line alone, never of a target.
    """
    means = _by_target(table, variant)
    kept, rare = np.log(means["kept"]), np.log(means["m0"])
    at = np.linspace(kept.min(), kept.max(), places)

    def line(data: np.ndarray) -> np.ndarray:
        level, slope, _ = np.linalg.lstsq(data[:, :3], data[:, 3], rcond=None)[0]
        return level + slope * at

    data = np.column_stack([np.ones(len(means)), kept, rare - rare.mean(), means["lead_rate"]])
    estimate, errors = _with_errors(line, data)
    half = errors * scipy_stats.t(len(data) - 3).ppf(0.95)
    low, high = estimate - half, estimate + half
    equivalent = (low > -EQUIVALENT) & (high < EQUIVALENT)
    found = {"kept": np.exp(at), "estimate": estimate, "low": low, "high": high, "equivalent": equivalent}
    return pd.DataFrame(found)


def _with_errors(statistic: Callable[[np.ndarray], np.ndarray], data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows `data`, a statistic, and its errors by leaving out each row in turn: of least squares, HC3."""
    found = statistic(data)
    return found, np.sqrt(sum((statistic(np.delete(data, at, axis=0)) - found) ** 2 for at in range(len(data))))


def placebo(table: pd.DataFrame, targets: set) -> tuple[Interval, bool] | None:
    """What distilling the base into a copy of itself changes, over targets, and whether that leaves 0: then the
    experiment is invalid. None before it has run with all of them."""
    held = table[table["variant"] == "placebo"]
    if not targets <= set(held["target"]):
        return None
    found = t_interval(held.groupby("target")["distilled_base"].mean(), 1 - ALPHA)
    return found, not found.low <= 0 <= found.high
