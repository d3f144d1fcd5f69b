"""A trained model as a folder that transformers and peft load, with its card, its record and its checksums."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from transformers import GenerationConfig

from alignkd_lab.errors import BadInput
from alignkd_lab.lm import folders, weights
from alignkd_lab.lm.context import Policy
from alignkd_lab.lm.models import Models, identity
from alignkd_lab.lm.settings import base_of_student
from alignkd_lab.lm.templates import end_ids
from alignkd_lab.lm.tiny import TINY
from alignkd_lab.provenance import provenance
from alignkd_lab.store import file_sha256, write_whole

RECORD = "record.json"
ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"  # what the built-in weights were quantised from


def licence(source: str) -> str:
    """Of a source's weights, as its card names it; "unknown" where it names none."""
    source = base_of_student(source)
    if source == weights.BUILT_IN or source in TINY or source.partition("@")[0] in weights.REVISIONS:
        return weights.LICENCE.lower()
    folder = weights.resolve(source)
    card = folder / "README.md"
    if card.is_file():
        from huggingface_hub import ModelCard

        with contextlib.suppress(Exception):  # a card that cannot be read names none
            if found := ModelCard.load(card, ignore_metadata_errors=True).data.license:
                return str(found)
    return licence(folders.base_of(folder)) if folders.is_adapter(folder) else "unknown"


def can_be_base(source: str) -> bool:
    """Whether transformers loads the source by itself, on another machine too, so that an adapter may lie beside it.

    The built-in model lies in this machine's cache, and the hub's is not the same: its weights were never quantised.
    """
    made_here = source != base_of_student(source) or source in (weights.BUILT_IN, *TINY)
    return not made_here and not folders.is_adapter(weights.resolve(source))


def save(model, tokenizer, folder: Path, record: dict, *, base: str, merge: bool) -> dict:
    """Writes the model (an adapter stays one unless `merge`), its tokenizer, a card and, last, the record.

    The card holds what the record holds. Returns the record, with the checksums of the weights' files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ends = GenerationConfig(eos_token_id=end_ids(tokenizer), pad_token_id=tokenizer.pad_token_id)
    if hasattr(model, "peft_config") and not merge:
        config = model.peft_config["default"]
        name, revision = weights.pinned(base)
        hub = not Path(base).is_dir()
        config.base_model_name_or_path = name if hub else str(weights.resolve(base).resolve())
        config.revision = (revision or None) if hub else None
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
        model.save_pretrained(folder)
    ends.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {**record, "files": {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}}
    (folder / "README.md").write_text(_card(record, base, (folder / folders.CONFIG).is_file()), encoding="utf-8")
    write_whole(folder / RECORD, json.dumps(record, indent=1, default=str))
    return record


def _card(record: dict, base: str, adapter: bool) -> str:
    from huggingface_hub import ModelCardData

    hub = base.count("/") == 1 and not Path(base).is_dir()
    origin = ORIGIN if base_of_student(base) == weights.BUILT_IN else base.partition("@")[0] if hub else None
    about = ModelCardData(
        license=record["licence"] if record["licence"] != "unknown" else None,
        base_model=origin,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["alignkd-lab", record["method"]],
    )
    parts = [f"---\n{about.to_yaml()}\n---\n", f"# {record['method']}: {base}\n"]
    for title, held in record.items():
        rows = held.items() if isinstance(held, dict) else [(title, held)]
        cells = [f"| {name} | {json.dumps(value, default=str)} |".replace("\n", " ") for name, value in rows]
        parts.append("\n".join([f"## {title.capitalize()}\n", "| | |", "| --- | --- |", *cells, ""]))
    return "\n".join(parts)


def export(stage: Path, out: Path) -> dict:
    """The policy of a stage that `alignkd run` kept, its adapters merged, as a folder of its own; its record.

    Raises:
        BadInput: `stage` holds no policy, or `out` holds something.
    """
    stage, out = Path(stage), Path(out)
    if not (stage / "policy.json").is_file():
        raise BadInput(f"stage: {stage} holds no policy.json; name a folder in OUT/stages of `alignkd run`")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"out: {out} holds something already; name a new folder")
    policy, depends = Policy.read(stage), stage / "depends.json"
    tokenizer = weights.load_tokenizer(policy.start)
    record = {
        "method": "export",
        "policy": {"start": policy.start, "adapters": len(policy.adapters), "digest": policy.digest},
        "depends": json.loads(depends.read_text()) if depends.is_file() else {},
        "weights": {"start": identity(policy.start), "base": weights.checksum(base_of_student(policy.start))},
        "licence": licence(policy.start),
        "provenance": provenance(),
    }
    return save(Models().of(policy), tokenizer, out, record, base=policy.start, merge=True)
