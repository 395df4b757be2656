"""Loops of weighted sums and inner products."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from evomerge.merge.loops import narrow
from evomerge.merge.loops.elements import (
    BFLOAT16,
    BLOCK,
    FLOAT32,
    TREE,
    are_finite,
    compiled,
    contracted,
    element,
    float32_at,
    inner,
    load,
    load_sum,
    lower,
    store,
    to_bfloat16,
    tree_sum,
    uint16_at,
    uint32_at,
    upper,
    widen,
)

_PAIRS = 512
"""Pairs of elements that are merged at a time."""


@compiled
def span(
    start: int, stop: int, sources: Any, codes: Any, coefficients: Any, length: int, out: int, out_code: int
) -> bool:
    """Elements start..stop of Σ coefficient · source, with a row of coefficients for every `length` elements."""
    wide = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(narrow.BLOCK, dtype=np.float32)
    size = np.empty(narrow.BLOCK, dtype=np.float32)
    marks = np.empty(_PAIRS, dtype=np.int32)
    provable = narrow.readable(sources, codes, FLOAT32, out, out_code) and narrow.all_representable(coefficients)
    # The usual case has a loop of its own.
    width = 2 if len(sources) <= 4 and narrow.readable(sources, codes, BFLOAT16, out, out_code) else 1
    most = 2 * _PAIRS if width == 2 else narrow.BLOCK
    finite, tried, failed = True, 0, 0
    first = start
    while first < stop:
        row = first // length
        last = min(stop, (row + 1) * length)
        if not (provable and narrow.worthwhile(tried, failed)):
            last = min(first + BLOCK, last)
            finite = _sum(sources, codes, coefficients, row, first, last - first, wide, out, out_code) and finite
            first = last
            continue
        last = min(first + most, last)
        units = (last - first) // width
        if width == 2:
            joined = _sum_pairs(sources, coefficients[row], first, units, out, marks)
        else:
            joined = _sum_narrow(sources, codes, coefficients[row], first, units, total, size, out, marks)
        tried += units
        if narrow.unsure(joined):
            for i in range(units):
                if narrow.unsure(marks[i]):
                    failed += 1
                    finite = _sum_each(sources, codes, coefficients, row, first + i * width, width, out) and finite
        rest = last - first - units * width
        finite = _sum_each(sources, codes, coefficients, row, last - rest, rest, out) and finite
        first = last
    return finite


@inner
def _sum(
    sources: Any, codes: Any, coefficients: Any, row: int, first: int, count: int, wide: Any, out: int, out_code: int
) -> bool:
    for i in range(count):
        wide[i] = 0.0
    for k in range(len(sources)):
        load_sum(sources[k], codes[k], first, count, coefficients[row, k], wide)
    return bool(store(wide, out, out_code, first, count))


@compiled
def _sum_each(sources: Any, codes: Any, coefficients: Any, row: int, first: int, count: int, out: int) -> bool:
    """As `_sum` to bfloat16, for the few elements that a proof leaves over."""
    halves = carray(uint16_at(out), (first + count,))
    for i in range(first, first + count):
        total = 0.0
        for k in range(len(sources)):
            total += coefficients[row, k] * element(sources[k], codes[k], i)
        halves[i] = to_bfloat16(total)
    return bool(are_finite(first, first + count, out, BFLOAT16))


@inner
def _bound(many: int) -> Any:
    """Largest error of a float32 sum of so many products, over the sum of their magnitudes.

    Coefficients and products are rounded once each, and the sum once less often than it has terms.
    """
    return np.float32((many + 4) * narrow.UNIT)


@inner
def _sum_pairs(sources: Any, coefficients: Any, first: int, pairs: int, out: int, marks: Any) -> Any:
    """Sum and round in float32 at most four sources of bfloat16, a mark for two elements; returns all marks joined."""
    last = len(sources) - 1
    # Where there are fewer, the last of them again, with a factor of 0.
    one, two, three, four = sources[0], sources[min(1, last)], sources[min(2, last)], sources[last]
    a, b = np.float32(coefficients[0]), np.float32(coefficients[1] if last >= 1 else 0.0)
    c, d = np.float32(coefficients[2] if last >= 2 else 0.0), np.float32(coefficients[3] if last >= 3 else 0.0)
    return _round_pairs(one, two, three, four, a, b, c, d, first, pairs, _bound(last + 1), out, marks)


@compiled
def _sum_narrow(
    sources: Any, codes: Any, coefficients: Any, first: int, count: int, total: Any, size: Any, out: int, marks: Any
) -> Any:
    """As `_sum_pairs` for any number of sources, a mark for each element."""
    many = len(sources)
    for i in range(count):
        total[i] = np.float32(0.0)
        size[i] = np.float32(0.0)
    k = 0
    while k < many:
        # Four sources of one dtype at a time; where there are three, the first of them again, with a factor of 0.
        last = k + 1
        while last < many and last < k + 4 and codes[last] == codes[k]:
            last += 1
        if last - k < 3:
            last = k + 1
        one, two, three = sources[k], sources[min(k + 1, last - 1)], sources[min(k + 2, last - 1)]
        four = sources[k + 3 if k + 3 < last else k]
        a = np.float32(coefficients[k])
        b, c = np.float32(coefficients[min(k + 1, last - 1)]), np.float32(coefficients[min(k + 2, last - 1)])
        d = np.float32(coefficients[k + 3] if k + 3 < last else 0.0)
        if last == k + 1 and codes[k] == BFLOAT16:
            _add_one(carray(uint16_at(one + 2 * first), (count,)), a, count, total, size)
        elif last == k + 1:
            _add_one(carray(float32_at(one + 4 * first), (count,)), a, count, total, size)
        elif codes[k] == BFLOAT16:
            _add_four(
                carray(uint16_at(one + 2 * first), (count,)),
                carray(uint16_at(two + 2 * first), (count,)),
                carray(uint16_at(three + 2 * first), (count,)),
                carray(uint16_at(four + 2 * first), (count,)),
                a, b, c, d, count, total, size,
            )  # fmt: skip
        else:
            _add_four(
                carray(float32_at(one + 4 * first), (count,)),
                carray(float32_at(two + 4 * first), (count,)),
                carray(float32_at(three + 4 * first), (count,)),
                carray(float32_at(four + 4 * first), (count,)),
                a, b, c, d, count, total, size,
            )  # fmt: skip
        k = last
    bound = _bound(many)
    for i in range(count):
        size[i] = bound * size[i] + narrow.FLOOR
    return narrow.round_all(total, size, count, out, first, marks)


@contracted
def _round_pairs(
    one: int, two: int, three: int, four: int, a: Any, b: Any, c: Any, d: Any, first: int, pairs: int, bound: Any,
    out: int, marks: Any,
) -> Any:  # fmt: skip
    """Sums of four products of bfloat16, read and written two at a time.

    The halves of a 32-bit word, shifted up and masked, are the two numbers, in the lanes of one vector each.
    """
    p, q = carray(uint32_at(one + 2 * first), (pairs,)), carray(uint32_at(two + 2 * first), (pairs,))
    r, s = carray(uint32_at(three + 2 * first), (pairs,)), carray(uint32_at(four + 2 * first), (pairs,))
    target = carray(uint32_at(out + 2 * first), (pairs,))
    joined = np.int32(0)
    for i in range(pairs):
        value, size = _four(a, lower(p[i]), b, lower(q[i]), c, lower(r[i]), d, lower(s[i]))
        low, low_mark = narrow.rounded(value, bound * size + narrow.FLOOR)
        value, size = _four(a, upper(p[i]), b, upper(q[i]), c, upper(r[i]), d, upper(s[i]))
        high, high_mark = narrow.rounded(value, bound * size + narrow.FLOOR)
        target[i] = np.uint32((np.uint32(low) >> np.uint32(16)) | (np.uint32(high) & np.uint32(0xFFFF0000)))
        mark = np.int32(low_mark | high_mark)
        marks[i] = mark
        joined = np.int32(joined | mark)
    return joined


@contracted
def _add_four(
    p: Any, q: Any, r: Any, s: Any, a: Any, b: Any, c: Any, d: Any, count: int, total: Any, size: Any
) -> None:
    for i in range(count):
        value, magnitude = _four(a, widen(p[i]), b, widen(q[i]), c, widen(r[i]), d, widen(s[i]))
        total[i] += value
        size[i] += magnitude


@contracted
def _add_one(p: Any, a: Any, count: int, total: Any, size: Any) -> None:
    for i in range(count):
        part = a * widen(p[i])
        total[i] += part
        size[i] += abs(part)


@contracted
def _four(a: Any, p: Any, b: Any, q: Any, c: Any, r: Any, d: Any, s: Any) -> Any:
    """The sum of four products, and that of their magnitudes."""
    w, x, y, z = a * p, b * q, c * r, d * s
    return w + x + y + z, abs(w) + abs(x) + abs(y) + abs(z)


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
