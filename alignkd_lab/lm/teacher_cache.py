"""Cached teachers: what a teacher says of every response token, asked once and kept on disk.

Of each token the final hidden state is kept in float32, which gives the whole distribution back through the teacher's
head, and its log_norm: a row of one file, which is memory-mapped and so may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import ranks
from alignkd_lab.lm.architecture import plain
from alignkd_lab.lm.batch import Example, check_roles, collate, has_role
from alignkd_lab.lm.teachers import Full, LiveTeacher, log_norm
from alignkd_lab.lm.vocabulary import same_vocabulary
from alignkd_lab.memory import halve
from alignkd_lab.store import Store, need_room

PLACES, ROWS = "places.json", "rows.f32"
BATCH_TOKENS = 8192  # of a forward pass
PART = 512  # examples of a part, which is cached whole or not at all

Places = dict[str, list[int]]  # first row and number of rows of a response, by a digest of its text


class CachedTeacher:
    """What a teacher has said of the responses that `cache_teacher` had it read; their examples carry it.

    Attributes:
        name: that of its signals in the examples.
        head: the teacher's, [V, d].
        roles: the roles of the responses that were read, None for all.
    """

    def __init__(self, teacher: LiveTeacher, name: str, roles: tuple[str, ...] | None) -> None:
        self.name, self.head, self.roles = name, teacher.head, roles
        self.vocabulary = getattr(plain(teacher.model), "vocabulary", None)

    def signal(self, batch: dict, *, roles: tuple[str, ...] | None = None) -> Full:
        """Of the tokens of a collated batch that were read, or only of those of `roles`, on the head's device.

        Raises:
            BadInput: the batch was collated before its examples were read, or these roles were not.
        """
        same_vocabulary(self, batch)
        read = has_role(batch, self.roles)
        wanted = read if roles is None else has_role(batch, roles)
        if (wanted & ~read).any():
            raise BadInput(f"roles: the cached teacher {self.name!r} has read {self.roles}, and {roles} were asked for")
        rows = batch["signals"].get(self.name)
        if rows == {}:
            rows = {"hidden": torch.zeros(0, self.head.shape[1]), "log_norm": torch.zeros(0)}
        if rows is None or len(rows["hidden"]) != read.sum():
            raise BadInput(f"batch: carries no signals of {self.name!r} for these roles; cache it before collate")
        hidden, norm = (rows[key][wanted[read].to(rows[key].device)] for key in ("hidden", "log_norm"))
        return Full(hidden.to(self.head.device, self.head.dtype), self.head, norm.to(self.head.device))


def cache_teacher(
    teacher: LiveTeacher,
    examples: list[Example],
    folder: Path,
    name: str = "teacher",
    *,
    roles: tuple[str, ...] | None = None,
    batch: int | None = None,
    quiet: bool = False,
) -> CachedTeacher:
    """Reads the responses once, keeps what the teacher says of them below `folder`, and gives it to the examples.

    What was kept of the same weights and tokens is not asked again, and what is damaged is. A caching that was cut off
    goes on with the part of `PART` examples where it stopped. Of several processes each caches its share of the parts,
    and then reads those of the others.

    Args:
        name: what the signals are called in the examples.
        roles: read only responses of these roles, None for all; the others get an empty signal.
        batch: examples of a forward pass, in their order, so that a model which reads as many together rounds alike;
            unless given as many as make `BATCH_TOKENS`, the longest first.
        quiet: without a word of the size and a bar of the time left.

    Raises:
        BadInput: a role that there is not.
        CannotContinue: the disk has no room.
    """
    cached, store, weights = CachedTeacher(teacher, name, roles), Store(folder), teacher.checksum()
    rows, size = _rows_of(examples, roles), -(-PART // batch) * batch if batch else PART
    quiet = quiet or ranks.index() > 0
    if not quiet:
        print(f"caching {name} in {folder}: {_bytes(rows, teacher) / 1e9:.3g} GB", file=sys.stderr)
    count = sum(len(row.responses) for row in rows)
    with tqdm(total=count, desc=f"caching {name}", unit="responses", leave=False, disable=quiet) as bar:
        for at in ranks.turns(-(-len(examples) // size)):
            part = examples[at * size : (at + 1) * size]
            rows = _rows_of(part, roles)
            depends = _depends(teacher, weights, rows, batch)
            write = partial(_write, teacher, rows, batch, bar.update)
            _attach(part, cached, store.keep_folder(name, depends, write))
    return cached


def _depends(teacher: LiveTeacher, weights: str, rows: list[Example], batch: int | None) -> dict:
    """All that the kept numbers depend on. Their order is not part of it: rows are found by their tokens."""
    texts = {_digest(row.prompt, tokens) for row in rows for tokens in row.responses}
    tokens = hashlib.sha256("".join(sorted(texts)).encode()).hexdigest()
    depends = {"teacher": weights, "tokens": tokens, "dtype": str(teacher.dtype), "format": 4}
    return {**depends, "batch": batch} if batch else depends


def _write(
    teacher: LiveTeacher, rows: list[Example], batch: int | None, progress: Callable[[int], None], folder: Path
) -> None:
    need_room(folder, _bytes(rows, teacher), "keep what teachers say in a folder on another disk")
    places: Places = {}
    way_out = "one example alone does not fit in the teacher; shorten the responses (max_tokens)"
    with (folder / ROWS).open("wb") as file:
        for group in _batches(rows, batch):
            halve(partial(_read, teacher, group, file, places), len(group), "teacher_batch", way_out)
            progress(sum(len(row.responses) for row in group))
    (folder / PLACES).write_text(json.dumps(places))


def _read(teacher: LiveTeacher, group: list[Example], file: BinaryIO, places: Places, size: int) -> None:
    """Appends the rows of these responses, `size` examples at a time; the same words twice are kept once."""
    for start in range(0, len(group), size):
        part = group[start : start + size]
        with teacher.reading():
            hidden = teacher.hidden(collate(part)).float()
            # The norm is that of what is kept, so that the distribution read back sums to one.
            norm = log_norm(hidden.to(teacher.head.dtype), teacher.head)
            kept = torch.cat([hidden, norm[:, None].float()], dim=1).cpu()
        texts = [(row.prompt, tokens) for row in part for tokens in row.responses]
        for text, found in zip(texts, kept.split([len(tokens) for _, tokens in texts]), strict=True):
            if (digest := _digest(*text)) not in places:
                places[digest] = [file.tell() // (4 * kept.shape[1]), len(found)]
                file.write(found.numpy().tobytes())


def _attach(examples: list[Example], cached: CachedTeacher, folder: Path) -> None:
    """Gives each example memory-mapped views of what is kept of its responses, a row a token."""
    places: Places = json.loads((folder / PLACES).read_text())
    tokens, width = sum(length for _, length in places.values()), cached.head.shape[1] + 1
    mapped = torch.from_file(str(folder / ROWS), size=tokens * width, dtype=torch.float32) if tokens else torch.empty(0)
    rows = mapped.view(tokens, width)  # read from disk when they are looked at

    def views(prompt: list[int], response: list[int]) -> dict[str, torch.Tensor]:
        start, length = places[_digest(prompt, response)]
        own = rows[start : start + length]
        return {"hidden": own[:, :-1], "log_norm": own[:, -1]}

    for example in examples:
        example.signals[cached.name] = [
            views(example.prompt, tokens) if cached.roles is None or role in cached.roles else {}
            for role, tokens in zip(example.roles, example.responses, strict=True)
        ]


def _rows_of(examples: list[Example], roles: tuple[str, ...] | None) -> list[Example]:
    check_roles(roles or ())
    rows = []
    for example in examples:
        pairs = zip(example.roles, example.responses, strict=True)
        if responses := [tokens for role, tokens in pairs if roles is None or role in roles]:
            rows.append(Example(example.prompt, responses))
    return rows


def _size(row: Example) -> int:
    return len(row.prompt) + sum(map(len, row.responses))


def _batches(rows: list[Example], batch: int | None) -> Iterator[list[Example]]:
    if not batch:  # the longest come first: memory that does not suffice shows at once
        rows = sorted(rows, key=_size, reverse=True)
    start = 0
    while start < len(rows):
        size = batch or max(1, BATCH_TOKENS // _size(rows[start]))
        yield rows[start : start + size]
        start += size


def _bytes(rows: list[Example], teacher: LiveTeacher) -> int:
    """Of a float32 state and a norm for each token."""
    return sum(len(response) for row in rows for response in row.responses) * 4 * (teacher.head.shape[1] + 1)


def _digest(prompt: list[int], response: list[int]) -> str:
    tokens = np.array([len(prompt), *prompt, *response], dtype="<i4")
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).hexdigest()
