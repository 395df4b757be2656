"""Loops that give the magnitudes of task vectors, all or those in an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.merge.loops.elements import BLOCK, as_size, compiled, load, load_difference


@compiled
def magnitudes(start: int, stop: int, sources: Any, codes: Any, result: Any) -> None:
    """|second − first source| of elements start..stop as float32, NaN as infinity."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        for i in range(count):
            result[first - start + i] = as_size(tau[i])


@compiled
def magnitudes_between(start: int, stop: int, sources: Any, codes: Any, least: float, most: float, found: Any) -> int:
    """Collect |second − first source| in [least, most) as float32; returns how many there are."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    total = 0
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        hits = 0
        for i in range(count):
            tau[i] = abs(tau[i])
        for i in range(count):
            hits += 1 if (tau[i] >= least) & (tau[i] < most) else 0
        # Most blocks have none, and looking for them one by one is what costs.
        if hits > 0:
            for i in range(count):
                if tau[i] >= least and tau[i] < most:
                    found[total] = np.float32(tau[i])
                    total += 1
    return total


@compiled
def tally(start: int, stop: int, sources: Any, codes: Any, drop: int, counts: Any, least: Any, most: Any) -> None:
    """Count |second − first source| as float32 by its bits but for the last `drop`, with the extremes of these."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    mask = (1 << drop) - 1
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        for i in range(count):
            bits = np.int64(np.float32(as_size(tau[i])).view(np.int32))
            place, rest = bits >> drop, bits & mask
            counts[place] += 1
            least[place] = min(least[place], rest)
            most[place] = max(most[place], rest)
