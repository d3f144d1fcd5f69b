"""Experiment 2 of the plan's second part (`data/records/PLAN.md`): when does the order matter, and why?

`python -m alignkd_lab.study.lead FOLDER` draws the targets at screening seeds, then runs both orders for six targets a
seed and three students; the same command goes on where it was stopped. Two processes may share the seeds in one
FOLDER (`--seeds 0-3`, `--seeds 4-7`): the first one screens, the other waits for its targets.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.sampling import Samples
from alignkd_lab.lm.scoring import pooled_mean
from alignkd_lab.lm.settings import BUILT_IN, DistilSettings, DpoSettings
from alignkd_lab.lm.stages import distil, dpo
from alignkd_lab.records import Records
from alignkd_lab.store import write_whole
from alignkd_lab.study.lab import ByText, Lab, Over, command, say

SCREENING, SEEDS = (800_001, 800_002), range(8)
STRATA = 0.003, 0.006, 0.012, 0.025, 0.05, 0.12, 0.30  # of base rates, from one to the next
PER_STRATUM, MOST_IN_A_TOPIC = 4, 0.25
RATE = 3e-4  # AdamW's, of alignment, for both orders
# Student and KD temperature, in the order in which they are run: the family's, the check of all, the exploratory one.
VARIANTS = {"healed": ("healed", 0.7), "placebo": (BUILT_IN, 1.0), "uncut": (BUILT_IN, 0.7)}
CHECKED = "base", "kd_only"  # what the placebo's check reads: of it these run first, since no verdict comes before it


@dataclass(frozen=True)
class Sizes:
    """The plan's, unless given."""

    preference_prompts: int = 96
    preference_responses: int = 24
    max_tokens: int = 28
    align_steps: int = 24
    align_batch: int = 6
    beta: float = 0.1
    distil_prompts: int = 96
    distil_responses: int = 5
    test_prompts: int = 368
    start_responses: int = 6  # of the base and of the distilled students, to each test prompt
    screening_prompts: int = 384
    screening_responses: int = 12
    lora_rank: int = 16


def rule(name: str) -> Callable[[str], bool]:
    """`sun|moon`: one of the words stands in the text; `light&night`: each of them does. `sun's` is another word."""
    parts = [set(part.split("|")) for part in name.split("&")]
    return lambda text: all(not part.isdisjoint(_words(text)) for part in parts)


