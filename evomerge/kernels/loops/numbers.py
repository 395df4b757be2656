"""Numbers as they lie in memory: how a loop reads weights, rounds results, adds up and draws at random.

A loop is told addresses and dtype codes instead of typed arrays, so that it serves every mix of dtypes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic, overload

from evomerge.kernels.loops.compile import compiled, inner, keep_scipy_out

BLOCK = 256
"""Elements decoded at a time; several float64 buffers of this length fit into the first-level cache."""

TREE = 1024
"""Elements whose products are added as one balanced tree."""

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = 0, 1, 2, 3
"""Codes of the dtypes that the loops read and write."""


keep_scipy_out()


def _pointer_to(element: Any) -> Any:
    """An intrinsic that takes an integer address for a pointer to `element`."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate  # type: ignore[no-untyped-call]

    return pointer


float32_at = _pointer_to(types.float32)
float64_at = _pointer_to(types.float64)
int32_at = _pointer_to(types.int32)
uint16_at = _pointer_to(types.uint16)
uint32_at = _pointer_to(types.uint32)
uint8_at = _pointer_to(types.uint8)


@inner
def of_bits(bits: Any) -> Any:
    """The float32 of 32 bits."""
    return np.uint32(bits).view(np.float32)


@inner
def from_bfloat16(bits: Any) -> Any:
    """The float32 of a bfloat16's bits."""
    return of_bits(np.uint32(bits) << np.uint32(16))


@inner
def lower(pair: Any) -> Any:
    """The float32 of the bfloat16 in the lower half of 32 bits."""
    return of_bits(pair << np.uint32(16))


@inner
def upper(pair: Any) -> Any:
    """That of the upper half."""
    return of_bits(pair & np.uint32(0xFFFF0000))


def widen(value: Any) -> Any:
    """The float32 of a float32, or of a bfloat16's bits."""
    raise NotImplementedError("for compiled loops")


@overload(widen)
def _widen(value: Any) -> Any:
    def itself(value: Any) -> Any:
        return value

    def decoded(value: Any) -> Any:
        return from_bfloat16(value)

    return itself if isinstance(value, types.Float) else decoded


