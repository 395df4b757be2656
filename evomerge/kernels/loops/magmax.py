"""The formula of MagMax."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import run
from evomerge.kernels.loops.sparse import task_vector
from evomerge.kernels.loops.tuples import each, fold, formula, times, total, zero_like


@each
def _poison(vector: Any) -> Any:
    """Not zero only for NaN and Inf, which no comparison may lose."""
    return vector * type(vector)(0)


@formula
def _larger(one: Any, other: Any) -> Any:
    """The one of larger magnitude; of two opposite ones the positive."""
    return one if (abs(one) > abs(other)) | ((abs(one) == abs(other)) & (one > other)) else other


@each
def _doubt(vector: Any, largest: Any) -> Any:
    """What taking this one for the largest would change, if rounding could have hidden that it is."""
    close = abs(vector) >= abs(largest) * np.float32(1.0 - 8.0 * proofs.UNIT)
    return abs(vector - largest) if close else type(vector)(0)


@formula
def _formula(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    weights, scale = numbers
    vectors = times(task_vector(values[1:], values[0]), weights)
    largest = fold(_larger, zero_like(values[0]), vectors)
    change = scale * (largest + total(_poison(vectors)))
    value = values[0] + change
    doubt = abs(scale) * total(_doubt(vectors, largest))
    return value, doubt * np.float32(1.01) + np.float32(8.0 * proofs.UNIT) * abs(change) + (
        proofs.SUM_ERROR * abs(value) + proofs.FLOOR
    )


@compiled
def merge_magmax(start: int, stop: int, work: Any) -> bool:
    """Per entry the weighted task vector of largest magnitude."""
    return bool(run(_formula, start, stop, work))
