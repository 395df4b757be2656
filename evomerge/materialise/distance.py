"""How far weights are from those of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from evomerge.models.checkpoint import Checkpoint

DIGITS = 9
"""Significant digits of a distance: those that don't depend on threads or devices."""


def relative_distance(
    weights: Mapping[str, Tensor] | Callable[[str], Tensor],
    reference: Checkpoint,
    squares: dict[str, float] | None = None,
) -> float:
    """‖θ − θ_r‖ / ‖θ_r‖ over all floating-point tensors together, to `DIGITS` significant digits.

    Args:
        weights: θ, by the reference's names of tensors, on any device.
        reference: θ_r. Tensors that the weights lack are left out.
        squares: squared norms of the reference's tensors by name, filled for later distances from it.
    """
    squares = {} if squares is None else squares
    find = weights.get if isinstance(weights, Mapping) else weights
    apart = norm = 0.0
    for name in reference.names:
        tensor = find(name)
        other = reference.tensor(name)
        if tensor is None or not other.is_floating_point():
            continue
        other = other.to(tensor.device)
        apart += _square(tensor.float() - other.float())
        if name not in squares:
            squares[name] = _square(other.float())
        norm += squares[name]
    if norm == 0.0:
        return 0.0 if apart == 0.0 else math.inf
    return float(f"{math.sqrt(apart / norm):.{DIGITS}g}")


def _square(values: Tensor) -> float:
    """The squared norm, summed in float64."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
