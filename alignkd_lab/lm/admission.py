"""A model is admitted before any work: what the fast path computes is compared with `model(ids).logits`.

Compared on a few tokens, or on as many as take the text beyond an attention window: the log-probabilities of packed,
masked rows through the chunked head, in training mode (where dropout would show), and the distribution that sampling
draws from. Refused for good: encoder-decoders, code from a repository, models that read a mask or positions of their
own (ALiBi, recurrent and state-space layers), and, to be trained by an adapter, mixtures of experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alignkd_lab.errors import BadInput
from alignkd_lab.lm.architecture import backbone, head_of, logits, parts_of, plain, without_dropout
from alignkd_lab.lm.batch import Example, collate, hidden_states
from alignkd_lab.lm.chunked import token_log_probs
from alignkd_lab.lm.sampling import sample

LENGTH = 32  # tokens of the longest text, where no window is in reach
# Root mean square difference of the log-probabilities of a position, over the standard deviation of its logits; on the
# built-in model rounding makes 1e-5. In 16 bits it makes more.
TOLERANCE, HALF = 1e-4, 0.05


def admit(model, name: str = "this model", *, reach: int = 0, adapted: bool = False):
    """The model with its dropout off, if the fast path is exact on it; a model and its copies are checked once.

    `reach` is the longest text, prompt and response, that the work will read; `adapted` says that LoRA will train it.

    Raises:
        BadInput: the fast path differs, with both numbers and the likely cause; `reach` is beyond what the model reads;
            or an adapter would leave matrices of its blocks out.
    """
    without_dropout(model)
    core = plain(model)
    limit = check_reach(core.config, name, reach)
    if adapted and (left_out := next(unadapted(model), None)):
        raise BadInput(
            f"{name}: LoRA does not reach {left_out} ({core.config.model_type}), a matrix outside every linear layer, "
            "as of an expert or a state space; choose a dense model"
        )
    reached = [window for window in _windows(core.config.get_text_config()) if window < reach]
    length = min(max(LENGTH, min(reach, 2 * max(reached, default=0))), limit)
    if length > getattr(core, "admitted", 0):
        with torch.autocast(core.device.type, enabled=False):  # rounding is no fault of the model's
            _compare(model, f"{name} ({core.config.model_type})", length)
        core.admitted = length
    return model


def unadapted(model) -> Iterator[str]:
    """Matrices between embeddings and head that are the weight of no linear layer, so that no LoRA trains them."""
    for name, module in backbone(model).named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D | torch.nn.Embedding):
            own = module.named_parameters(recurse=False)
            yield from (f"{name}.{key}".lstrip(".") for key, weight in own if weight.ndim > 1)


def _windows(config) -> list[int]:
    """Every length at which attention may change, whatever an architecture calls it."""
    named = [value for name, value in vars(config).items() if "window" in name or "chunk" in name]
    return [value for value in named if type(value) is int and value > 1]


def check_reach(config, name: str, reach: int) -> int:
    """Tokens that a model can read with the positions that it has for one text; BadInput where `reach` is more."""
    config = config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    for part in (rope, *rope.values()):
        if isinstance(part, dict) and part.get("rope_type") in ("dynamic", "longrope"):  # turned by the longest text
            original = getattr(config, "original_max_position_embeddings", None)
            limits.append(part.get("original_max_position_embeddings") or original)
    most = min((limit for limit in limits if limit and limit > 0), default=1 << 60)
    if reach > most:
        raise BadInput(
            f"{name}: texts of up to {reach} tokens are asked for, and it reads at most {most}; lower max_length or "
            "max_tokens"
        )
    return most


def _examples(model, length: int) -> list[Example]:
    """A text of that length with two responses in one row, and a short one beside it, which is padded."""
    rows = plain(model).get_input_embeddings().num_embeddings
    ids = torch.randint(rows, (length + 12,), generator=torch.Generator().manual_seed(0)).tolist()
    long, short = min(9, length - 2), min(5, length - 2)
    first = Example(ids[12 : 12 + length - long], [ids[-short:], ids[-long:]])
    return [first, Example(ids[:4], [ids[4:7]])]


@torch.no_grad()
def _compare(model, name: str, length: int) -> None:
    training, examples = model.training, _examples(model, length)
    try:
        texts = [(example.prompt, tokens) for example in examples for tokens in example.responses]
        expected, labels = _plain(model, texts)
        if not expected.isfinite().all():
            raise BadInput(
                f"{name}: model(ids).logits are no finite numbers; its weights are damaged or left a training that "
                "diverged: name another model, or an earlier checkpoint"
            )
        found, scored = _fast(model.train(), examples)
        if not _close(model, found, scored, expected, labels):
            raise _refusal(model.eval(), name, "scoring", scored, labels, _cause(model, examples, expected, labels))
        ends = range(0, found.shape[1], 3)  # a third of all tokens, so that some rows end early
        drawn = sample(model.eval(), [example.prompt for example in examples], 2, 4, ends, seed=0, keep_hidden=True)
        texts = [(drawn.prompt_ids[at], tokens) for at, tokens in zip(drawn.prompt_of, drawn.tokens, strict=True)]
        expected, labels = _plain(model, texts)
        found = _whole(torch.cat(drawn.hidden).to(model.device), head_of(model))
        scored = torch.cat(drawn.log_probs).to(labels)
        if not _close(model, found, scored, expected, labels):
            raise _refusal(
                model, name, "sampling", scored, labels, "its cache does not serve prompts padded on the left"
            )
    except (BadInput, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a model raises that takes no packed rows
        raise BadInput(
            f"{name}: it does not run on packed rows ({type(error).__name__}: {error}); choose a plain causal model"
        ) from error
    finally:
        model.train(training)


def _plain(model, texts: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor]:
    """By `model(ids).logits`, a text at a time: log-probabilities of every token, [N, V], and of the labels, [N]."""
    found = []
    for prompt, tokens in texts:
        ids = torch.tensor([[*prompt, *tokens]], device=model.device)
        rows = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
        found.append(rows.to(torch.promote_types(rows.dtype, torch.float32)).log_softmax(-1))
    whole = torch.cat(found)
    labels = torch.tensor([token for _, tokens in texts for token in tokens], device=whole.device)
    return whole, whole.gather(1, labels[:, None]).squeeze(1)


def _fast(model, examples: list[Example]) -> tuple[Tensor, Tensor]:
    """The same by the fast path."""
    batch = collate(examples)
    states, head = hidden_states(model, batch), head_of(model)
    labels = batch["shift_labels"].to(head.device)
    return _whole(states, head), token_log_probs(states, head, labels, chunk=5)


def _whole(states: Tensor, head) -> Tensor:
    return logits(states, *parts_of(head)).log_softmax(-1)


def _close(model, found: Tensor, scored: Tensor, expected: Tensor, labels: Tensor) -> bool:
    tolerance = HALF if model.dtype.itemsize == 2 else TOLERANCE
    spread = expected.std(-1).clamp_(min=0.05)  # of a model that knows nothing, rounding is all there is
    whole = ((found - expected).square().mean(-1).sqrt() / spread).max()
    single = ((scored - labels).abs() / spread).max()
    return bool(whole <= tolerance) and bool(single <= 10 * tolerance)


def _cause(model, examples: list[Example], expected: Tensor, labels: Tensor) -> str:
    """What makes the difference, found by leaving one thing out after another; the model is in eval mode."""
    if _close(model, *_fast(model, examples), expected, labels):
        return "its dropout stays on in training"
    alone = [_fast(model, [Example(row.prompt, [tokens])]) for row in examples for tokens in row.responses]
    if _close(model, *map(torch.cat, zip(*alone, strict=True)), expected, labels):
        return "its attention does not take the mask and the positions of packed rows"
    short = [Example(row.prompt[-2:], [tokens[:3] for tokens in row.responses]) for row in examples]
    texts = [(row.prompt, tokens) for row in short for tokens in row.responses]
    if _close(model, *_fast(model, short), *_plain(model, texts)):
        return "its attention window, or what else tells long texts from short ones, is not kept"
    return "its head does more than multiply, scale and cap, or its attention takes no mask"


def _refusal(model, name: str, what: str, found: Tensor, expected: Tensor, cause: str) -> BadInput:
    mine, its = (math.fsum(values.tolist()) for values in (found, expected))
    return BadInput(
        f"{name}: the fast path's {what} gives {len(found)} tokens a log-probability of {mine:.6g}, and "
        f"model(ids).logits one of {its:.6g}; likely because {cause}. Choose another model, such as a Llama or a Qwen"
    )
