"""Loops that give the magnitudes of task vectors, all or those in an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.numbers import BLOCK, as_size, load, load_difference


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
def count(bits: Any, drop: int, counts: Any, extremes: Any, spill: Any) -> int:
    """Count numbers by all their bits but the last `drop`, and widen the extremes of the counted places but 0.

    Those whose last bits aren't zero are collected in `spill` instead, if it has room for all; returns how many.
    """
    lowest, highest, spilled = extremes[0], extremes[1], 0
    for i in range(len(bits)):
        place = bits[i] >> drop
        if len(spill) > 0 and bits[i] != place << drop:
            spill[spilled] = bits[i]
            spilled += 1
        else:
            counts[place] += 1
            highest = max(highest, place)
            if place > 0:
                lowest = min(lowest, place)
    extremes[0], extremes[1] = lowest, highest
    return spilled


@compiled
def rank_steps(keys: Any, finest: float, result: Any) -> None:
    """Mid-ranks in each row, scaled to 0..finest and rounded.

    `keys` are sorted along rows: what is ranked in the upper 32 bits, where in the row it stands in the lower.
    """
    rows, length = keys.shape
    factor = finest / (2 * (length - 1))
    for row in range(rows):
        first = 0
        while first < length:
            value = keys[row, first] >> np.uint64(32)
            last = first
            while last + 1 < length and keys[row, last + 1] >> np.uint64(32) == value:
                last += 1
            step = np.uint8(np.rint((first + last) * factor))
            for i in range(first, last + 1):
                result[row, np.int64(keys[row, i] & np.uint64(0xFFFFFFFF))] = step
            first = last + 1


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
