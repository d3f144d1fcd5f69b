"""How pipelines and metrics are called, coloured and written: the same on every page, plot and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from alignkd_lab.stats import Interval, share_interval, t_interval


class PipelineStyle(NamedTuple):
    """A pipeline's label, its colour (hex) and its marker (matplotlib's name)."""

    label: str
    colour: str
    marker: str


# Okabe and Ito's palette, which colour-blind readers can tell apart; the yardsticks are greys, and markers
# carry the difference once more for black-and-white print.
PIPELINE_STYLE: dict[str, PipelineStyle] = {
    "base": PipelineStyle("Base", "#8A8A8A", "s"),
    "base_aligned": PipelineStyle("Base, aligned", "#2B2B2B", "D"),
    "kd_only": PipelineStyle("KD only", "#5E5E5E", "v"),
    "kd_then_align": PipelineStyle("K-A: distil, then align", "#0072B2", "o"),
    "align_then_kd": PipelineStyle("A-K: align, then distil", "#D55E00", "^"),
    "kd_then_align_base_reference": PipelineStyle("K-A, base as reference", "#56B4E9", "P"),
    "kd_then_align_base_preferences": PipelineStyle("K-A, pairs from the base", "#009E73", "X"),
    "kd_then_align_high_temperature": PipelineStyle("K-A, KD at high temperature", "#CC79A7", "h"),
    "dckd": PipelineStyle("DCKD", "#B79F00", "<"),
    "adpa": PipelineStyle("ADPA", "#7B3294", "*"),
    "adpa_plus": PipelineStyle("ADPA+", "#C2A5CF", "p"),
    "gkd": PipelineStyle("On-policy distillation", "#A6611A", ">"),
    "align_student_only": PipelineStyle("Student aligned, no KD", "#80CDC1", "d"),
    "sft": PipelineStyle("SFT student", "#5E5E5E", "v"),
    "sft_chosen": PipelineStyle("SFT on chosen responses", "#009E73", "X"),
    "dpo": PipelineStyle("DPO on the student", "#80CDC1", "d"),
    "adpa_released": PipelineStyle("ADPA, as released", "#CC79A7", "h"),
}


class MetricStyle(NamedTuple):
    """A metric's name in words, its unit in either world, and what it means."""

    label: str
    mog_unit: str
    lm_unit: str
    meaning: str


METRIC_STYLE: dict[str, MetricStyle] = {
    "reward": MetricStyle("reward", "", "", "mean reward of what the model produces: what alignment maximises"),
    "target_rate": MetricStyle("target rate", "%", "%", "how often the model shows the rare, desired behaviour"),
    "second_rule_rate": MetricStyle(
        "second rule", "%", "%", "how often another sign of the target shows, not rewarded"
    ),
    "target_precision": MetricStyle(
        "target precision",
        "nats",
        "nats per token",
        "mean log-density of the model's outputs under the truth's target part",
    ),
    "overall_precision": MetricStyle(
        "overall precision",
        "nats",
        "nats per token",
        "mean log-likelihood of the model's outputs under the truth: high if it says only likely things",
    ),
    "overall_recall": MetricStyle(
        "overall recall",
        "nats",
        "nats per token",
        "mean log-likelihood of the truth's outputs under the model: low if it has forgotten some",
    ),
    "entropy": MetricStyle(
        "entropy", "nats", "nats per token", "spread of the model's outputs; low for one that repeats itself"
    ),
    "kl_to_truth": MetricStyle("KL to the truth", "nats", "nats per token", "KL(model ‖ truth)"),
    "kl_to_base": MetricStyle(
        "KL to the base", "nats", "nats per response", "KL(model ‖ base): how far it went from where alignment started"
    ),
    "reward_accuracy": MetricStyle(
        "reward accuracy",
        "%",
        "%",
        "share of held-out pairs whose better response gained more log-likelihood over the base than the worse one",
    ),
    "win_rate": MetricStyle(
        "win rate", "%", "%", "how often a response earns more than the SFT student's to the same prompt; a tie is half"
    ),
    "accuracy": MetricStyle(
        "pairs in order", "%", "%", "share of held-out pairs whose better response gained more likelihood a token"
    ),
    "accuracy_wide": MetricStyle(
        "pairs in order, rewards 0.4 apart", "%", "%", "the same of the pairs whose rewards are at least so far apart"
    ),
    "kl_to_sft": MetricStyle(
        "KL to the SFT student", "nats", "nats per response", "KL(model ‖ SFT student): how far training went"
    ),
    "afinn": MetricStyle("AFINN", "", "", "mean score of a response by another list of words"),
    "lexicon_share": MetricStyle("words that score", "%", "%", "share of the words that VADER's lexicon holds"),
    "length": MetricStyle("length", "", "tokens", "mean length of a response"),
    "distinct_responses": MetricStyle("distinct responses", "", "", "share of the responses that are distinct"),
    "distinct_2": MetricStyle("distinct-2", "", "", "share of the pairs of neighbouring words that are distinct"),
    "reward_bare": MetricStyle("rule alone", "", "", "reward without the factor for fluent text"),
    "fluency": MetricStyle("fluency", "", "", "mean of the reward's factor for fluent text, from 0 to 1"),
    "target_precision_per_sequence": MetricStyle(
        "target precision per response", "", "nats", "target precision summed over a response's tokens"
    ),
}
SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "○", "invalid": "⊘", "not decided": "–"}  # of verdicts
CLAIM_WORDS = {
    ("reward", "mean_difference"): "A-K earns more reward",
    ("target_precision", "mean_difference"): "A-K is more precise on the target",
    ("overall_precision", "mean_difference"): "A-K is more precise overall",
    ("overall_recall", "mean_difference"): "A-K recalls less overall (the admitted cost)",
    ("reward", "variance_ratio"): "A-K varies less in reward over seeds",
}
CHECK_WORDS = {
    "target_learned": "the base learned the target",
    "informative_pairs": "there were pairs to learn from",
    "healing": "the student was healthy",
}
WORLD_LABEL = {"mog": "Gaussian world", "lm": "Language world"}
MINUS = "−"


