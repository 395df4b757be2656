"""Loops of SCE."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, TREE, as_size, compiled, load_task_vectors, store, tree_sum


@compiled
def variances(start: int, stop: int, sources: Any, codes: Any, result: Any) -> None:
    """Variance over experts of elements start..stop of the task vectors as float32, NaN as infinity."""
    many = len(sources) - 1
    base = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for i in range(count):
            result[first - start + i] = as_size(spread[i])


@compiled
def _variance(tau: Any, count: int, mean: Any, spread: Any) -> None:
    """Variance over the first axis, the mean being scratch."""
    many = len(tau)
    for i in range(count):
        mean[i] = 0.0
        spread[i] = 0.0
    for k in range(many):
        for i in range(count):
            mean[i] += tau[k, i]
    for i in range(count):
        mean[i] /= many
    for k in range(many):
        for i in range(count):
            spread[i] += (tau[k, i] - mean[i]) * (tau[k, i] - mean[i])
    for i in range(count):
        spread[i] /= many


@compiled
def energies(start: int, stop: int, sources: Any, codes: Any, threshold: float, partial: Any) -> None:
    """Sums of τ² where the variance over experts reaches a threshold, into partial[expert, block]."""
    many = len(sources) - 1
    base = np.empty(TREE, dtype=np.float64)
    spread = np.empty(TREE, dtype=np.float64)
    squares = np.empty(TREE, dtype=np.float64)
    tau = np.empty((many, TREE), dtype=np.float64)
    for first in range(start, stop, TREE):
        count = min(TREE, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for k in range(many):
            for i in range(count):
                squares[i] = tau[k, i] * tau[k, i] * (1.0 if spread[i] >= threshold else 0.0)
            partial[k, first // TREE] = tree_sum(squares, count)


@compiled
def merge_sce(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    threshold: float,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Weighted mean of the task vectors that have their sum's sign, where they vary enough."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    mean = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    divisor = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, mean, spread)
        for i in range(count):
            votes[i] = 0.0
            total[i] = 0.0
            divisor[i] = 0.0
        for k in range(many):
            for i in range(count):
                tau[k, i] *= 1.0 if spread[i] >= threshold else 0.0
                votes[i] += tau[k, i]
        for i in range(count):
            votes[i] = -1.0 if votes[i] < 0.0 else 1.0
        for k in range(many):
            for i in range(count):
                agrees = 1.0 if tau[k, i] * votes[i] > 0.0 else 0.0
                total[i] += weights[k] * tau[k, i] * agrees
                divisor[i] += weights[k] * agrees
        for i in range(count):
            mean[i] = base[i] + scale * (total[i] / (divisor[i] if divisor[i] != 0.0 else 1.0))
        store(mean, out, out_code, first, count)