@inner
def from_float16(bits: Any) -> Any:
    """The float32 of a float16's bits."""
    wide = np.uint32(bits)
    size = np.uint32((wide & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponents' biases differ by 112, those of infinity and NaN by twice that.
    normal = np.uint32(size + (np.uint32(224 << 23) if size >= np.uint32(0x7C00 << 13) else np.uint32(112 << 23)))
    # Behind a leading one a subnormal number's digits are right, without any subnormal float32.
    small = np.float32(of_bits(size + np.uint32(113 << 23)) - np.float32(2.0**-14)).view(np.uint32)
    magnitude = small if size < np.uint32(0x400 << 13) else normal
    return of_bits(magnitude | np.uint32((wide & np.uint32(0x8000)) << np.uint32(16)))


@inner
def _bits(value: Any) -> Any:
    return np.float64(value).view(np.int64)


@inner
def to_bfloat16(value: Any) -> Any:
    """The bits of the nearest bfloat16 of a float64, ties to even."""
    bits = _bits(value)
    # To eight bits of mantissa, ties to even; the cast to float32 is then exact, or overflows as it should.
    normal = np.int64((bits + np.int64((1 << 44) - 1) + ((bits >> 45) & 1)) & np.int64(-(1 << 45))).view(np.float64)
    # Adding this number and taking it away leaves multiples of the least bfloat16, 2⁻¹³³.
    small = (value + 1.5 * 2.0 ** (52 - 133)) - 1.5 * 2.0 ** (52 - 133)
    rounded = np.copysign(small, value) if abs(value) < 2.0**-126 else normal
    return np.uint16(np.float32(value if value != value else rounded).view(np.uint32) >> np.uint32(16))


@inner
def _to_float16(value: Any) -> Any:
    bits = _bits(value)
    size = bits & np.int64((1 << 63) - 1)
    # To eleven bits of mantissa, ties to even, with the exponent's bias changed from 1023 to 15.
    normal = ((size + np.int64((1 << 41) - 1) + ((size >> 42) & 1)) >> 42) - np.int64(1008 << 10)
    # In a number of this size the last bit is that of the least float16, 2⁻²⁴.
    small = _bits(abs(value) + 2.0**28) & np.int64(0x7FF)
    rounded = small if abs(value) < 2.0**-14 else normal
    rounded = np.int64(0x7C00) if abs(value) >= 65520.0 else rounded
    rounded = np.int64(0x7E00) if value != value else rounded
    return np.uint16(rounded | ((bits >> 48) & np.int64(0x8000)))


_ITSELF, _DIFFERENCE = 0, 1
"""What becomes of an element that is read."""


@njit(inline="always")
def _taken(step: int, element: Any, base: Any) -> Any:
    return element if step == _ITSELF else element - base


@njit(inline="always")
def _each(step: int, address: int, code: int, first: int, count: int, base: Any, into: Any) -> None:
    """Read elements first..first+count of the tensor at `address` in the buffer's precision, each in one `step`."""
    kind = into.dtype.type
    if code == FLOAT32:
        singles = carray(float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] = _taken(step, kind(singles[i]), base[i])
    elif code == BFLOAT16:
        halves = carray(uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _taken(step, kind(from_bfloat16(halves[i])), base[i])
    elif code == FLOAT16:
        halves = carray(uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _taken(step, kind(from_float16(halves[i])), base[i])
    else:
        doubles = carray(float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] = _taken(step, kind(doubles[i]), base[i])


@compiled
def load(address: int, code: int, first: int, count: int, into: Any) -> None:
    """Decode elements first..first+count of the tensor at `address` into a buffer of float64 or float32."""
    _each(_ITSELF, address, code, first, count, into, into)


@compiled
def load_difference(address: int, code: int, first: int, count: int, base: Any, into: Any) -> None:
    """As `load`, less a base that is decoded already."""
    _each(_DIFFERENCE, address, code, first, count, base, into)


@compiled
def element(address: int, code: int, index: int) -> float:
    """One element of the tensor at `address` as float64."""
    if code == FLOAT32:
        return np.float64(carray(float32_at(address), (index + 1,))[index])
    if code == BFLOAT16:
        return np.float64(from_bfloat16(carray(uint16_at(address), (index + 1,))[index]))
    if code == FLOAT16:
        return np.float64(from_float16(carray(uint16_at(address), (index + 1,))[index]))
    return np.float64(carray(float64_at(address), (index + 1,))[index])


@inner
def load_task_vectors(sources: Any, codes: Any, first: int, count: int, base: Any, tau: Any) -> None:
    """Decode the base, which is the first source, and into tau[expert] each expert's difference from it."""
    load(sources[0], codes[0], first, count, base)
    for k in range(1, len(sources)):
        load_difference(sources[k], codes[k], first, count, base, tau[k - 1])


@compiled
def are_finite(start: int, stop: int, address: int, code: int) -> bool:
    """Whether elements start..stop of the tensor at `address` are neither NaN nor infinite."""
    count = stop - start
    if code == FLOAT64:
        doubles = carray(float64_at(address + 8 * start), (count,))
        finite = True
        for i in range(count):
            finite &= abs(doubles[i]) < np.inf
        return finite
    largest = np.int32(0)
    if code == FLOAT32:
        words = carray(int32_at(address + 4 * start), (count,))
        for i in range(count):
            largest = max(largest, np.int32(words[i] & np.int32(0x7FFFFFFF)))
        return bool(largest < 0x7F800000)
    halves = carray(uint16_at(address + 2 * start), (count,))
    greatest = np.uint16(0)
    for i in range(count):
        greatest = max(greatest, np.uint16(halves[i] & np.uint16(0x7FFF)))
    return bool(greatest < (0x7F80 if code == BFLOAT16 else 0x7C00))


@compiled
def store(values: Any, address: int, code: int, first: int, count: int) -> bool:
    """Round float64 values once, to nearest, ties to even, into elements first..first+count at `address`.

    Returns whether all that was written is finite.
    """
    if code == FLOAT32:
        singles = carray(float32_at(address + 4 * first), (count,))
        for i in range(count):
            singles[i] = np.float32(values[i])
    elif code == BFLOAT16:
        halves = carray(uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = to_bfloat16(values[i])
    elif code == FLOAT16:
        halves = carray(uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = _to_float16(values[i])
    else:
        doubles = carray(float64_at(address + 8 * first), (count,))
        for i in range(count):
            doubles[i] = values[i]
    return bool(are_finite(first, first + count, address, code))


@inner
def as_size(value: Any) -> Any:
    """The magnitude as float32, NaN as infinity."""
    size = np.float32(abs(value))
    return size if size == size else np.float32(np.inf)


@inner
def tree_sum(values: Any, count: int) -> float:
    """Sum of the first `count` of TREE values by adding halves; overwrites them."""
    for i in range(count, TREE):
        values[i] = 0.0
    half = TREE // 2
    while half > 0:
        for i in range(half):
            values[i] += values[half + i]
        half //= 2
    return float(values[0])
