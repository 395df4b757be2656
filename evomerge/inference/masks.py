"""Attention masks for rows whose nodes branch, and for models that look back through a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def windows_of(config: Any) -> dict[str, int | None]:
    """How far each kind of layer looks back, as transformers names the kinds; None is all the way."""
    config = getattr(config, "text_config", None) or config
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if not kinds or getattr(config, "use_sliding_window", True) is False:
        kinds = ["sliding_attention" if window and not kinds else "full_attention"]
    return {kind: window if kind == "sliding_attention" else None for kind in kinds}


def can_be_told(config: Any) -> bool:
    """Whether `attention_masks` says what every layer sees, so that all of them look all the way or through a window.

    Layers that look at chunks, or that keep a state, see something else, which short rows wouldn't show.
    """
    config = getattr(config, "text_config", None) or config
    kinds = set(getattr(config, "layer_types", None) or ())
    local = "local" in str(getattr(config, "attention_types", ""))
    return kinds <= {"full_attention", "sliding_attention"} and not local


def attention_masks(
    ends: Tensor, positions: Tensor, start: int, *, windows: Mapping[str, int | None], dtype: torch.dtype
) -> Any:
    """Additive attention masks (rows, 1, width, start + width); by layer type where a model has several.

    Args:
        ends: reach of each node, shape (rows, width).
        positions: depth of each node, shape (rows, width).
        start: columns of the prefix before the nodes' own.
        windows: how far each kind of layer looks back, from `windows_of`.
        dtype: of the model.
    """
    rows, width = ends.shape
    order = torch.arange(width, device=ends.device)
    seen = (order[None, :, None] >= order[None, None, :]) & (order[None, :, None] < ends[:, None, :])
    if start:
        seen = torch.cat([seen.new_ones((rows, width, start)), seen], dim=2)
    columns = torch.cat([torch.arange(start, device=ends.device).expand(rows, start), positions], dim=1)
    masks = {}
    for kind, window in windows.items():
        allowed = seen
        if window is not None and int(positions.max()) >= window:
            allowed = seen & (positions[:, :, None] - columns[:, None, :] < window)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=ends.device)
        masks[kind] = mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]
    return masks if len(masks) > 1 else next(iter(masks.values()))


def step_masks(positions: Tensor, columns: int, *, windows: Mapping[str, int | None], dtype: torch.dtype) -> Any:
    """Additive attention masks (rows, 1, 1, columns) for one token of each row whose columns are its positions.

    Args:
        positions: of the tokens, shape (rows, 1).
        columns: to be looked at.
        windows: how far each kind of layer looks back, from `windows_of`.
        dtype: of the model.
    """
    back = positions - torch.arange(columns, device=positions.device)
    masks = {}
    for kind, window in windows.items():
        hidden = back < 0 if window is None else (back < 0) | (back >= window)
        mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
        masks[kind] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None, None]
    return masks if len(masks) > 1 else next(iter(masks.values()))
