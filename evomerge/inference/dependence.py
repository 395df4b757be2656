"""Which tokens a model's answers depend on, exactly: gradients are zero where there is no path.

Unlike a difference of answers, that doesn't hang on how large the weights or how coarse the numbers are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from evomerge.inference.cache import PrefixCache
from evomerge.inference.forward import REFUSALS, ForwardPasses
from evomerge.inference.masks import attention_masks, windows_of

_log = logging.getLogger(__name__)

_HEAD, _BRANCH = 4, 3


def keeps_branches_apart(passes: ForwardPasses, tokens: Tensor, *, cached: bool) -> bool | None:
    """Whether a node depends on those above it, not on another branch, and on its position.

    A head is followed by two branches in one row.

    Args:
        passes: of the model.
        tokens: at least 10 of its vocabulary, shape (tokens,).
        cached: whether the head is read from cached keys and values.

    Returns: None if the model gives no gradients.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            # A copy, since what was made in inference mode takes no part in gradients.
            tokens = tokens.clone()
            paths, last = _depend(passes, tokens, cached, shift=0)
            _, moved = _depend(passes, tokens, cached, shift=2)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        _log.debug("no gradients to tell branches apart by: %s", error)
        return None
    head, other, own = paths[:_HEAD], paths[_HEAD : _HEAD + _BRANCH], paths[_HEAD + _BRANCH :]
    return bool(head[-1] and own[-2:].all() and not other.any()) and not torch.equal(last, moved)


def _depend(passes: ForwardPasses, tokens: Tensor, cached: bool, *, shift: int) -> tuple[Tensor, Tensor]:
    """On which tokens the answer after the second branch, moved away by `shift`, depends, and its logits."""
    size = _HEAD + 2 * _BRANCH
    ends = torch.tensor([size] * _HEAD + [_HEAD + _BRANCH] * _BRANCH + [size] * _BRANCH)
    positions = torch.tensor([*range(_HEAD + _BRANCH), *range(_HEAD + shift, _HEAD + shift + _BRANCH)])
    embedded: list[Tensor] = []

    def follow(module: Any, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().clone().requires_grad_())
        return embedded[-1]

    hook = passes.model.get_input_embeddings().register_forward_hook(follow)
    try:
        prefix = PrefixCache() if cached else None
        if prefix is not None:
            _logits(passes, tokens[:_HEAD], positions[:_HEAD], ends[:_HEAD].clamp(max=_HEAD), 0, prefix)
        first = _HEAD if cached else 0
        below = None if prefix is None else prefix.below(1)
        last = _logits(passes, tokens[first:size], positions[first:], ends[first:] - first, first, below)[0, -1]
        weights = torch.linspace(1.0, 2.0, len(last), device=last.device, dtype=last.dtype)
        gradients = torch.autograd.grad((last.log_softmax(-1) * weights).sum(), embedded, materialize_grads=True)
    finally:
        hook.remove()
    return torch.cat([gradient[0].ne(0).any(dim=-1) for gradient in gradients]).cpu(), last.detach()


def _logits(
    passes: ForwardPasses, tokens: Tensor, positions: Tensor, ends: Tensor, start: int, prefix: PrefixCache | None
) -> Tensor:
    device, model = passes.device, passes.model
    places = positions[None].to(device)
    mask = attention_masks(ends[None].to(device), places, start, windows=windows_of(model.config), dtype=model.dtype)
    inputs: dict[str, Any] = {"input_ids": tokens[None].to(device), "position_ids": places, "attention_mask": mask}
    if prefix is not None:
        inputs["past_key_values"] = prefix.cache
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits
