"""Rows of every format give the same pair, and a row that gives none says why."""

import pytest

from alignkd_lab.lm.preference_rows import Preference, Unusable, preference, standard

SKY = "What colour is the sky?"


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def pairs(*rows):
    """(row, pair or reason) of each row that comes out."""
    found = []
    for number, row in standard(enumerate(rows, 1), {}, "here"):
        try:
            found.append((number, preference(number, row)))
        except Unusable as reason:
            found.append((number, str(reason)))
    return found


def outcome(row):
    ((_, found),) = pairs(row)
    return found


BLUE = Preference(1, [user(SKY)], "It is blue.", "It is green.")
TEXTS = {"chosen": "It is blue.", "rejected": "It is green."}
ANSWERS = {role: [assistant(text)] for role, text in TEXTS.items()}
TALKS = {role: [user(SKY), assistant(text)] for role, text in TEXTS.items()}
FORMATS = {
    "standard": {"prompt": SKY, **TEXTS},
    "standard, continued": {"prompt": SKY, "chosen": " It is blue.", "rejected": " It is green."},
    "conversational": {"prompt": [user(SKY)], **ANSWERS},
    "conversational, implicit prompt": TALKS,
    "prompt as text beside conversations that hold it": {"prompt": SKY, **TALKS},
    "prompt as messages, repeated in the conversations": {"prompt": [user(SKY)], **TALKS},
    "prompt as text, answers as messages": {"prompt": SKY, **ANSWERS},
    "prompt as messages, answers as text": {"prompt": [user(SKY)], **TEXTS},
    "other columns beside": {"prompt": SKY, **TEXTS, "helpfulness": 3, "response": "?", "system": "", "history": []},
    "context that the prompt shows": {"prompt": SKY, **TEXTS, "input": f"{SKY}\n"},
    "prompt as text with marks around it": {"prompt": f"User: {SKY}", **TALKS},
    "an instruction": {"instruction": SKY, "input": "", **TEXTS},
    "a transcript before its answers": {"prompt": f"\n\nHuman: {SKY}\n\nAssistant:", **TEXTS},
    "a prompt before transcripts": {
        "prompt": SKY,
        **{role: f"\n\nHuman: {SKY}\n\nAssistant: {text}" for role, text in TEXTS.items()},
    },
    "transcripts": {role: f"\n\nHuman: {SKY}\n\nAssistant: {text}" for role, text in TEXTS.items()},
    "stripped transcripts": {role: f"Human: {SKY}\n\nAssistant: {text}" for role, text in TEXTS.items()},
    "transcripts of Windows": {role: f"\r\n\r\nHuman: {SKY}\r\n\r\nAssistant: {text}" for role, text in TEXTS.items()},
    "a stripped transcript before its answers": {"prompt": f"Human: {SKY}\n\nAssistant:", **TEXTS},
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_pair(name):
    assert outcome(FORMATS[name]) == BLUE


def test_earlier_turns_and_the_users_own_system_message_stay_in_the_prompt_as_with_trl():
    before = [system("Be brief."), user("Hello"), assistant("Hi"), user(SKY)]
    row = {"chosen": [*before, assistant("Blue.")], "rejected": [*before, assistant("Green.")]}
    assert outcome(row) == Preference(1, before, "Blue.", "Green.")
    theirs = pytest.importorskip("trl").extract_prompt(row)
    assert theirs == {"prompt": before, "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]}
    marks = {"user": "Human", "assistant": "Assistant"}
    told = {name: "".join(f"\n\n{marks[turn['role']]}: {turn['content']}" for turn in row[name][1:]) for name in TEXTS}
    assert outcome(told) == Preference(1, before[1:], "Blue.", "Green.")


@pytest.mark.parametrize(("end", "start"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1), (4, 3), (4, 4)])
def test_turns_that_prompt_and_answers_both_hold_stand_in_the_pair_once(end, start):
    turns = [system("Be brief."), user("Hello"), assistant("Hi"), user(SKY)]
    for prompt in (turns[:end], turns[end - 1 : end]) if start == 0 else (turns[:end],):
        row = {"prompt": prompt, **{role: [*turns[start:], *said] for role, said in ANSWERS.items()}}
        assert outcome(row) == Preference(1, turns, *TEXTS.values())


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", ("blue.", "green.")),
        ("It is 1 of 2", "It is 2 of 2", "It is", ("1 of 2", "2 of 2")),
        ("The sky is blue.", "The sky is black.", "The sky is", ("blue.", "black.")),
        ("Why? Yes.", "Why? Yes. Indeed.", "Why?", ("Yes.", "Yes. Indeed.")),
        ("Why?\n\nIt is.", "Why?\n\nNo.", "Why?", ("It is.", "No.")),
        ("Why so?\tA", "Why so? B", "Why so?", ("A", "B")),
    ],
)
def test_a_shared_text_ends_where_a_word_ends_and_as_trl_has_it_where_the_texts_differ_there(
    chosen, rejected, prompt, answers
):
    found = outcome({"chosen": chosen, "rejected": rejected})
    assert found == Preference(1, [user(prompt)], *answers)
    theirs = pytest.importorskip("trl").extract_prompt({"chosen": chosen, "rejected": rejected})
    if theirs["chosen"].startswith(" "):
        assert theirs == {"prompt": prompt, "chosen": f" {answers[0]}", "rejected": f" {answers[1]}"}


