"""The responses that a run has kept: each model's first one to each test prompt, in an order of chance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alignkd_lab.course.explorers.methods import short
from alignkd_lab.course.shipped import recorded_smollm2
from alignkd_lab.errors import BadInput
from alignkd_lab.pipelines import A_K, K_A
from alignkd_lab.plots.drawing import depth_line, estimates
from alignkd_lab.plots.style import number
from alignkd_lab.records import Records

AUTHORS = ("base", "base_aligned", K_A, A_K)
LETTERS = "ABCD"


@dataclass(frozen=True)
class Response:
    """What one model answered; `reward` is from 0 to 1, `target` whether the rule found what it looks for."""

    letter: str
    text: str
    pipeline: str
    reward: float
    target: bool


class Responses:
    """The responses that a run has kept, in an order of chance that is always the same.

    Raises:
        BadInput: the run kept no prompt that two of `AUTHORS` have answered.
        UnknownName: a depth that is none of `drawing.DEPTH`.
    """

    def __init__(self, run: Records, depth: str = "record") -> None:
        self.run = run
        self.evidence = depth_line([run], depth, "Kept is each model's first response to each test prompt")
        first = run.responses[run.responses["pipeline"].isin(AUTHORS)]
        first = first.drop_duplicates(["seed", "prompt", "pipeline"])
        grouped = [(*key, rows.set_index("pipeline")) for key, rows in first.groupby(["seed", "prompt"])]
        places = [place for place in grouped if len(place[-1]) > 1]  # what only one of them answered is no riddle
        if not places:
            raise BadInput("this run kept no responses of two pipelines to one prompt: choose a run of the lm world")
        self._places = [places[place] for place in np.random.default_rng(0).permutation(len(places))]

    def __len__(self) -> int:
        return len(self._places)

    def page(self, page: int) -> tuple[int, str, tuple[Response, ...]]:
        """Seed, prompt and mixed responses; after the last page comes the first."""
        seed, prompt, held = self._places[page % len(self)]
        names = np.random.default_rng([1, page % len(self)]).permutation([n for n in AUTHORS if n in held.index])
        given = held.loc[names, ["response", "reward", "target"]].itertuples()
        mixed = zip(LETTERS, given, strict=False)
        return (
            seed,
            prompt,
            tuple(Response(at, text, name, reward, target) for at, (name, text, reward, target) in mixed),
        )

    @functools.cached_property
    def in_words(self) -> str:
        """Whom the reward and whom the plausibility of the text ranks first, over all test responses of the run."""
        ranks = {metric: _ranking(self.run, metric) for metric in ("reward", "fluency")}
        if not all(ranks.values()):
            return ""
        told = (
            f"Over all test responses the mean reward ranks {_listed(ranks['reward'])}. Asked only how plausible a "
            f"text is, from 0 to 1, the truth ranks {_listed(ranks['fluency'])}."
        )
        same = [name for name, _ in ranks["reward"]] == [name for name, _ in ranks["fluency"]]
        return told + (" Here the two agree." if same else " These are two different questions.")


@functools.cache
def recorded() -> Responses:
    """Those of the recorded study."""
    return Responses(recorded_smollm2())


def _ranking(run: Records, metric: str) -> list[tuple[str, float]]:
    found = estimates(run, metric)
    means = [(name, float(found[name][0].estimate)) for name in AUTHORS if name in found]
    return sorted(means, key=lambda entry: -entry[1])


def _listed(ranking: Sequence[tuple[str, float]]) -> str:
    return " > ".join(f"{short(name)} ({number(mean, 2)})" for name, mean in ranking)