class LeadLab(Lab):
    """One seed and one student."""

    def __init__(self, folder: Path, seed: int, sizes: Sizes, student: str, **where: Any) -> None:
        super().__init__(folder, seed, student=student, **where)
        self.sizes, self._starts = sizes, {}
        self._stages = replace(self.context, prompt_texts=prompts)  # a topic in one frame, as in the first study

    def distil(self, teacher: Policy, temperature: float, name: str) -> Policy:
        sizes = self.sizes
        settings = DistilSettings(
            distil_prompts=sizes.distil_prompts, distil_responses=sizes.distil_responses, lora_rank=sizes.lora_rank,
            max_tokens=sizes.max_tokens, kd_temperature=temperature,
        )  # fmt: skip

        def make() -> tuple[Policy, dict]:
            result = distil.distil(self._stages, teacher, self.student, settings, name)
            return result.policy, result.info

        return self.keep({"method": "kd", **asdict(settings)}, [teacher, self.student], make)[0]

    def align(self, init: Policy, target: str, name: str) -> tuple[Policy, dict]:
        sizes, reward = self.sizes, ByText(self.context.texts, rule(target), bool)
        settings = DpoSettings(
            target=target, reward="rule", preference_prompts=sizes.preference_prompts,
            preference_responses=sizes.preference_responses, max_tokens=sizes.max_tokens, beta=sizes.beta,
            align_steps=sizes.align_steps, align_batch=sizes.align_batch, lora_rank=sizes.lora_rank, curve_points=1,
            validation_responses=1,
        )  # fmt: skip

        def make() -> tuple[Policy, dict]:
            result = dpo.dpo(self._stages, reward, init, init, init, settings, RATE, name)
            return result.policy, result.info

        return self.keep({"method": "dpo", "rate": RATE, **asdict(settings)}, [init], make)

    def tested(self, policy: Policy, responses: int = 1, temperature: float = 1.0) -> Samples:
        """Responses to test prompts; at temperature 1 they are kept, since every target reads those of a start."""
        asked = "test", self.sizes.test_prompts, responses, self.sizes.max_tokens
        if temperature == 1.0:
            return self.context.keep_samples(policy, *asked, "lead test")
        return self.context.sample(self.context.models.of(policy), *asked, f"lead test at {temperature}", temperature)

    def measure(self, target: str, samples: Samples, beside: dict | None = None) -> dict:
        """A record's entry of a policy's responses; `beside` are metrics that no target changes, if they are known."""
        hits = list(map(rule(target), self.context.texts(samples)))
        rates = {"target_rate": float(np.mean(hits)), "target_logit": logit(sum(hits), len(hits))}
        metrics = {**rates, **(beside or self._beside(samples))}
        return {"metrics": metrics, "counts": {"responses": len(hits), "target": sum(hits)}}

    def _beside(self, samples: Samples) -> dict:
        texts, first = self.context.texts(samples), samples.only([rows[0] for rows in samples.by_prompt()])
        under_base = self.context.score(self.context.models.of(self.base), first)
        kl = [float((own - base).sum()) for own, base in zip(first.log_probs, under_base, strict=True)]
        return {
            "entropy": -pooled_mean(samples.log_probs),
            "overall_precision": pooled_mean(under_base),
            "kl_to_base": float(np.mean(kl)),
            "distinct_responses": len(set(texts)) / len(texts),
        }

    def measure_start(self, policy: Policy, target: str) -> dict:
        """The same of the base or a distilled student, whose responses serve every target: they are read once."""
        if policy.digest not in self._starts:
            samples = self.tested(policy, self.sizes.start_responses)
            self._starts[policy.digest] = samples, self._beside(samples)
        return self.measure(target, *self._starts[policy.digest])

    def both_orders(self, target: str, temperature: float) -> Iterator[tuple[str, Callable[[], tuple[dict, dict]]]]:
        """Each policy's name, and what makes its entry of a record with the info of the stage that it ends in."""
        aligned = partial(self.align, self.base, target, "base_aligned")
        kd = partial(self.distil, self.base, temperature, "kd")

        def entry(policy: Policy, info: dict) -> tuple[dict, dict]:
            return self.measure(target, self.tested(policy)), info

        def sharp() -> tuple[dict, dict]:
            policy, info = self.align(kd(), target, "kd_aligned")
            made = self.measure(target, self.tested(policy, temperature=temperature))
            # Log-probabilities are at temperature 1, so of what is drawn at another they give neither of these.
            return {**made, "metrics": {**made["metrics"], "entropy": None, "kl_to_base": None}}, info

        yield "base", lambda: (self.measure_start(self.base, target), {})
        yield "base_aligned", lambda: entry(*aligned())
        yield "kd_only", lambda: (self.measure_start(kd(), target), {})
        yield "kd_then_align", lambda: entry(*self.align(kd(), target, "kd_aligned"))
        yield "align_then_kd", lambda: entry(self.distil(aligned()[0], temperature, "aligned_kd"), {})
        if temperature != 1.0:
            yield "kd_then_align_sharpened", sharp


def logit(hits: int, count: int) -> float:
    """Log-odds of a share, half a hit added on either side."""
    return math.log((hits + 0.5) / (count - hits + 0.5))


# Targets ----------------------------------------------------------------------------------------------


@lru_cache(2**15)  # a text is asked for hundreds of targets; those of the screening are 27,648
def _words(text: str) -> frozenset[str]:
    """Of at least two letters, with apostrophes inside: `it's` is one."""
    return frozenset(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)+|[^\W\d_]{2,}", text.lower().replace("’", "'")))


