"""Weights in folders: adapters in PEFT's format, and whether what lies there is whole.

What was made here has its checksums; the hub names its files by theirs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from alignkd_lab.errors import BadInput, CannotContinue, refusing
from alignkd_lab.store import damage, file_sha256

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What is read of a folder: weights, configuration, tokenizer and template; and of that, what a training leaves there.
READ, _OURS = (".safetensors", ".json", ".txt", ".jinja", ".model"), ("record.json", "request.json")


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The source of the base that the adapter's configuration names.

    Raises:
        BadInput: it names none, or cannot be read.
    """
    with refusing(f"weights: {folder / CONFIG} cannot be read as an adapter's", ValueError, KeyError, TypeError):
        held = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name, revision = held["base_model_name_or_path"], held.get("revision")
    if not name:
        raise BadInput(f"weights: {folder / CONFIG} names no base; write its source as base_model_name_or_path there")
    return f"{name}@{revision}" if revision and not Path(name).is_dir() else name


def merge(model, folder: Path):
    """The base `model` with the adapter merged into its weights.

    Raises:
        BadInput: there are no safetensors, they are not those of an adapter of this base, or none that can be merged.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"weights: the adapter {folder} holds no {WEIGHTS}; save it with save_pretrained")
    with refusing(f"weights: the adapter {folder} does not fit its base", Exception), torch.random.fork_rng():
        adapted, held = get_peft_model(model, PeftConfig.from_pretrained(folder)), load_file(folder / WEIGHTS)
        differ = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) ^ set(held)
        set_peft_model_state_dict(adapted, held)
    if differ:  # peft would leave out what it does not find
        raise BadInput(
            f"weights: the adapter {folder} and its base have other layers ({', '.join(sorted(differ)[:3])}); "
            "name the base that it was trained on as base_model_name_or_path in its configuration"
        )
    if not hasattr(adapted, "merge_and_unload"):
        kind = adapted.active_peft_config.peft_type.value
        raise BadInput(f"weights: the adapter {folder} ({kind}) cannot be merged into weights; name a LoRA's folder")
    return adapted.merge_and_unload().requires_grad_()  # peft froze the base, all of which may be trained now


def is_whole(folder: Path) -> bool:
    """Whether no file is missing, of a download that may have been cut off: the hub's cache gives back what it has.

    An adapter may leave its tokenizer to its base.

    Raises:
        CannotContinue: a file of weights is damaged.
    """
    index, words = folder / "model.safetensors.index.json", ("tokenizer.json", "tokenizer.model", "vocab.json")
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    has = {path.name for path in folder.iterdir() if path.exists()}  # a link to nothing is a file that is missing
    wanted = {WEIGHTS} if is_adapter(folder) else {"config.json", *shards}
    if not (wanted <= has and (is_adapter(folder) or any(name in has for name in words))):
        return False
    for name in wanted:
        # The hub's cache links to its blobs, which are named by the checksum of what they hold.
        blob = (folder / name).resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob, *_stamp(blob)) != blob.name:
            raise CannotContinue(f"weights: {blob} does not have its checksum; delete it and run again")
    return True


def sha256_of(folder: Path) -> str:
    """Of the names, sizes and contents of all files of a model's folder that are read."""
    files = tuple(sorted(path for path in folder.resolve().iterdir() if path.suffix in READ and path.name not in _OURS))
    return _sha256_of(files, tuple(map(_stamp, files)))


@functools.cache
def _sha256_of(files: tuple[Path, ...], stamps: tuple) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def is_sound(folder: Path) -> bool:
    """Whether a folder that was sealed here is as it was then; looked at once a process while its files stay."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return bool(files) and _damage(folder, tuple(_stamp(path) for path in files)) is None


def _stamp(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


# Looked at again where a stamp has changed.
_sha256 = functools.cache(lambda path, *stamp: file_sha256(path))
_damage = functools.cache(lambda folder, stamps: damage(folder))


def check_out(out: Path) -> None:
    """Raises BadInput for a folder that holds something else than a training, begun or done."""
    if out.exists() and not (out / "request.json").is_file() and (
        not out.is_dir() or any(path for path in out.iterdir() if path.name != "dckd")
    ):  # fmt: skip
        raise BadInput(f"out: {out} holds something that is no training of ours; name another folder")
