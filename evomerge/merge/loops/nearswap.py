"""The loop of NearSwap."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, compiled, load, load_difference, store


@compiled
def merge_nearswap(start: int, stop: int, sources: Any, codes: Any, t: float, out: int, out_code: int) -> bool:
    """Step from the first source to the second, whole where they are within t."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    finite = True
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        for i in range(count):
            distance = abs(tau[i])
            part = t / (1e-6 if distance < 1e-6 else distance)
            base[i] += (1.0 if part > 1.0 else part) * tau[i]
        finite = store(base, out, out_code, first, count) and finite
    return finite
