"""The loop of RAM and RAM+."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, compiled, load_task_vectors, store


@compiled
def merge_ram(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    boosts: Any,
    epsilon: float,
    out: int,
    out_code: int,
) -> bool:
    """Mean of the task vectors that exceed epsilon; where only one does, that one times its boost."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    shared = np.empty(BLOCK, dtype=np.float64)
    alone = np.empty(BLOCK, dtype=np.float64)
    active = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            shared[i] = 0.0
            alone[i] = 0.0
            active[i] = 0.0
        for k in range(many):
            for i in range(count):
                counts = 1.0 if abs(tau[k, i]) > epsilon else 0.0
                value = weights[k] * (tau[k, i] * counts)
                active[i] += counts
                shared[i] += value
                alone[i] += value * boosts[k]
        for i in range(count):
            base[i] += shared[i] / active[i] if active[i] > 1.0 else alone[i]
        finite = store(base, out, out_code, first, count) and finite
    return finite
