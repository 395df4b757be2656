"""Loops of SCE."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from evomerge.kernels.loops.compile import compiled, inner
from evomerge.kernels.loops.numbers import BLOCK, as_size, element, load_task_vectors, uint8_at

_LOOKED_AT = 64


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


@inner
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
def into_levels(
    start: int, stop: int, sources: Any, codes: Any, edges: Any, levels: Any, counts: Any, energy: Any
) -> None:
    """Give elements start..stop the number of edges that their variance reaches, and count them and add up τ² by it.

    At most 255 edges, ascending. `levels` are those of all elements, `counts` (levels,) and `energy` (experts, levels)
    those of this part.
    """
    many = len(sources) - 1
    padded = np.full(255, np.nan, dtype=np.float32)
    padded[: len(edges)] = edges
    base = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    found = np.empty(BLOCK, dtype=np.int64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for i in range(count):
            value = as_size(spread[i])
            # Without branches, since nobody can foretell which way they would go.
            level = 0
            for step in (128, 64, 32, 16, 8, 4, 2, 1):
                level += step * int(padded[level + step - 1] <= value)
            found[i] = level
        for i in range(count):
            levels[first + i] = found[i]
            counts[found[i]] += 1
        for k in range(many):
            for i in range(count):
                energy[k, found[i]] += tau[k, i] * tau[k, i]


@compiled
def entries_of(
    start: int, stop: int, sources: Any, codes: Any, levels: int, level: int, places: Any, sizes: Any, tau: Any
) -> int:
    """Collect where bytes start..stop at `levels` equal one level, with the variance and each task vector there.

    Returns how many do.
    """
    wanted, total = np.uint8(level), 0
    for first in range(start, stop, _LOOKED_AT):
        count = min(_LOOKED_AT, stop - first)
        here = carray(uint8_at(levels + first), (count,))
        hits = np.uint8(0)
        for i in range(count):
            hits |= np.uint8(here[i] == wanted)
        # Most blocks have none.
        if hits == 0:
            continue
        for i in range(count):
            places[total] = first + i
            total += int(here[i] == wanted)
    # Model by model, so that one read from memory needn't wait for another.
    base, spread = np.empty(total), np.empty(total)
    _gather(sources[0], codes[0], places, total, base)
    for k in range(len(sources) - 1):
        _gather(sources[k + 1], codes[k + 1], places, total, tau[k])
        for i in range(total):
            tau[k, i] -= base[i]
    _variance(tau, total, base, spread)
    for i in range(total):
        sizes[i] = as_size(spread[i])
    return total


@inner
def _gather(source: int, code: int, places: Any, count: int, values: Any) -> None:
    for i in range(count):
        values[i] = element(source, code, places[i])
