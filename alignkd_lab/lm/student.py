"""The small model: a layer cut of the base, healed once, from which every pipeline starts.

Cut: keep the layers of highest measured block influence, 1 - mean cosine similarity of a layer's input and output
hidden states (Men et al. 2024, ShortGPT), with embeddings and final norm. Healing: full-vocabulary KD from the base
at temperature 1 on the base's own responses to prompts that nothing else uses. The result ships as a
low-rank adapter on the cut.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import training_losses, weights
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.architecture import backbone, head_of
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.chunked import token_log_probs
from alignkd_lab.lm.prompts import prompts
from alignkd_lab.lm.sampling import Samples, sample
from alignkd_lab.lm.scoring import pooled_mean, score
from alignkd_lab.lm.settings import HEALED
from alignkd_lab.lm.templates import encode, end_ids
from alignkd_lab.lm.trainer import adapter_tensors, merge_adapter, train, with_lora
from alignkd_lab.paths import cache_folder, data_folder, make_folder
from alignkd_lab.provenance import best_device, resolve_dtype
from alignkd_lab.store import file_sha256, write_whole

HEALING_BAR = 1.0  # nats per token that the healed student's held-out recall may lie below the base's


@dataclass(frozen=True)
class Recipe:
    """How the healed student is made; the samples are the base's own, at temperature 1."""

    base: str = weights.BUILT_IN
    layers: int = 20
    rank: int = 24
    responses: int = 4
    max_tokens: int = 28
    steps: int = 100
    batch: int = 6
    learning_rate: float = 1e-3
    sample_seed: int = 101
    heldout_seed: int = 102
    seed: int = 0


