"""Cached teachers: what a teacher says of every response token, asked once and kept on disk.

A cache is a sealed folder (`store.seal`). Of each token it keeps the final hidden state in float32, which gives the
whole distribution back through the teacher's head, and its log_norm: a row of one file, which is memory-mapped and so
may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import ranks
from alignkd_lab.lm.architecture import plain
from alignkd_lab.lm.batch import Example, collate
from alignkd_lab.lm.teachers import Full, LiveTeacher, check_roles, has_role, log_norm, tensor_bytes
from alignkd_lab.lm.vocabulary import same_vocabulary
from alignkd_lab.memory import halve
from alignkd_lab.store import damage, is_sealed, key_of, seal, written_aside

ABOUT, ROWS = "cache.json", "rows.f32"
BATCH_TOKENS = 8192  # of a forward pass
PART = 512  # examples of a part, which is cached whole or not at all

Places = dict[str, list[int]]  # first row and number of rows of a response, by a digest of its text


class CachedTeacher:
    """What a teacher has said of the tokens that it read once, in a folder made by `cache_teacher`.

    Attributes:
        key: of all that it depends on; `about` holds those choices with counts and cost.
        head: the teacher's, [V, d].
        roles: the roles of the responses that were read, None for all.

    Raises:
        BadInput: the folder is no teacher cache, or the head is not that of its teacher.
        CannotContinue: a file is missing or damaged.
    """

    def __init__(self, folder: Path, head: Tensor, *, roles: tuple[str, ...] | None = None) -> None:
        self.folder, self.head, self.roles, self.name = Path(folder), head, roles, None
        self.about = _read_about(self.folder)
        if wrong := damage(self.folder) if is_sealed(self.folder) else "it has no checksums":
            raise _damage(self.folder, wrong)
        self.key, self._places = self.about["key"], self.about["responses"]
        if _head_checksum(head) != self.about["head"]:
            raise BadInput(
                f"teacher cache {self.folder}: hidden states need the head of the teacher that made them, and another "
                "one was given; pass that teacher's lm_head.weight"
            )
        tokens, width = self.about["cost"]["tokens"], head.shape[1] + 1
        mapped = torch.from_file(str(self.folder / ROWS), size=tokens * width) if tokens else torch.empty(0)
        self._rows = mapped.view(tokens, width)  # read from disk when they are looked at

    def rows(self, prompt: list[int], response: list[int]) -> dict[str, Tensor] | None:
        """Memory-mapped views of what is kept of a response, a row a token; None if it was not read."""
        place = self._places.get(_digest(prompt, response))
        if place is None:
            return None
        rows = self._rows[place[0] : sum(place)]
        return {"hidden": rows[:, :-1], "log_norm": rows[:, -1]}

    def attach(self, examples: list[Example], name: str) -> None:
        """Gives each example its `signals[name]`; responses of roles that were not read get an empty dict.

        Raises:
            BadInput: a response of a role that was read is not in the cache; no example is changed then.
        """
        found = []
        for row, example in enumerate(examples):
            of_example = []
            for number, (tokens, role) in enumerate(zip(example.responses, example.roles, strict=True)):
                wanted = self.roles is None or role in self.roles
                of_example.append(self.rows(example.prompt, tokens) if wanted else {})
                if of_example[-1] is None:
                    raise BadInput(
                        f"examples: response {number} ({role}) of example {row} is not in the teacher cache "
                        f"{self.folder}; cache the teacher on these examples in a new folder"
                    )
            found.append(of_example)
        for example, of_example in zip(examples, found, strict=True):
            example.signals[name] = of_example
        self.name = name

    def signal(self, batch: dict, name: str | None = None, *, roles: tuple[str, ...] | None = None) -> Full:
        """Of the tokens of a collated batch that were read, or only of those of `roles`, on the head's device.

        `name` is the one given to `attach`, the latest unless given.

        Raises:
            BadInput: the batch was collated before `attach`, or the cache has not read these roles.
        """
        same_vocabulary(self, batch)
        name = name or self.name
        if name not in batch["signals"]:
            raise BadInput(f"batch: carries no signals of {name!r}; call attach(examples, {name!r}) before collate")
        rows, read = batch["signals"][name], has_role(batch, self.roles)
        wanted = read if roles is None else has_role(batch, roles)
        if (wanted & ~read).any():
            raise BadInput(f"roles: the teacher cache {self.folder} has read {self.roles}, and {roles} were asked for")
        rows = rows or {"hidden": torch.zeros(0, self.head.shape[1]), "log_norm": torch.zeros(0)}
        if len(rows["hidden"]) != read.sum():
            raise BadInput(f"batch: {name!r} was attached for other roles than {self.roles}; attach it again")
        if roles is not None:
            rows = {key: tensor[wanted[read].to(tensor.device)] for key, tensor in rows.items()}
        return Full(
            rows["hidden"].to(self.head.device, self.head.dtype), self.head, rows["log_norm"].to(self.head.device)
        )


def _read_about(folder: Path) -> dict:
    if not (folder / ABOUT).is_file():
        raise BadInput(f"teacher cache {folder}: holds no {ABOUT}, so it is no such cache; name another folder")
    try:
        return dict(json.loads((folder / ABOUT).read_text()))
    except (ValueError, TypeError) as error:
        raise _damage(folder, f"{ABOUT} cannot be read ({error!r})") from error


def _damage(folder: Path, reason: str) -> CannotContinue:
    return CannotContinue(f"teacher cache {folder}: {reason}; delete the folder and cache the teacher again")


def cache_teacher(
    teacher: LiveTeacher,
    examples: list[Example],
    folder: Path,
    *,
    roles: tuple[str, ...] | None = None,
    batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CachedTeacher:
    """Reads the responses once and writes a folder; one made of the same weights and tokens is picked up.

    Args:
        roles: read only responses of these roles; None for all.
        batch: examples of a forward pass, in their order, so that a model which reads as many together rounds alike;
            unless given as many as make `BATCH_TOKENS`, the longest first.
        progress: called with the number of responses read; unless given, a bar shows the time left.

    Raises:
        BadInput: a role that there is not, or a folder that holds something else.
        CannotContinue: the folder is damaged, or the disk has no room.
    """
    folder, rows = Path(folder), _rows_of(examples, roles)
    depends = _depends(teacher, rows, batch)
    if not (folder.is_dir() and any(folder.iterdir())):
        _need_room(folder, rows, teacher)
        count = sum(len(row.responses) for row in rows)
        with (
            written_aside(folder, is_sealed) as made,
            tqdm(total=count, desc="caching the teacher", unit="responses", disable=progress is not None) as bar,
        ):
            _write(teacher, rows, batch, depends, made, progress or bar.update)
    about = _read_about(folder)
    if about["key"] != key_of(depends):
        other = [name for name, value in depends.items() if about["depends"].get(name) != value]
        raise BadInput(
            f"teacher cache {folder}: was made for something else ({' and '.join(other)} differ); name another "
            "folder, or delete this one to make it anew"
        )
    cached = CachedTeacher(folder, teacher.head, roles=roles)
    cached.vocabulary = getattr(plain(teacher.model), "vocabulary", None)
    return cached


def _write(
    teacher: LiveTeacher, rows: list[Example], batch: int | None, depends: dict, folder: Path,
    progress: Callable[[int], None],
) -> None:  # fmt: skip
    started, places = time.perf_counter(), {}
    way_out = "one example alone does not fit in the teacher; shorten the responses (max_tokens)"
    with (folder / ROWS).open("wb") as file:
        for group in _batches(rows, batch):
            halve(partial(_read, teacher, group, file, places), len(group), "teacher_batch", way_out)
            progress(sum(len(row.responses) for row in group))
    cost = {"seconds": round(time.perf_counter() - started, 3), "device": str(teacher.head.device),
            "tokens": sum(length for _, length in places.values())}  # fmt: skip
    about = {"key": key_of(depends), "depends": depends, "head": _head_checksum(teacher.head), "cost": cost,
             "responses": places}  # fmt: skip
    (folder / ABOUT).write_text(json.dumps(about))
    seal(folder)


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


def cache_in_parts(
    teacher: LiveTeacher, examples: list[Example], root: Path, name: str, roles: tuple[str, ...] | None = None,
    batch: int | None = None,
) -> CachedTeacher:  # fmt: skip
    """`cache_teacher` in folders of `PART` examples below `root`, attached to the examples as `name`.

    A caching that was cut off goes on with the part where it stopped. The size is said before the first. Of several
    processes each caches its share of the parts, and then reads those of the others.

    Raises:
        BadInput, CannotContinue: as `cache_teacher` does.
    """
    rows = _rows_of(examples, roles)
    if ranks.index() == 0:
        print(f"caching {name} in {root}: {_bytes(rows, teacher) / 1e9:.3g} GB", file=sys.stderr)
    count = sum(len(row.responses) for row in rows)
    size = -(-PART // batch) * batch if batch else PART
    parts = [examples[start : start + size] for start in range(0, len(examples), size)]
    with tqdm(total=count, desc=f"caching {name}", unit="responses", leave=False, disable=ranks.index() > 0) as bar:
        for part in (parts[at] for at in ranks.turns(len(parts))):
            folder = root / f"{name}-{key_of(_depends(teacher, _rows_of(part, roles), batch))}".replace(" ", "-")
            cached = cache_teacher(teacher, part, folder, roles=roles, batch=batch, progress=bar.update)
            cached.attach(part, name)
    return cached  # of any part: they answer from what is attached


def _depends(teacher: LiveTeacher, rows: list[Example], batch: int | None = None) -> dict:
    """All that the kept numbers depend on. Their order is not part of it: rows are found by their tokens."""
    tokens_read = {_digest(row.prompt, tokens) for row in rows for tokens in row.responses}
    return {
        "teacher": teacher.checksum(),
        "tokens": hashlib.sha256("".join(sorted(tokens_read)).encode()).hexdigest(),
        "dtype": str(teacher.dtype),
        "format": 3,
        **({"batch": batch} if batch else {}),
    }


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


def _need_room(folder: Path, rows: list[Example], teacher: LiveTeacher) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if (free := shutil.disk_usage(there).free) < (needed := _bytes(rows, teacher)):
        raise CannotContinue(
            f"teacher cache {folder}: {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free; name a folder "
            "on another disk"
        )


def _bytes(rows: list[Example], teacher: LiveTeacher) -> int:
    """Of a float32 state and a norm for each token."""
    return sum(len(response) for row in rows for response in row.responses) * 4 * (teacher.head.shape[1] + 1)


def _digest(prompt: list[int], response: list[int]) -> str:
    tokens = np.array([len(prompt), *prompt, *response], dtype="<i4")
    return hashlib.blake2b(tokens.tobytes(), digest_size=16).hexdigest()


def _head_checksum(head: Tensor) -> str:
    return hashlib.sha256(tensor_bytes(head)).hexdigest()
