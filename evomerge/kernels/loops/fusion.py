"""The formula of Arcee Fusion, and the quantity it chooses by."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import make_buffers, run_segment
from evomerge.kernels.loops.numbers import BLOCK, as_size, load, load_difference
from evomerge.kernels.loops.tuples import formula, in_single


@compiled
def importances(start: int, stop: int, sources: Any, codes: Any, rows: Any, length: int, result: Any) -> None:
    """|τ| · row factor of elements start..stop as float32, NaN as infinity."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    first = start
    while first < stop:
        row = first // length
        count = min(BLOCK, stop - first, (row + 1) * length - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        factor = rows[row]
        for i in range(count):
            result[first - start + i] = as_size(abs(tau[i]) * factor)
        first += count


@formula
def _formula(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    row, threshold, weight = numbers
    number = type(values[0])
    vector = values[1] - values[0]
    size = number(np.float32(abs(vector) * row))
    value = values[0] + vector * (weight if size >= threshold else number(0))
    change = weight * vector
    # Where rounding could have tipped the choice, either may be right.
    close = abs(size - threshold) <= np.float32(8.0 * proofs.UNIT) * (size + abs(threshold)) + proofs.FLOOR
    doubt = np.float32(1.01) * abs(change) if close else number(0)
    error = np.float32(4.0 * proofs.UNIT) * abs(change)
    return value, doubt + error + proofs.SUM_ERROR * abs(value) + proofs.FLOOR


@compiled
def merge_fusion(start: int, stop: int, work: Any) -> bool:
    """Add the task vector where |τ| · row factor, as float32, reaches a threshold.

    The work's numbers are the rows' factors, their length, the threshold and the task vector's weight.
    """
    rows, length, threshold, weight = work[5]
    buffers = make_buffers(work[0])
    finite, first = True, start
    while first < stop:
        row = first // length
        last = min(stop, (row + 1) * length)
        wide = (rows[row], threshold, weight)
        small = in_single(work[6], wide)
        finite = run_segment(_formula, first, last, work, wide, small, buffers) and finite
        first = last
    return finite