@torch.inference_mode()
def block_influence(model, examples: list[Example]) -> Tensor:
    """1 - mean cosine similarity between what enters and what leaves each layer, over all tokens; [layers].

    Raises BadInput for a model whose blocks are not found, or do not hand their states straight on to the norm.
    """
    batch = collate(examples)
    # A token that may look at itself alone is padding, or the first of its row.
    real = batch["attention_mask"][:, 0].sum(-1) > 1
    real[:, 0] = True
    at = real.flatten().nonzero().squeeze(1).to(model.device)
    seen: list[Tensor] = []

    def note(_, arguments) -> None:  # what enters a block, and in the end what enters the final norm
        seen.append(arguments[0].flatten(0, 1)[at].float())

    core = _core(model)
    hooks = [block.register_forward_pre_hook(note) for block in (*core.layers, core.norm)]
    try:
        hidden_states(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(seen) != len(core.layers) + 1:  # as of NanoChat, which asks its norm twice
        raise BadInput(f"heal: the final norm of {type(model).__name__} serves elsewhere, too; name a student instead")
    return torch.stack([1 - torch.cosine_similarity(a, b, dim=-1).mean() for a, b in pairwise(seen)]).cpu()


def _core(model):
    core = backbone(model)
    if not (hasattr(core, "layers") and hasattr(core, "norm")):
        raise BadInput(
            f"heal: {type(model).__name__} has no blocks `layers` under a final `norm`; name a student instead"
        )
    return core


def choose_layers(model, examples: list[Example], count: int, influence: Tensor, near: float = 1.15) -> list[int]:
    """The most influential layers, with near ties decided by what they are for: the recall of the cut.

    Many middle layers have nearly the same influence, and swapping one for another can move the cut's recall by a nat.
    So layers within a factor `near` of the last one kept are swapped, best first, while recall on `examples` rises.
    """
    kept = set(influence.topk(count).indices.tolist())
    last = min(float(influence[layer]) for layer in kept)
    tied = {layer for layer, value in enumerate(influence.tolist()) if last / near <= value <= last * near}

    def recall(layers: set[int]) -> float:
        batch = collate(examples)
        cut = layer_cut(model, sorted(layers))
        with torch.inference_mode():
            labels = batch["shift_labels"].to(model.device)
            return float(token_log_probs(hidden_states(cut, batch), head_of(cut), labels).mean())

    best = recall(kept)
    while True:
        swaps = [(kept - {leave}) | {enter} for leave in kept & tied for enter in tied - kept]
        found = [(recall(layers), layers) for layers in swaps]
        value, layers = max(found, key=lambda pair: pair[0], default=(best, kept))
        if value <= best:
            return sorted(kept)
        best, kept = value, layers


def layer_cut(model, layers: list[int]):
    """A copy of a model with only `layers` of its blocks; embeddings, final norm and head stay.

    Raises BadInput for layers that the model does not have, or a model whose blocks are not found.
    """
    core = _core(model)
    total = model.config.num_hidden_layers
    if not layers or sorted(set(layers)) != list(layers) or not 0 <= layers[0] <= layers[-1] < total:
        raise BadInput(f"layers: {layers} must be rising numbers from 0 to {total - 1}")
    kept = core.layers
    core.layers = torch.nn.ModuleList(kept[index] for index in layers)
    try:
        cut = copy.deepcopy(model)
    finally:
        core.layers = kept
    cut.config.num_hidden_layers, cut.admitted = len(layers), 0
    for name, value in vars(cut.config).items():  # what it says of each layer, such as its kind of attention
        if isinstance(value, list | tuple) and len(value) == total:
            setattr(cut.config, name, [value[index] for index in layers])
    for index, layer in enumerate(backbone(cut).layers):
        layer.self_attn.layer_idx = index  # the cache is addressed by it
    return cut


def healed_student(base: str = weights.BUILT_IN, name: str = "healed"):
    """The healed layer cut of `base`, in float32: the shipped adapter, or one made by `alignkd heal`, on the cut.

    `name` is `healed`, or `healed-16` for one of 16 layers.

    Raises:
        CannotContinue: no adapter was made for this base, or its file is damaged.
    """
    folder, recipe = _find(base, name)
    path = folder / "adapter.safetensors"
    if not path.is_file() or file_sha256(path) != recipe["adapter_sha256"]:
        raise CannotContinue(
            f"student: {path.name} in {folder} is missing or damaged; restore it, or run `alignkd heal`"
        )
    cut = layer_cut(weights.load(base)[0], recipe["kept_layers"])
    merge_adapter(cut, load_file(path))
    return cut.eval()


def student_identity(base: str = weights.BUILT_IN, name: str = "healed") -> str:
    """What a record names the healed student by."""
    return f"sha256:{_find(base, name)[1]['adapter_sha256']}"


def ensure_healed_student(base: str, name: str, device: str | None = None) -> None:
    """Makes the healed student that settings name, unless it is at hand; it is kept in the cache for every later run.

    Where its depth was chosen, a student below the bar is used: the run's check of healing says what it is worth.

    Raises:
        CannotContinue: one of the usual depth misses the bar.
    """
    layers = _layers(name)
    folder = _cache(base, layers)
    make_folder(folder.parent)
    with FileLock(f"{folder}.lock"):  # a second process waits here and then finds the work done
        try:
            _find(base, name)
        except CannotContinue:
            print(f"No {name} student of {base} is at hand: making one, kept in the cache for every later run",
                  file=sys.stderr)  # fmt: skip
            heal(base, layers, device=device)
        if layers is None:
            _check_gap(_find(base, name)[1])


def _check_gap(recipe: dict) -> None:
    if recipe.get("gap", 0.0) > HEALING_BAR:
        raise CannotContinue(
            f"student: healed recall lies {recipe['gap']:.2f} nats per token below the base's, over the bar of "
            f"{HEALING_BAR}; keep more than {recipe['layers']} layers, or raise steps or rank"
        )


def _layers(name: str) -> int | None:
    """16 for `healed-16`, None for `healed`."""
    asked = HEALED.fullmatch(name)[1]
    return int(asked) if asked else None


def _find(base: str, name: str) -> tuple[Path, dict]:
    wanted, layers = weights.checksum(base), _layers(name)
    for folder in (_cache(base, layers), data_folder() / "student"):
        if (folder / "recipe.json").is_file():
            recipe = json.loads((folder / "recipe.json").read_text())
            if recipe["base_checksum"] == wanted and layers in (None, recipe.get("layers")):
                return folder, recipe
    option = f" --layers {layers}" if layers else ""
    raise CannotContinue(
        f"student: no {name} student of {base} is at hand; run `alignkd heal --base {base}{option}` once, "
        f"or choose the base {weights.BUILT_IN} and the student 'healed'"
    )


def _cache(base: str, layers: int | None = None) -> Path:
    folder = f"student-{hashlib.sha256(weights.checksum(base).encode()).hexdigest()[:12]}"
    return cache_folder() / (f"{folder}-{layers}" if layers else folder)


def heal(
    base: str = weights.BUILT_IN,
    layers: int | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> Path:
    """Makes the healed student and writes `adapter.safetensors` and `recipe.json` into a folder (default: the cache).

    `layers` None keeps as many as the shipped student, and a run finds the result as the student `healed`; of 16
    layers, as `healed-16`. `device` None is a GPU where there is one. It is written below the bar, too.

    Raises:
        BadInput: a number of layers that the base does not have, a base that is refused (`lm.admission`), or a folder
            that cannot be written to.
        CannotContinue: a student of the usual depth misses the bar; the message holds the figures.
    """
    device = best_device(device)
    dtype = getattr(torch, resolve_dtype("default", device))
    recipe = Recipe(base=base) if layers is None else Recipe(base=base, layers=layers)
    started = time.perf_counter()
    make_folder(folder := Path(out) if out else _cache(recipe.base, layers))
    base, tokenizer = weights.load(recipe.base, device=device)
    _core(admit(base, recipe.base, adapted=True))
    if not 1 <= recipe.layers <= (total := base.config.num_hidden_layers):
        raise BadInput(f"layers: {recipe.layers} of {total} cannot be kept; choose 1 to {total}")
    admit(layer_cut(base, list(range(recipe.layers))), f"a layer cut of {recipe.base}")
    data = _own_samples(base, tokenizer, recipe, "healing", recipe.sample_seed, all_frames=True)
    heldout = _own_samples(base, tokenizer, recipe, "validation", recipe.heldout_seed, all_frames=False)
    examples = data.examples()
    bare = [Example(row.prompt, row.responses) for row in examples]
    influence = block_influence(base, bare[::20])
    kept = choose_layers(base, bare[::160], recipe.layers, influence)
    model = layer_cut(base, kept)
    recall = {"base": pooled_mean(heldout.log_probs), "cut": pooled_mean(score(model, heldout, dtype=dtype))}
    model = with_lora(model, recipe.rank)
    loss = training_losses.asking("kd", training_losses.carried(head_of(base).detach()))
    with tqdm(total=recipe.steps, desc="healing the student", unit="steps") as bar:
        train(model, examples, loss, learning_rate=recipe.learning_rate, steps=recipe.steps, batch=recipe.batch,
              seed=recipe.seed, dtype=dtype, on_step=lambda step: bar.update())  # fmt: skip
    # It ships in bfloat16, so that is what is measured.
    adapter = adapter_tensors(model, torch.bfloat16)
    healed = layer_cut(base, kept)
    merge_adapter(healed, adapter)
    recall["healed"] = pooled_mean(score(healed, heldout, dtype=dtype))
    trained = recipe.steps * recipe.batch * recipe.responses * data.token_count // len(data.tokens)
    tokens = {"sampled": data.token_count + heldout.token_count, "trained": trained}
    written = {
        **asdict(recipe),
        "base_checksum": weights.checksum(recipe.base),
        "kept_layers": kept,
        "block_influence": [round(value, 4) for value in influence.tolist()],
        "heldout_recall": recall,
        "gap": recall["base"] - recall["healed"],
        "bar": HEALING_BAR,
        "cost": {"seconds": round(time.perf_counter() - started), "tokens": tokens, "device": device},
    }
    write_student(folder, adapter, written)
    apart = (
        f"recall {recall['healed']:.2f}, base {recall['base']:.2f} nats per token, at most {HEALING_BAR} apart asked"
    )
    print(f"healed student: {apart}; in {folder}", file=sys.stderr)
    if layers is None:
        _check_gap(written)
    return folder


def write_student(folder: Path, adapter: dict[str, Tensor], recipe: dict) -> None:
    """Adapter first, then the recipe with its checksum, each moved into place whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        save_file(adapter, made := Path(scratch) / "adapter")
        recipe = {**recipe, "adapter_sha256": file_sha256(made)}
        os.replace(made, folder / "adapter.safetensors")
    write_whole(folder / "recipe.json", json.dumps(recipe, indent=1) + "\n")


def _own_samples(model, tokenizer, recipe: Recipe, split: str, seed: int, all_frames: bool) -> Samples:
    asked = encode(tokenizer, prompts(split, all_frames=all_frames))
    return sample(model, asked, recipe.responses, recipe.max_tokens, end_ids(tokenizer), seed, keep_hidden=True,
                  shown=f"sampling the base, {split} prompts")  # fmt: skip
