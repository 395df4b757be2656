"""Task vectors of chosen rank, prepared by a method of matrices."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.methods.base import TensorInputs
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.streams import stream
from evomerge.testing.inputs import options_of

Matrix = NDArray[np.float64]


def task_vectors(shape: tuple[int, int], count: int, seed: int = 0) -> list[Matrix]:
    generator = stream(seed, "tau", *shape)
    return [generator.standard_normal(shape) * 0.01 for _ in range(count)]


def inputs_of(tau: list[Matrix], *, name: str = "layer.weight", dtype: torch.dtype = torch.float64) -> TensorInputs:
    """A base of zeros, so that experts are their task vectors exactly."""
    return TensorInputs(
        name=name,
        base=torch.zeros(tau[0].shape, dtype=dtype),
        experts=tuple(torch.from_numpy(vector).to(dtype) for vector in tau),
    )


def prepared(method: type[MatrixMethod], tau: list[Matrix], **options: object) -> list[Matrix]:
    names = tuple(f"expert_{index}" for index in range(len(tau)))
    instance = method(options_of(method, **{"stored_as": "float64", **options}), experts=names, seed=0)
    state = instance.prepare(inputs_of(tau))
    assert state is not None
    return [part.numpy() for part in state]