def pipeline_style(name: str) -> PipelineStyle:
    """The style of a pipeline; one that is not known here is drawn in violet under its own name."""
    return PIPELINE_STYLE.get(name, PipelineStyle(name.replace("_", " "), "#7B4FA3", "*"))


def metric_label(metric: str, world: str) -> str:
    """The metric in words with its unit, e.g. `target precision (nats per token)`."""
    style = METRIC_STYLE.get(metric)
    if style is None:
        return metric.replace("_", " ")
    unit = style.mog_unit if world == "mog" else style.lm_unit
    return f"{style.label} ({unit})" if unit else style.label


def is_rate(metric: str) -> bool:
    """Whether it is a share, which is shown in percent."""
    return metric in METRIC_STYLE and METRIC_STYLE[metric].lm_unit == "%"


def over_seeds(metric: str, values: Sequence[float]) -> Interval:
    """Its mean over seeds with the 95 % interval, which leaves 0 to 100 % for no share."""
    return share_interval(values) if is_rate(metric) else t_interval(values)


def shown(metric: str, value: float) -> float:
    """The value on the scale on which it is shown: rates in percent, all else as it is."""
    return 100 * value if is_rate(metric) else value


def number(value: float | None, digits: int = 3) -> str:
    """A number for readers: `digits` significant digits, at most three decimals, true minus; `–` if none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = min(3, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
    text = f"{value:,.{decimals}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """`3.02 (2.71 to 3.33)`, or the mean alone where there is no interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    return f"{number(mean)} ({number(low)} to {number(high)})"


def percent(share: float) -> str:
    """A share for readers: `4 %`, `1 in 15,000`, `1 in 10^174`, `more than 99.9 %`."""
    if share <= 0:
        return "0 %"
    if share > 0.999:
        return "more than 99.9 %"
    if share >= 0.001:
        return f"{100 * share:.3g} %"
    wait = 1 / share
    return f"1 in {float(f'{wait:.2g}'):,.0f}" if wait < 1e9 else f"1 in 10^{math.log10(wait):.0f}"


SIGNS = {"s": "■", "D": "◆", "v": "▼", "o": "●", "^": "▲", "P": "✚", "X": "✖", "h": "⬢"}


def signed(name: str) -> str:
    """A pipeline's label with its marker before it."""
    style = pipeline_style(name)
    return f"{SIGNS.get(style.marker, '★')} {style.label}"
