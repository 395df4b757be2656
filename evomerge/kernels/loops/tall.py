"""The formula of TALL masks and Consensus Task Arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import run
from evomerge.kernels.loops.sparse import task_vector
from evomerge.kernels.loops.tuples import each, formula, sizes, times, total


@each
def _vote(vector: Any, plain: Any, selectivity: Any, voice: Any) -> Any:
    """The expert's voice, 1 or 0, where it shapes the plain sum."""
    return voice if abs(vector) > selectivity * abs(plain - vector) else type(vector)(0)


@each
def _doubt(vector: Any, plain: Any, selectivity: Any, voice: Any, error: Any) -> Any:
    """Infinite where rounding could have tipped a vote that counts."""
    distance = abs(abs(vector) - selectivity * abs(plain - vector))
    return type(vector)(0.0 if (distance > error * (selectivity + type(vector)(1))) | (voice == 0) else np.inf)


@formula
def _formula(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    """Weighted sum of task vectors where at least `least` of those with a voice shape the plain sum."""
    weights, selectivity, voices, least, scale = numbers
    number = type(values[0])
    many = len(weights)
    vectors = task_vector(values[1:], values[0])
    plain, size = total(vectors), total(sizes(vectors))
    parts = times(vectors, weights)
    factor = scale if total(_vote(vectors, plain, selectivity, voices)) >= least else number(0)
    value = values[0] + total(parts) * factor
    error = np.float32((many + 8) * proofs.UNIT)
    doubt = total(_doubt(vectors, plain, selectivity, voices, error * size)) if size > number(0) else number(0)
    bound = error * abs(factor) * total(sizes(parts)) + proofs.SUM_ERROR * abs(value) + proofs.FLOOR
    return value, doubt + bound


@compiled
def agreement(start: int, stop: int, work: Any) -> bool:
    """Weighted sum where enough experts shape the plain sum."""
    return bool(run(_formula, start, stop, work))
