"""Adapters in PEFT's format: the base that one belongs to, and the two merged."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from alignkd_lab.errors import BadInput, first_line

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The source of the base that the adapter's configuration names.

    Raises:
        BadInput: it names none, or cannot be read.
    """
    try:
        held = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        name, revision = held["base_model_name_or_path"], held.get("revision")
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"weights: {folder / CONFIG} cannot be read as an adapter's ({error!r})") from error
    if not name:
        raise BadInput(f"weights: {folder / CONFIG} names no base; write its source as base_model_name_or_path there")
    return f"{name}@{revision}" if revision and not Path(name).is_dir() else name


def merge(model, folder: Path):
    """The base `model` with the adapter merged into its weights.

    Raises:
        BadInput: there are no safetensors, or they are not those of an adapter of this base.
    """
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"weights: the adapter {folder} holds no {WEIGHTS}; save it with save_pretrained")
    try:
        with torch.random.fork_rng():
            adapted, held = get_peft_model(model, PeftConfig.from_pretrained(folder)), load_file(folder / WEIGHTS)
            differ = set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) ^ set(held)
            set_peft_model_state_dict(adapted, held)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as error:
        raise BadInput(f"weights: the adapter {folder} does not fit its base ({first_line(error)})") from error
    if differ:  # peft would leave out what it does not find
        raise BadInput(
            f"weights: the adapter {folder} and its base have other layers ({', '.join(sorted(differ)[:3])}); "
            "name the base that it was trained on as base_model_name_or_path in its configuration"
        )
    return adapted.merge_and_unload()
