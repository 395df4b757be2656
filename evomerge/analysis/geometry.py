"""Where models lie to each other in the space of their weights: inner products, and a frame for the plane of three."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.errors import CheckpointError, ConfigError
from evomerge.materialise.inputs import Inputs
from evomerge.methods.average.linear import TaskArithmetic
from evomerge.models.open import Models

MARGIN = 0.25
"""What a grid shows beyond the three models on each side, as a share of their extent."""
_CHUNK = 1 << 22
_FLAT = 1e-6

Corners = tuple[tuple[float, float], ...]


def differences(models: Models) -> NDArray[np.float64]:
    """Inner products of the experts' differences from the base, shape (experts, experts).

    Over all floating-point tensors, one after the other, in float64.

    Raises: CheckpointError if the models don't have the same tensors, or one of them isn't finite.
    """
    count = len(models.experts)
    gram = np.zeros((count, count))
    inputs = Inputs(models)
    method = TaskArithmetic({}, experts=tuple(models.experts), seed=0)
    for one in inputs.all(method, keep=False):
        assert one.base is not None
        first, *others = (tensor.reshape(-1) for tensor in (one.base, *one.experts))
        for start in range(0, len(first), _CHUNK):
            gram += _products([other[start : start + _CHUNK] for other in others], first[start : start + _CHUNK])
        if not np.isfinite(gram).all():
            raise CheckpointError(_broken(models, one.name, (one.base, *one.experts)))
    return gram


def _products(others: list[Tensor], first: Tensor) -> NDArray[np.float64]:
    rows = torch.stack([other.double() - first.double() for other in others])
    found: NDArray[np.float64] = (rows @ rows.T).numpy()
    return found


def _broken(models: Models, name: str, tensors: Sequence[Tensor]) -> str:
    folder = next(
        model.folder
        for model, tensor in zip(models.by_name.values(), tensors, strict=True)
        if not bool(torch.isfinite(tensor).all())
    )
    return f"{folder}: {name}: holds NaN or Inf, so that nothing can be said of what lies between it and others"


def frame(gram: NDArray[np.float64]) -> Corners:
    """Three models in the plane through them: the first at the origin, the second on the axis to the right.

    Args:
        gram: from `differences`, of three models.

    Raises: ConfigError if they lie on one line.
    """
    along = math.sqrt(gram[0, 0])
    x = gram[0, 1] / along if along > 0 else 0.0
    height = math.sqrt(max(0.0, gram[1, 1] - x * x))
    if along == 0 or height <= _FLAT * math.sqrt(gram[1, 1]):
        raise ConfigError("the three models lie on one line, so that there is no plane through them; give two of them")
    return (0.0, 0.0), (along, 0.0), (x, height)


def grid(corners: Corners, points: int) -> tuple[list[float], list[float], list[tuple[float, ...]]]:
    """A grid over three models and a margin round them (Garipov et al. 2018, §A.2).

    Args:
        corners: where the models are, from `frame`.
        points: on each side.

    Returns: places along and across, and each grid point's weights of the three models, row by row.
    """
    axes = []
    for side in zip(*corners, strict=True):
        margin = MARGIN * (max(side) - min(side))
        axes.append([float(at) for at in np.linspace(min(side) - margin, max(side) + margin, points)])
    (_, (along, _), (x, height)) = corners
    weights: list[tuple[float, ...]] = []
    for across in axes[1]:
        third = across / height
        for at in axes[0]:
            second = (at - third * x) / along
            weights.append((1.0 - second - third, second, third))
    return axes[0], axes[1], weights
