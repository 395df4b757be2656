"""The loop of MagMax."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, compiled, load_task_vectors, store


@compiled
def merge_magmax(
    start: int, stop: int, sources: Any, codes: Any, weights: Any, scale: float, out: int, out_code: int
) -> bool:
    """Per entry the weighted task vector of largest magnitude; of two opposite ones the positive."""
    base = np.empty(BLOCK, dtype=np.float64)
    best = np.empty(BLOCK, dtype=np.float64)
    poison = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((len(weights), BLOCK), dtype=np.float64)
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            best[i] = 0.0
            poison[i] = 0.0
        for k in range(len(weights)):
            for i in range(count):
                value = weights[k] * tau[k, i]
                # Not zero only for NaN and Inf, which no comparison may lose.
                poison[i] += value * 0.0
                larger = (abs(value) > abs(best[i])) | ((abs(value) == abs(best[i])) & (value > best[i]))
                best[i] = value if larger else best[i]
        for i in range(count):
            best[i] = base[i] + scale * (best[i] + poison[i])
        finite = store(best, out, out_code, first, count) and finite
    return finite
