"""One tokenizer for all: a loss over the vocabulary compares ids, and an id must be one token."""

from __future__ import annotations

import hashlib
from functools import cached_property

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.architecture import plain


class Vocabulary:
    """Whose tokens a loaded model reads; a model's copies share it."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def __deepcopy__(self, memo) -> Vocabulary:
        return self

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()


def same_vocabulary(model, batch: dict) -> None:
    """Student and live teachers read one batch: whichever comes first signs it, and the others compare.

    Only models that `lm.weights.load` read know their tokens. Raises BadInput as `check_vocabularies` does.
    """
    own = getattr(plain(model), "vocabulary", None)
    first = batch.setdefault("vocabulary", own) if own else None
    if first is not own and first.digest != own.digest:
        check_vocabularies(first.tokenizer, teacher=own.tokenizer)


def check_vocabularies(student_tokenizer, **teacher_tokenizers) -> None:
    """Token by token means nothing where one id is two tokens.

    Raises:
        BadInput: a teacher's tokens differ from the student's; with their number, the first ids, and what works.
    """
    own = {index: token for token, index in student_tokenizer.get_vocab().items()}
    for name, tokenizer in teacher_tokenizers.items():
        other = {index: token for token, index in tokenizer.get_vocab().items()}
        differ = [index for index in sorted(own.keys() | other.keys()) if own.get(index) != other.get(index)]
        if differ:
            shown = "; ".join(f"id {index} is {own.get(index, 'missing')!r} for the student and "
                              f"{other.get(index, 'missing')!r} for the {name}" for index in differ[:3])  # fmt: skip
            raise BadInput(
                f"vocabulary: {len(differ)} of {len(own.keys() | other.keys())} ids differ between the student "
                f"({len(own)} tokens) and the {name} ({len(other)}): {shown}. A loss over the vocabulary needs one "
                "tokenizer for all; take a teacher with the student's, or learn from its texts alone (`sft` on what "
                "`alignkd sample` writes; in a run kd_loss 'sequence')"
            )
