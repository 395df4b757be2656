"""The loop of TALL masks and Consensus Task Arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, compiled, load_task_vectors, store


@compiled
def agreement(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    selectivity: Any,
    chosen: int,
    least: float,
    scale: float,
    out: int,
    out_code: int,
) -> bool:
    """Weighted sum of task vectors where one of them (`chosen`), or at least `least` of them, shapes the plain sum."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    weighted = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            total[i] = 0.0
            weighted[i] = 0.0
            votes[i] = 0.0
        for k in range(many):
            for i in range(count):
                total[i] += tau[k, i]
                weighted[i] += weights[k] * tau[k, i]
        for k in range(many):
            if chosen < 0 or chosen == k:
                for i in range(count):
                    votes[i] += 1.0 if abs(tau[k, i]) > selectivity[k] * abs(total[i] - tau[k, i]) else 0.0
        for i in range(count):
            total[i] = base[i] + weighted[i] * (scale if votes[i] >= least else 0.0)
        finite = store(total, out, out_code, first, count) and finite
    return finite