@pytest.mark.parametrize("code", ["    return 1\n", "\n\tdo()\n\n", "\n"])
def test_the_white_space_around_an_answer_is_kept(code):
    rows = [pair(chosen=f"{code}x{code}"), talk([user(SKY), assistant(f"{code}x{code}")], [user(SKY), assistant("y")])]
    assert [found.chosen for _, found in pairs(*rows)] == [f"{code}x{code}"] * 2


def test_what_a_row_is_about_is_no_question_and_a_renamed_column_none_either():
    row = {"good": "The sky is blue.", "bad": "The sky is green.", "category": "open qa", "created": "2024-01-05 12:30"}
    ((_, row),) = standard(iter([(1, row)]), {"chosen": "good", "rejected": "bad"}, "here")
    assert preference(1, row) == Preference(1, [user("The sky is")], "blue.", "green.")


def test_white_space_around_a_turn_makes_no_other_turn():
    said = {role: [system("Be brief."), user(f" {SKY}\n"), assistant(text)] for role, text in TEXTS.items()}
    found = outcome({"prompt": [user(SKY)], **said})
    assert [turn["content"].strip() for turn in found.prompt] == ["Be brief.", SKY]


def pair(**changes):
    return {**FORMATS["standard"], **changes}


def talk(chosen, rejected, **more):
    return {"chosen": chosen, "rejected": rejected, **more}


# A prompt under another name, which tells by itself or by what it holds that something is asked.
NAMES = ("question", "Problem", "user_prompt", "conversation", "conversations")
ASKING = {"x": "What is it?", "y": "1+1=", **dict.fromkeys(NAMES, "Name it.")}
REASONS = [
    (pair(chosen=None), "missing chosen"),
    *((talk("It is blue.", "It is green.", **{name: None}), "missing prompt") for name in ("prompt", "instruction")),
    (talk("It is blue.", "It is green.", instruction=""), "empty prompt"),
    ({"prompt": SKY, "chosen": "Blue."}, "missing rejected"),
    (pair(rejected=" \n"), "empty rejected"),
    (pair(rejected=[]), "empty rejected"),
    (pair(prompt=" "), "empty prompt"),
    (pair(prompt=[]), "empty prompt"),
    (pair(rejected={"text": "Blue."}), "rejected is neither text nor messages"),
    (pair(rejected="It is blue. "), "chosen equals rejected"),
    (talk("Blue.", "Blue."), "chosen equals rejected"),
    (talk("Bluish", "Blue"), "no shared prompt"),
    *(
        (
            talk("The sea is blue.", "The sea is red.", source="math-7/x", **{name: asked}),
            f"has {name} and no prompt; call it prompt, or leave it out",
        )
        for name, asked in ASKING.items()
    ),
    (pair(context="Boats float."), "has context, which its prompt does not show; write it there"),
    (pair(prompt=[user("Hi"), system("Be brief."), user(SKY)]), "the prompt has a system message after its first turn"),
    (
        {"prompt": [user(SKY)], **{role: [system("Be brief."), user("Hm?"), *said] for role, said in ANSWERS.items()}},
        "the prompt has a system message after its first turn",
    ),
    ({"instruction": "Add.", "input": "1 and 2", **TEXTS}, "has input, which its prompt does not show; write it there"),
    (talk([assistant("Blue.")], [assistant("Green.")]), "no shared prompt"),
    (
        talk([user(SKY), assistant("Blue.")], [user("Which?"), assistant("Green.")]),
        "chosen and rejected differ before their last turn",
    ),
    (
        talk([user(SKY), assistant("Blue.")], [user(SKY), assistant("Hm."), user("So?"), assistant("Green.")]),
        "chosen and rejected differ before their last turn",
    ),
    (talk([user(SKY)], [user(SKY), assistant("Green.")]), "the last turn of chosen is not by the assistant"),
    (
        talk([assistant("Hi"), assistant("Blue.")], [assistant("Hi"), assistant("Green.")]),
        "the prompt's last turn is not by the user",
    ),
    (pair(prompt=[{"role": "user", "content": None}]), "prompt has a turn without role and text"),
    (pair(prompt=["Hello"]), "prompt has a turn without role and text"),
    (pair(prompt=[{"role": "tool", "content": "7"}, user(SKY)]), "prompt has a turn by 'tool'"),
    (
        pair(prompt=[user(SKY), {**assistant(""), "tool_calls": [{"name": "look"}]}, user("So?")]),
        "prompt has a turn with tool_calls, which the answer is not read with",
    ),
    (pair(tools=[{"name": "look"}]), "has tools, which no prompt would show"),
    (pair(system="Be brief."), "has system, which its prompt does not show; write it there"),
    (pair(history=[["Hi", "Hello"]]), "has history, which its prompt does not show; write it there"),
    ({**TALKS, "prompt": "Why?"}, "prompt is not among the turns that chosen and rejected share"),
    ({**TALKS, "prompt": [user("Why?")]}, "prompt is not among the turns that chosen and rejected share"),
    (pair(chosen="It is \ud83d"), "chosen holds half a character (a lone surrogate), which no tokenizer reads"),
    (
        {role: str(turns) for role, turns in TALKS.items()},
        "chosen is a list of messages written out as text; keep it a list, in .jsonl or .parquet",
    ),
    (pair(images=["sky.png"]), "has images, which no prompt would show"),
    ("text", "not an object with fields"),
]