def candidates(texts: list[str], topics: list[int], generator: np.random.Generator) -> list[str]:
    """Words, sets of two or three and conjunctions of two, no topic with more than a quarter of the hits of any."""
    where: dict[str, Counter] = {}
    for text, topic in zip(texts, topics, strict=True):
        for word in _words(text):
            where.setdefault(word, Counter())[topic] += 1
    count = {word: sum(found.values()) for word, found in where.items()}

    def is_spread(hits: Counter) -> bool:
        return max(hits.values(), default=0) <= MOST_IN_A_TOPIC * hits.total()

    def hits_of(name: str) -> Counter:
        hit = rule(name)
        return Counter(topic for text, topic in zip(texts, topics, strict=True) if hit(text))

    spread = [word for word in sorted(where) if is_spread(where[word])]
    rare = [word for word in spread if STRATA[0] <= count[word] / len(texts) <= STRATA[-1]]
    common = [word for word in spread if count[word] / len(texts) > STRATA[3]]
    some = [generator.choice(rare, generator.integers(2, 4), replace=False).tolist() for _ in range(300)]
    both = [generator.choice(common, 2, replace=False).tolist() for _ in range(300)]
    made = [*("|".join(sorted(words)) for words in some), *("&".join(sorted(words)) for words in both)]
    return [*rare, *(name for name in made if is_spread(hits_of(name)))]


def draw_targets(rates: dict[str, dict[str, float]], generator: np.random.Generator) -> list[dict]:
    """Four a stratum of the base's rate, two above and two below its median of the share that distilling keeps.

    No two targets share a word, so that they are not one target twice.
    """
    found, taken = [], set()
    for stratum, (low, high) in enumerate(itertools.pairwise(STRATA)):
        inside = [name for name in sorted(rates) if low <= rates[name]["base"] < high]
        kept = {name: rates[name]["healed"] / rates[name]["base"] for name in inside}
        middle = float(np.median(list(kept.values()) or [0.0]))
        sides = [n for n in inside if kept[n] <= middle], [n for n in inside if kept[n] > middle]
        for side in sides:
            chosen = []
            for name in generator.permutation(side).tolist():
                words = set(re.split("[|&]", name))
                if len(chosen) < PER_STRATUM // 2 and taken.isdisjoint(words):
                    chosen.append(name)
                    taken |= words
            if len(chosen) < PER_STRATUM // 2:
                raise BadInput(
                    f"targets: {len(inside)} words or sets show in {low:g} to {high:g} of the base's responses, too "
                    f"few for {PER_STRATUM} without a common word, half of them on either side of the median share kept"
                )
            found += [{"target": name, "stratum": stratum, **rates[name]} for name in chosen]
    return found


def screen(folder: Path, sizes: Sizes, until: Callable[[], bool] = lambda: False, **where: Any) -> list[dict]:
    """The targets with the rates of base and distilled students at the screening seeds; drawn once, then read.

    Raises `Over` where `until` says so before a policy is made or sampled.
    """
    from filelock import FileLock

    kept = folder / "targets.json"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".screening"):
        if not kept.is_file():
            write_whole(kept, json.dumps(_screen(folder, sizes, until, **where), indent=1))
    return json.loads(kept.read_text(encoding="utf-8"))


def _screen(folder: Path, sizes: Sizes, until: Callable[[], bool], **where: Any) -> list[dict]:
    texts: dict[str, list[str]] = {}
    topics: list[int] = []
    policies = {"base": ("healed", 0.0), "healed": VARIANTS["healed"], "uncut": VARIANTS["uncut"]}
    for seed, (name, (student, temperature)) in itertools.product(SCREENING, policies.items()):
        if until():
            raise Over
        say(f"lead: screening {name}, seed {seed}")
        lab = _lab(folder, seed, sizes, student, where)
        policy = lab.distil(lab.base, temperature, "kd") if temperature else lab.base
        drawn = lab.context.keep_samples(
            policy, "training", sizes.screening_prompts, sizes.screening_responses, sizes.max_tokens, "screening"
        )
        texts.setdefault(name, []).extend(lab.context.texts(drawn))
        if name == "base":
            topics += [at % len(prompts("training")) for at in drawn.prompt_of]
    generator = np.random.default_rng(1)
    names = candidates(texts["base"], topics, generator)
    rates = {name: {of: _rate(rule(name), own) for of, own in texts.items()} for name in dict.fromkeys(names)}
    return draw_targets(rates, generator)


