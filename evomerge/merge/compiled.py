"""Fused loops over raw weights, compiled by numba: one pass over memory, float64 inside, one rounding.

A loop is told addresses and dtype codes instead of typed arrays, so each is compiled once and serves
every mix of dtypes. Blocks of a few thousand elements are decoded to float64 in the first-level cache,
merged there and rounded once on the way out. LLVM neither reorders nor contracts these operations,
so the bytes are those of the same operations in torch. Threads are the caller's business: the loops
release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

BLOCK = 1024
"""Elements decoded at a time; a few float64 buffers of this length fit into the first-level cache."""

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = 0, 1, 2, 3
"""Codes of the dtypes that the loops read and write."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, kept on disk where there is a place to write."""
    try:
        compiled_function: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        compiled_function = njit(nogil=True, error_model="numpy")(function)
    return compiled_function


def _pointer_to(element: Any) -> Any:
    """An intrinsic that takes an integer address for a pointer to `element`."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate  # type: ignore[no-untyped-call]

    return pointer


_float32_at = _pointer_to(types.float32)
_float64_at = _pointer_to(types.float64)
_uint16_at = _pointer_to(types.uint16)


@compiled
def _float32(bits: Any) -> Any:
    return np.uint32(bits).view(np.float32)


@compiled
def _from_bfloat16(bits: Any) -> Any:
    return np.float64(_float32(np.uint32(bits) << np.uint32(16)))


@compiled
def _from_float16(bits: Any) -> Any:
    shifted = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponents' biases differ by 112. The product is exact, of subnormal numbers too.
    finite = np.float64(_float32(shifted)) * 2.0**112
    special = np.float64(_float32(shifted | np.uint32(0x7F800000)))
    magnitude = special if shifted >= np.uint32(0x7C00 << 13) else finite
    return -magnitude if bits >= np.uint16(0x8000) else magnitude


@compiled
def _odd_bits(value: Any) -> Any:
    """Bits of the float32 that rounding to odd gives: rounding these again rounds `value` only once."""
    near = np.float32(value)
    wide = np.float64(near)
    bits = near.view(np.uint32)
    bits = np.uint32(bits - np.uint32(1)) if abs(wide) > abs(value) else bits
    return np.uint32(bits | np.uint32(1)) if wide != value else bits


@compiled
def _to_bfloat16(value: Any) -> Any:
    bits = _odd_bits(value)
    last = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + last) >> np.uint32(16))
    return np.uint16(0x7FC0) if value != value else np.uint16(rounded)


@compiled
def _to_float16(value: Any) -> Any:
    bits = _odd_bits(value)
    sign = np.uint16(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
    bits = np.uint32(bits & np.uint32(0x7FFFFFFF))
    last = np.uint32(bits >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32(np.uint32(bits - np.uint32(112 << 23) + np.uint32(0xFFF) + last) >> np.uint32(13))
    # Adding 0.5 aligns the last bit of a subnormal float16 with that of the sum.
    small = np.float32(_float32(bits) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    rounded = np.uint16(small) if bits < np.uint32(113 << 23) else np.uint16(normal)
    rounded = np.uint16(0x7C00) if bits >= np.uint32((127 + 16) << 23) else rounded
    rounded = np.uint16(0x7E00) if value != value else rounded
    return np.uint16(rounded | sign)


@compiled
def load(address: int, code: int, first: int, count: int, into: Any) -> None:
    """Decode elements first..first+count of the tensor at `address` into a float64 buffer."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] = np.float64(singles[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_bfloat16(halves[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_float16(halves[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] = doubles[i]


@compiled
def store(values: Any, address: int, code: int, first: int, count: int) -> None:
    """Round float64 values once, to nearest, ties to even, into elements first..first+count at `address`."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            singles[i] = np.float32(values[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = _to_bfloat16(values[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = _to_float16(values[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            doubles[i] = values[i]


@compiled
def _add(address: int, code: int, first: int, count: int, coefficient: float, into: Any) -> None:
    """Add coefficient · elements first..first+count to a buffer."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] += coefficient * np.float64(singles[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] += coefficient * _from_bfloat16(halves[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] += coefficient * _from_float16(halves[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] += coefficient * doubles[i]


@compiled
def span(start: int, stop: int, sources: Any, codes: Any, coefficients: Any, out: int, out_code: int) -> None:
    """Elements start..stop of Σ coefficient · source."""
    total = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        for i in range(count):
            total[i] = 0.0
        for k in range(len(sources)):
            _add(sources[k], codes[k], first, count, coefficients[k], total)
        store(total, out, out_code, first, count)


@compiled
def gram(start: int, stop: int, sources: Any, codes: Any, partial: Any) -> None:
    """Inner products of all pairs i ≤ j over each BLOCK of start..stop, into partial[pair, block]."""
    many = len(sources)
    values = np.zeros((many, BLOCK), dtype=np.float64)
    products = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        for k in range(many):
            load(sources[k], codes[k], first, count, values[k])
            for i in range(count, BLOCK):
                values[k, i] = 0.0
        pair = 0
        for a in range(many):
            for b in range(a, many):
                for i in range(BLOCK):
                    products[i] = values[a, i] * values[b, i]
                half = BLOCK // 2
                while half > 0:
                    for i in range(half):
                        products[i] += products[half + i]
                    half //= 2
                partial[pair, first // BLOCK] = products[0]
                pair += 1


@compiled
def ties(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    thresholds: Any,
    scale: float,
    vote_weighted: bool,
    normalize: bool,
    out: int,
    out_code: int,
) -> None:
    """Trim by magnitude, elect a sign, add up (or average) those that agree; the first source is the base."""
    base = np.empty(BLOCK, dtype=np.float64)
    value = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    up = np.empty(BLOCK, dtype=np.float64)
    down = np.empty(BLOCK, dtype=np.float64)
    up_weight = np.empty(BLOCK, dtype=np.float64)
    down_weight = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        for i in range(count):
            votes[i] = 0.0
            up[i] = 0.0
            down[i] = 0.0
            up_weight[i] = 0.0
            down_weight[i] = 0.0
        for k in range(1, len(sources)):
            load(sources[k], codes[k], first, count, value)
            weight, threshold = weights[k - 1], np.float32(thresholds[k - 1])
            for i in range(count):
                tau = value[i] - base[i]
                tau = 0.0 if np.float32(abs(tau)) < threshold else tau
                weighted = weight * tau
                vote = weighted if vote_weighted else tau
                votes[i] += vote
                # Negated comparisons, so that NaN lands on both sides.
                up[i] += 0.0 if vote <= 0.0 else weighted
                up_weight[i] += 0.0 if vote <= 0.0 else weight
                down[i] += 0.0 if vote >= 0.0 else weighted
                down_weight[i] += 0.0 if vote >= 0.0 else weight
        for i in range(count):
            total = down[i] if votes[i] < 0.0 else up[i]
            weight = down_weight[i] if votes[i] < 0.0 else up_weight[i]
            divisor = weight if normalize and abs(weight) >= 1e-8 else 1.0
            value[i] = base[i] + scale * (total / divisor)
        store(value, out, out_code, first, count)
