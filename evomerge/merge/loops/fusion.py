"""Loops of Arcee Fusion."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, as_size, compiled, load, load_difference, store


@compiled
def importances(start: int, stop: int, sources: Any, codes: Any, rows: Any, length: int, result: Any) -> None:
    """|τ| · row factor of elements start..stop as float32, NaN as infinity."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        for i in range(count):
            result[first - start + i] = as_size(abs(tau[i]) * rows[(first + i) // length])


@compiled
def merge_fusion(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    rows: Any,
    length: int,
    threshold: float,
    weight: float,
    out: int,
    out_code: int,
) -> bool:
    """Add the task vector where |τ| · row factor, as float32, reaches a threshold."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    finite = True
    first = start
    while first < stop:
        row = first // length
        count = min(BLOCK, min(stop, (row + 1) * length) - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        for i in range(count):
            size = np.float64(np.float32(abs(tau[i]) * rows[row]))
            base[i] += tau[i] * (weight if size >= threshold else 0.0)
        finite = store(base, out, out_code, first, count) and finite
        first += count
    return finite