def _lab(folder: Path, seed: int, sizes: Sizes, student: str, where: dict) -> LeadLab:
    """`where` may name other weights: `base`, `dtype`, and `students` in place of those of `VARIANTS`."""
    others = {name: value for name, value in where.items() if name != "students"}
    return LeadLab(folder, seed, sizes, where.get("students", {}).get(student, student), **others)


def _begin(
    make: Callable[[], tuple[dict, dict]], metrics: dict[str, float], until: Callable[[], bool], words: str
) -> tuple[dict, dict]:
    """What `make` gives, with more metrics in the entry."""
    if until():
        raise Over
    say(words)
    entry, info = make()
    return {**entry, "metrics": {**entry["metrics"], **metrics}}, info


def _rate(hit: Callable[[str], bool], texts: list[str]) -> float:
    """With half a hit added on either side, so that a share kept has a logarithm."""
    return (sum(map(hit, texts)) + 0.5) / (len(texts) + 1)


def blocks(targets: list[dict], seeds: Iterable[int] = SEEDS) -> Iterator[tuple[int, str]]:
    """Six targets a seed, one a stratum, each target at two seeds of eight."""
    strata = sorted({target["stratum"] for target in targets})
    for seed in seeds:
        for stratum in strata:
            names = [target["target"] for target in targets if target["stratum"] == stratum]
            yield seed, names[(seed + stratum * (1 + seed // len(names))) % len(names)]


def run(
    folder: Path,
    until: Callable[[], bool] = lambda: False,
    seeds: Iterable[int] = SEEDS,
    sizes: Sizes | None = None,
    **where: Any,
) -> None:
    """Draws the targets, then runs what is left; raises `Over` where `until` says so before a policy is made."""
    sizes, dtype = sizes or Sizes(), where.setdefault("dtype", "float32")
    if other := sorted(set(seeds) - set(SEEDS)):
        raise BadInput(f"seed: {other[0]} is not one of the plan's, {SEEDS[0]} to {SEEDS[-1]}")
    targets = screen(folder, sizes, until, **where)
    labs: dict[tuple[int, str], LeadLab] = {}
    screened = {
        target["target"]: {f"screened_{of}": target[of] for of in ("base", "healed", "uncut")} for target in targets
    }
    for variant, names in (("healed", ()), ("placebo", CHECKED), ("placebo", ()), ("uncut", ())):
        student, temperature = VARIANTS[variant]
        for seed, target in blocks(targets, seeds):
            if (seed, student) not in labs:
                labs = {place: lab for place, lab in labs.items() if place[0] == seed}  # an earlier seed's models go
                labs[seed, student] = _lab(folder, seed, sizes, student, where)
            about = {**asdict(sizes), "experiment": "lead", "variant": variant, "kd_temperature": temperature}
            for pipeline, make in labs[seed, student].both_orders(target, temperature):
                if names and pipeline not in names:
                    continue
                metrics = screened[target] if pipeline == "base" else {}
                begin = partial(_begin, make, metrics, until, f"lead: {target}, {variant}, seed {seed}: {pipeline}")
                Lab.record(folder, about, target, seed, pipeline, variant, begin, dtype)


def again(run: Records, out: Path, seeds: Sequence[int], pipelines: Sequence[str], **where: Any) -> None:
    """Pipelines of one recorded target and variant, made anew below `out`."""
    sizes = Sizes(**{field.name: run.settings[field.name] for field in fields(Sizes)})
    about, target, variant = dict(run.settings), run.the_run()["target"], run.settings["variant"]
    where = {"dtype": about.pop("dtype"), **where}
    student, temperature = VARIANTS[variant]
    for seed in seeds:
        for pipeline, make in _lab(out, seed, sizes, student, where).both_orders(target, temperature):
            if pipeline in pipelines:
                Lab.record(out, about, target, seed, pipeline, variant, make, where["dtype"])


def main(argv: list[str] | None = None) -> int:
    return command("lead", __doc__, argv, SEEDS, run)


if __name__ == "__main__":
    sys.exit(main())
