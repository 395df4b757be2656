"""Loops of weighted sums and inner products."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled
from evomerge.kernels.loops.elementwise import make_buffers, run_segment
from evomerge.kernels.loops.numbers import BLOCK, TREE, load, store, tree_sum
from evomerge.kernels.loops.tuples import column, formula, in_single, sizes, times, total


@formula
def _weighted_sum(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
    """Σ coefficient · value. Coefficients and products are rounded once each, and the sum once less often."""
    size = total(times(sizes(values), sizes(numbers)))
    return total(times(values, numbers)), np.float32((len(values) + 4) * proofs.UNIT) * size + proofs.FLOOR


@compiled
def span(start: int, stop: int, work: Any) -> bool:
    """Weighted sums; the work's numbers are coefficients, shape (sources, rows), and the length of a row."""
    coefficients, length = work[5]
    buffers = make_buffers(work[0])
    finite, first = True, start
    while first < stop:
        row = first // length
        last = min(stop, (row + 1) * length)
        wide = column(coefficients, row, work[0])
        finite = run_segment(_weighted_sum, first, last, work, wide, in_single(work[6], wide), buffers) and finite
        first = last
    return finite


@compiled
def gram(
    start: int, stop: int, sources: Any, codes: Any, origin: int, origin_code: int, length: int, partial: Any
) -> None:
    """Inner products of all pairs, less an origin unless its address is 0, into partial[row, block, pair].

    `start` and `stop` count blocks: each row of `length` elements has as many as it takes to cover it.
    """
    many, blocks = len(sources), partial.shape[1]
    values = np.zeros((many, TREE), dtype=np.float64)
    zero = np.zeros(TREE, dtype=np.float64)
    products = np.empty(TREE, dtype=np.float64)
    for unit in range(start, stop):
        row, block = unit // blocks, unit % blocks
        first = row * length + block * TREE
        count = min(TREE, length - block * TREE)
        if origin != 0:
            load(origin, origin_code, first, count, zero)
        for k in range(many):
            load(sources[k], codes[k], first, count, values[k])
            for i in range(count):
                values[k, i] -= zero[i]
        pair = 0
        for a in range(many):
            for b in range(a, many):
                for i in range(count):
                    products[i] = values[a, i] * values[b, i]
                partial[row, block, pair] = tree_sum(products, count)
                pair += 1


@compiled
def low_rank(
    start: int, stop: int, base: int, code: int, left: Any, right: Any, factor: float, out: int, out_code: int
) -> None:
    """Rows start..stop of base + factor · left · right, products added in the order of the rank."""
    rank, columns = right.shape
    total = np.empty(BLOCK, dtype=np.float64)
    values = np.empty(BLOCK, dtype=np.float64)
    for first in range(0, columns, BLOCK):
        count = min(BLOCK, columns - first)
        for row in range(start, stop):
            for i in range(count):
                total[i] = 0.0
            for k in range(rank):
                weight = left[row, k]
                for i in range(count):
                    total[i] += weight * right[k, first + i]
            load(base, code, row * columns + first, count, values)
            for i in range(count):
                values[i] += factor * total[i]
            store(values, out, out_code, row * columns + first, count)
