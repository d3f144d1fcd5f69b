"""What a tokenizer's chat template does around an answer, and the tokenizer made fit for the course.

A response is what follows the generation prompt, up to the template's end of turn: prompt and response together are
the conversation as the template renders it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from alignkd_lab.errors import BadInput, refusing

# ChatML as SmolLM2 knows it, without the long system message that its own template adds to every prompt.
COURSE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# For a model without a template: plain text, a line a turn, and the end token after an answer.
RAW = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
)
ASKED, ANSWERED = "What floats?", "A small boat."


class Frame(NamedTuple):
    """What a template writes after an answer, and the id that ends the answer's turn."""

    closing: str
    end: int  # the first added token after the answer, or the end token where there is none

    def answer(self, prompt: str | None, whole: str | None) -> str | None:
        """What stands in a rendered conversation between its prompt and the closing; None where it is not so built."""
        if prompt is None or whole is None or not (whole.startswith(prompt) and whole.endswith(self.closing)):
            return None
        return whole[len(prompt) : len(whole) - len(self.closing)]


def frame_of(tokenizer) -> Frame:
    """Of a question and an answer, rendered.

    Raises:
        BadInput: no end token; the template fails on them, drops one, or has no generation prompt with which the
            conversation begins.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise BadInput("tokenizer: it names no end token, so no response could end; set eos_token and save it again")
    turns = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]

    def render(count: int, prompt: bool) -> str:
        return tokenizer.apply_chat_template(turns[:count], tokenize=False, add_generation_prompt=prompt)

    # A template runs code of its own, which may raise whatever it likes.
    with refusing("tokenizer: its chat template fails on a question and its answer", Exception, way_out="mend it"):
        bare, prompt, whole = render(1, False), render(1, True), render(2, False)
    opening, found, closing = whole[len(prompt) :].partition(ANSWERED)
    if not (ASKED in prompt and found):
        raise BadInput("tokenizer: its chat template does not render a question and its answer; mend it")
    if not whole.startswith(prompt):
        raise BadInput(
            f"tokenizer: its chat template renders the generation prompt as {prompt!r}, with which the conversation "
            f"{whole!r} does not begin: a model would be trained on another prompt than it is asked; mend the template"
        )
    if bare == prompt and opening.strip():
        raise BadInput(
            f"tokenizer: its chat template has no generation prompt, and begins an answer with {opening!r}; write that "
            "into the template, after {% if add_generation_prompt %}"
        )
    after = tokenizer(closing, add_special_tokens=False).input_ids
    return Frame(closing, next((token for token in after if token in tokenizer.added_tokens_decoder), end))


def fit(tokenizer, course: bool = False, ends: tuple[int, ...] = ()):
    """The tokenizer with its template (the course's for SmolLM2, plain text where it has none) and its end tokens.

    Its end token becomes the template's end of turn, which training teaches; `end_ids` are all that end a response.
    It pads with another token where it has one.

    Raises:
        BadInput: see `frame_of`.
    """
    if course or _is_smollm2(tokenizer):
        tokenizer.chat_template, tokenizer.eos_token = COURSE, "<|im_end|>"
        tokenizer.pad_token = "<|endoftext|>"  # no text uses it; SmolLM2's own is its end token, which must be learned
        return tokenizer
    if not tokenizer.chat_template:
        begins = tokenizer.bos_token_id is not None and tokenizer.bos_token_id in tokenizer("").input_ids
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + RAW
    end = frame_of(tokenizer).end
    tokenizer.end_ids = sorted({*ends, *end_ids(tokenizer), end})
    if end != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.bos_token or tokenizer.eos_token
    return tokenizer


def _is_smollm2(tokenizer) -> bool:
    """Whether the template is the course's but for the system message that SmolLM2's own puts before a prompt."""
    if not tokenizer.chat_template or "<|endoftext|>" not in tokenizer.get_vocab():
        return False

    def render(*turns: tuple[str, str], **template: str) -> str:
        said = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **template)

    briefly, asked = ("system", "Be brief."), ("user", ASKED)
    with contextlib.suppress(Exception):  # a template runs code of its own; `frame_of` says what is wrong
        named = render(asked).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
        return named and render(briefly, asked) == render(briefly, asked, chat_template=COURSE)
    return False


def end_ids(tokenizer) -> list[int]:
    """The ids that end a sampled response: its end token, and those that `fit` found beside it."""
    return getattr(tokenizer, "end_ids", [tokenizer.eos_token_id])


def encode(tokenizer, prompts: Sequence[str | list[dict[str, str]]]) -> list[list[int]]:
    """Token ids of each prompt, a text or messages, as the chat template has it, up to where the answer starts."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
            add_generation_prompt=True,
            return_dict=False,
        )
        for prompt in prompts
    ]