@pytest.mark.parametrize(("row", "reason"), REASONS, ids=[f"{i} {reason}" for i, (_, reason) in enumerate(REASONS)])
def test_a_row_that_gives_no_pair_says_why(row, reason):
    assert outcome(row) == reason


# HelpSteer2 -------------------------------------------------------------------------------------------


def rated(prompt, response, helpfulness):
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "correctness": 4, "verbosity": 1}


def test_of_two_ratings_of_a_prompt_the_more_helpful_response_is_chosen():
    found = pairs(rated("c#", "A.", 3), rated("c#", "B.", 1), rated("go", "C.", 0), rated("go", "D.", 4))
    assert found == [(1, Preference(1, [user("c#")], "A.", "B.")), (3, Preference(3, [user("go")], "D.", "C."))]


def test_ties_single_responses_and_missing_ratings_are_named_by_their_first_row():
    found = pairs(
        rated("tie", "A.", 3), rated("tie", "B.", 3), rated("tie", "C.", 1),
        rated("alone", "C.", 2),
        rated("none", "D.", None), rated("none", "E.", 1),
        rated("nan", "D.", float("nan")), rated("nan", "E.", 1),
        "broken",
        rated("same", "F.", 1), rated("same", "F.", 2),
        rated("void", "G.", 1), rated("void", "", 2),
        rated("last", "H.", 1),
    )  # fmt: skip
    assert found == [
        (1, "tie in helpfulness"),
        (3, "no second response to its prompt"),
        (4, "no second response to its prompt"),
        (5, "helpfulness is no number"),
        (7, "helpfulness is no number"),
        (9, "not an object with fields"),
        (10, "chosen equals rejected"),
        (12, "empty chosen"),
        (14, "no second response to its prompt"),
    ]


@pytest.mark.parametrize("gap", ["\n", "\n\n", " \n"])
def test_earlier_turns_inside_a_prompt_become_messages(gap):
    prompt = f"Hello{gap}<extra_id_1>Assistant\nHi, you.{gap}<extra_id_1>User\nWhat is <extra_id_1>?\nSay."
    for begun in (prompt, f"<extra_id_1>User\n{prompt}"):  # which is no empty turn before
        ((_, found),) = pairs(rated(begun, "A.", 3), rated(begun, "B.", 1))
        assert found.prompt == [user("Hello"), assistant("Hi, you."), user("What is <extra_id_1>?\nSay.")]
