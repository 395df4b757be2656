"""The formula of RAM and RAM+."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import run
from evomerge.kernels.loops.numbers import BLOCK, load_task_vectors
from evomerge.kernels.loops.sparse import task_vector
from evomerge.kernels.loops.tuples import each, formula, sizes, times, total


@each
def _changed(vector: Any, epsilon: Any) -> Any:
    number = type(vector)
    return number(1) if abs(vector) > epsilon else number(0)


@each
def _doubt(vector: Any, epsilon: Any) -> Any:
    """Infinite where the two, rounded to float32, are equal, so that it isn't known which is larger."""
    return type(vector)(np.inf if abs(vector) == epsilon else 0.0)


@formula
def _formula(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    """Mean of the task vectors that exceed epsilon; where only one does, that one times its boost."""
    weights, boosts, epsilon = numbers
    number = type(values[0])
    vectors = task_vector(values[1:], values[0])
    changed = _changed(vectors, epsilon)
    parts = times(times(vectors, changed), weights)
    boosted = times(parts, boosts)
    active = total(changed)
    several = active > number(1)
    value = values[0] + (total(parts) / active if several else total(boosted))
    size = total(sizes(parts)) if several else total(sizes(boosted))
    error = np.float32((len(weights) + 10) * proofs.UNIT)
    return value, total(_doubt(vectors, epsilon)) + error * size + proofs.SUM_ERROR * abs(value) + proofs.FLOOR


@compiled
def count_changed(start: int, stop: int, sources: Any, codes: Any, epsilon: float, shared: Any, own: Any) -> None:
    """Count, for each expert, the elements that it changed by more than epsilon: with others, and alone."""
    many = len(shared)
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    changes = np.empty(BLOCK, dtype=np.int64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            changes[i] = 0
        for k in range(many):
            for i in range(count):
                changes[i] += 1 if abs(tau[k, i]) > epsilon else 0
        for k in range(many):
            for i in range(count):
                changed = abs(tau[k, i]) > epsilon
                shared[k] += 1 if changed & (changes[i] > 1) else 0
                own[k] += 1 if changed & (changes[i] == 1) else 0


@compiled
def merge_ram(start: int, stop: int, work: Any) -> bool:
    """Mean over the experts that changed the entry."""
    return bool(run(_formula, start, stop, work))
