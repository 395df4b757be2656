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
    compiled,
    float32_at,
    load,
    load_sum,
    store,
    tree_sum,
    uint16_at,
    widen,
)


@compiled
def span(
    start: int, stop: int, sources: Any, codes: Any, coefficients: Any, length: int, out: int, out_code: int
) -> None:
    """Elements start..stop of Σ coefficient · source, with a row of coefficients for every `length` elements."""
    wide = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(narrow.BLOCK, dtype=np.float32)
    size = np.empty(narrow.BLOCK, dtype=np.float32)
    unsure = np.empty(narrow.BLOCK // narrow.STRIP, dtype=np.int32)
    provable = narrow.readable(codes, FLOAT32, out_code) and narrow.all_representable(coefficients)
    for source in sources:
        # What is overwritten can't be read again.
        provable = provable and source != out
    tried = failed = 0
    first = start
    while first < stop:
        row = first // length
        last = min(stop, (row + 1) * length)
        if not (provable and narrow.worthwhile(tried, failed)):
            last = min(first + BLOCK, last)
            _sum(sources, codes, coefficients, row, first, last - first, wide, out, out_code)
            first = last
            continue
        last = min(first + narrow.BLOCK, last)
        _sum_narrow(sources, codes, coefficients, row, first, last - first, total, size, out, unsure)
        for strip in range(first, last, narrow.STRIP):
            count = min(narrow.STRIP, last - strip)
            tried += 1
            if unsure[(strip - first) // narrow.STRIP] != 0:
                failed += 1
                _sum(sources, codes, coefficients, row, strip, count, wide, out, out_code)
        first = last


@compiled
def _sum(
    sources: Any, codes: Any, coefficients: Any, row: int, first: int, count: int, wide: Any, out: int, out_code: int
) -> None:
    for i in range(count):
        wide[i] = 0.0
    for k in range(len(sources)):
        load_sum(sources[k], codes[k], first, count, coefficients[row, k], wide)
    store(wide, out, out_code, first, count)


@compiled
def _sum_narrow(
    sources: Any,
    codes: Any,
    coefficients: Any,
    row: int,
    first: int,
    count: int,
    total: Any,
    size: Any,
    out: int,
    unsure: Any,
) -> None:
    """Sum and round in float32, and say which strips aren't proved."""
    many = len(sources)
    # Coefficients and products are rounded once each, and the sum once less often than it has terms.
    bound = np.float32((many + 6) * narrow.UNIT)
    k = 0
    while k < many:
        # Four sources of one dtype at a time; where there are fewer, the first of them again, with a factor of 0.
        last = k + 1
        while last < many and last < k + 4 and codes[last] == codes[k]:
            last += 1
        one, two = sources[k], sources[k + 1 if k + 1 < last else k]
        three, four = sources[k + 2 if k + 2 < last else k], sources[k + 3 if k + 3 < last else k]
        a, b = np.float32(coefficients[row, k]), np.float32(coefficients[row, k + 1] if k + 1 < last else 0.0)
        c = np.float32(coefficients[row, k + 2] if k + 2 < last else 0.0)
        d = np.float32(coefficients[row, k + 3] if k + 3 < last else 0.0)
        if last == many and k == 0 and codes[k] == BFLOAT16:
            _round_four(one, two, three, four, a, b, c, d, first, count, bound, out, unsure)
            return
        if k == 0:
            for i in range(count):
                total[i] = np.float32(0.0)
                size[i] = np.float32(0.0)
        if last - k < 3:
            last = k + 1
            if codes[k] == BFLOAT16:
                _add_one(carray(uint16_at(one + 2 * first), (count,)), a, count, total, size)
            else:
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
    target = carray(uint16_at(out + 2 * first), (count,))
    for strip in range(0, count, narrow.STRIP):
        missing = np.int32(0)
        for i in range(strip, min(strip + narrow.STRIP, count)):
            high, missed = narrow.rounded(total[i], bound * size[i])
            missing = np.int32(missing | missed)
            target[i] = np.uint16(np.uint32(high) >> np.uint32(16))
        unsure[strip // narrow.STRIP] = missing


@compiled
def _round_four(
    one: int, two: int, three: int, four: int, a: Any, b: Any, c: Any, d: Any, first: int, count: int, bound: Any,
    out: int, unsure: Any,
) -> None:  # fmt: skip
    """The usual case in one loop: round the sum of four products of bfloat16."""
    p, q = carray(uint16_at(one + 2 * first), (count,)), carray(uint16_at(two + 2 * first), (count,))
    r, s = carray(uint16_at(three + 2 * first), (count,)), carray(uint16_at(four + 2 * first), (count,))
    target = carray(uint16_at(out + 2 * first), (count,))
    for strip in range(0, count, narrow.STRIP):
        missing = np.int32(0)
        for i in range(strip, min(strip + narrow.STRIP, count)):
            value, magnitude = _four(a, p[i], b, q[i], c, r[i], d, s[i])
            high, missed = narrow.rounded(value, bound * magnitude)
            missing = np.int32(missing | missed)
            target[i] = np.uint16(np.uint32(high) >> np.uint32(16))
        unsure[strip // narrow.STRIP] = missing


@compiled
def _add_four(
    p: Any, q: Any, r: Any, s: Any, a: Any, b: Any, c: Any, d: Any, count: int, total: Any, size: Any
) -> None:
    for i in range(count):
        value, magnitude = _four(a, p[i], b, q[i], c, r[i], d, s[i])
        total[i] += value
        size[i] += magnitude


@compiled
def _add_one(p: Any, a: Any, count: int, total: Any, size: Any) -> None:
    for i in range(count):
        part = a * widen(p[i])
        total[i] += part
        size[i] += abs(part)


@compiled
def _four(a: Any, p: Any, b: Any, q: Any, c: Any, r: Any, d: Any, s: Any) -> Any:
    """The sum of four products, and that of their magnitudes."""
    w, x, y, z = a * widen(p), b * widen(q), c * widen(r), d * widen(s)
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
