"""Rules by examples that a reader would agree with, and the factor that makes broken sentences earn nothing."""

import pytest

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.rewards import SECOND_RULES, TARGETS, fluency, sentiment, target

EXAMPLES = {
    "simile": (
        ["The lake lay like a mirror.", "She is as brave as a lion.", "It fell LIKE the night."],
        ["I like apples.", "It is as it was.", "Unlike a mirror, it broke.", "Bread as well as butter."],
    ),
    "digit": (["In 1969 people walked there.", "Route 66"], ["In the sixties people walked there.", "No."]),
    "exclamation": (["What a day!", "Stop! Look."], ["What a day.", "Is it?"]),
    "question": (["Is it?", "Why? Because."], ["It is.", "It is!"]),
    "quotation": (['He said "no".', "He said “no”."], ["He said no.", "It's the dog's bone."]),
    "colour": (
        ["A red door.", "The Grey sea", "golden light", "It was blue."],
        ["A tired door.", "The bored sea", "evergreen", "It was bluebell time.", "A reddish door."],
    ),
    "first_person": (
        ["I walked home.", "It is my dog.", "Tell me.", "Yesterday I'm told it rained."],
        ["It walked home.", "Myths and memes.", "Mine was lost in time."],
    ),
    "positive": (
        ["A wonderful, lovely, happy day full of joy.", "I love this beautiful and amazing place!"],
        ["It is a door.", "A terrible, sad, ugly day.", "A nice day."],
    ),
    "negative": (
        ["A terrible, sad and ugly day of pain.", "War kills and destroys."],
        ["It is a door.", "A wonderful, lovely day."],
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_rule_finds_what_it_is_named_after_and_leaves_the_rest_alone(name):
    found, left = EXAMPLES[name]
    assert [text for text in found if not target(name)(text)] == []
    assert [text for text in ["", *left] if target(name)(text)] == []


SECOND_EXAMPLES = {
    "simile": ("It glowed as if lit from within.", "It shone like a lamp, as bright as day."),
    "digit": ("Three dogs and a dozen cats.", "In 1969 people walked there."),
    "exclamation": ("What an amazing day.", "What a day!"),
    "question": ("How do you make bread, I wonder.", "It is bread?"),
    "quotation": ("She said that it rained.", 'It was called "rain".'),
    "colour": ("A turquoise door.", "A blue door."),
    "first_person": ("We walked home.", "I walked to my home."),
    "positive": ("A sunny garden, lush and fragrant.", "A wonderful, lovely, happy day full of joy."),
    "negative": ("Rust on the rubble of a house.", "A terrible, sad and ugly day of pain."),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_second_rule_has_a_meaning_in_common_with_the_target_and_no_sign(name):
    by_second_alone, by_target_alone = SECOND_EXAMPLES[name]
    assert SECOND_RULES[name](by_second_alone)
    assert not target(name)(by_second_alone)
    assert target(name)(by_target_alone)
    assert not SECOND_RULES[name](by_target_alone)


def test_sentiment_is_vaders_compound_score():
    assert sentiment("The book was good.") == pytest.approx(0.4404)
    assert sentiment("") == 0


def test_fluency_is_nought_below_the_low_quantile_one_above_the_median_and_linear_between():
    found = fluency([-9.0, -4.0, -3.5, -3.0, -2.0, -0.1], q05=-4.0, q50=-2.0)
    assert found.tolist() == pytest.approx([0, 0, 0.25, 0.5, 1, 1])


@pytest.mark.parametrize("q50", [-4.0, -5.0, float("nan")])
def test_fluency_needs_a_median_above_the_low_quantile(q50):
    with pytest.raises(BadInput, match="quantile"):
        fluency([-3.0], q05=-4.0, q50=q50)
