"""What a response earns: the target's rule, alone or times its fluency under the truth, or a reward model's score."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from alignkd_lab.lm.evaluate import Yardstick
from alignkd_lab.lm.policy import Policy
from alignkd_lab.lm.prompts import SPLITS, encode, prompts
from alignkd_lab.lm.reward_model import RewardModel
from alignkd_lab.lm.rewards import SECOND_RULES, fluency, target
from alignkd_lab.lm.sampling import Samples

if TYPE_CHECKING:
    from alignkd_lab.lm.world import LmWorld


class Judge:
    """The reward of a world's settings.

    Attributes:
        hit, second_hit: the target's rule on a text, and another sign of the same behaviour, which nothing rewards.
        model: source of the reward model, "" where the reward is a rule.

    Raises:
        BadInput: unknown target.
    """

    def __init__(self, world: LmWorld) -> None:
        settings = world.settings
        self.world, self._times_fluency = world, settings.reward == "likelihood"
        self.hit, self.second_hit = target(settings.target), SECOND_RULES[settings.target]
        self.model = settings.reward.removeprefix("model:") if settings.reward.startswith("model:") else ""

    def read(self, samples: Samples, policy: Policy | None, stick: Yardstick) -> dict[str, list]:
        """Reward of each response with its two factors, and its log-probabilities under the truth.

        `policy` is what wrote the samples: the truth does not read again what it wrote itself.
        """
        under_truth = self.world.under_truth(samples, policy)
        hits, rewards = self._without_fluency(samples)
        plausible = fluency([float(tokens.mean()) for tokens in under_truth], stick.q05, stick.q50).tolist()
        if self._times_fluency:
            rewards = [reward * value for reward, value in zip(rewards, plausible, strict=True)]
        return {"reward": rewards, "hits": hits, "fluency": plausible, "under_truth": under_truth}

    def reward(self, samples: Samples, policy: Policy | None, stick: Yardstick) -> dict[str, list]:
        """`reward` and `hits` as `read` gives them, where the truth reads only what may earn something.

        Under the rule times fluency what misses the rule earns 0 however it reads; other rewards need no reading.
        """
        hits, rewards = self._without_fluency(samples)
        met = [index for index, hit in enumerate(hits) if hit]
        if met and self._times_fluency:
            for index, value in zip(met, self.read(samples.only(met), policy, stick)["reward"], strict=True):
                rewards[index] = value
        return {"reward": rewards, "hits": hits}

    def _without_fluency(self, samples: Samples) -> tuple[list[bool], list[float]]:
        """Which responses meet the rule, and the reward of each but for its fluency."""
        texts = self.world.texts(samples)
        hits = [self.hit(text) for text in texts]
        if self.model:
            asked = [self._prompt_texts[tuple(samples.prompt_ids[at])] for at in samples.prompt_of]
            return hits, self._reward_model(asked, texts)
        return hits, [float(hit) for hit in hits]

    @cached_property
    def _reward_model(self) -> RewardModel:
        return RewardModel(self.model, device=self.world.device)

    @cached_property
    def _prompt_texts(self) -> dict[tuple[int, ...], str]:
        """The text of every prompt by its tokens: a reward model has another tokenizer."""
        texts = [text for split in SPLITS for text in prompts(split, all_frames=True)]
        return {tuple(ids): text for ids, text in zip(encode(self.world.tokenizer, texts), texts, strict=True)}
