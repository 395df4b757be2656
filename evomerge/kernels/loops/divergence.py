"""How far rows' softmaxes are from each other, by sums and products alone, which every machine computes alike.

`evomerge.kernels.divergence` takes the same steps without numba. The exponentials and logarithms of libraries differ in
their last digits from processor to processor.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from evomerge.kernels.loops.compile import compiled, inner
from evomerge.kernels.loops.numbers import TREE, load, tree_sum

_LOG2_E, _LN2, _LN2_REST = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
_SHIFT, _ROOT_HALF = 1.5 * 2.0**52, 0x3FE6A09E667F3BCD
_EXPONENTIAL = tuple(1 / factorial(power) for power in range(13, -1, -1))
_ARTANH = tuple(1 / odd for odd in range(23, 0, -2))


@inner
def _exponential(number: Any) -> Any:
    x = -708.0 if number < -708.0 else number
    shifted = x * _LOG2_E + _SHIFT
    whole = shifted - _SHIFT
    rest = (x - whole * _LN2) - whole * _LN2_REST
    value = _polynomial(rest, _EXPONENTIAL)
    return value * _of_bits((np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52))


@inner
def _log_of_ratio(p: Any, q: Any) -> Any:
    power = (np.float64(p / q).view(np.int64) - np.int64(_ROOT_HALF)) >> np.int64(52)
    near = p * _of_bits((np.int64(1023) - power) << np.int64(52))
    s = (near - q) / (near + q)
    value = _polynomial(s * s, _ARTANH)
    return np.float64(power) * (_LN2 + _LN2_REST) + 2.0 * s * value


@inner
def _polynomial(x: Any, factors: Any) -> Any:
    """By Horner's rule, the factor of the largest power first."""
    value = factors[0]
    for place in range(1, len(factors)):
        value = value * x + factors[place]
    return value


@inner
def _of_bits(bits: Any) -> Any:
    return np.int64(bits).view(np.float64)


@compiled
def divergences(start: int, stop: int, sources: Any, codes: Any, length: int, floor: float, result: Any) -> None:
    """KL divergence of the softmax of rows start..stop from that of the base, which is the first source."""
    blocks = (length + TREE - 1) // TREE
    base, expert, parts = np.empty((blocks, TREE)), np.empty((blocks, TREE)), np.empty(TREE)
    for row in range(start, stop):
        of_base = 1.0 / _exponentials(sources[0], codes[0], row * length, length, base, parts)
        of_expert = 1.0 / _exponentials(sources[1], codes[1], row * length, length, expert, parts)
        total = 0.0
        for block in range(blocks):
            count = min(TREE, length - block * TREE)
            for i in range(count):
                p, q = expert[block, i] * of_expert + floor, base[block, i] * of_base + floor
                parts[i] = p * _log_of_ratio(p, q) - (p - q)
            total += tree_sum(parts, count)
        result[row] = 0.0 if total < 0.0 else total


@compiled
def _exponentials(address: int, code: int, first: int, length: int, values: Any, parts: Any) -> float:
    """Exponentials of a row's numbers less their largest, in blocks of TREE; returns their sum."""
    for i in range(TREE):
        parts[i] = -np.inf
    for block in range(len(values)):
        count = min(TREE, length - block * TREE)
        load(address, code, first + block * TREE, count, values[block])
        for i in range(count):
            parts[i] = max(parts[i], values[block, i])
    half = TREE // 2
    while half > 0:
        for i in range(half):
            parts[i] = max(parts[i], parts[half + i])
        half //= 2
    largest, total = parts[0], 0.0
    for block in range(len(values)):
        count = min(TREE, length - block * TREE)
        for i in range(count):
            values[block, i] = parts[i] = _exponential(values[block, i] - largest)
        total += tree_sum(parts, count)
    return total
