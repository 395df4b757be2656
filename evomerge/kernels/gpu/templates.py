"""The text of Triton kernels, with places for a formula."""

from __future__ import annotations

import torch

STORED = {
    torch.float64: "tl.float64",
    torch.float32: "tl.float32",
    torch.bfloat16: "tl.bfloat16",
    torch.float16: "tl.float16",
}
"""What tensors may hold that are merged together with others."""

DTYPES = {torch.float64: "tl.float64", torch.float32: "tl.float32", torch.int32: "tl.int32", torch.int64: "tl.int64"}

_DRAWN = """
import triton
import triton.language as tl


@triton.jit
def stir(value):
    value = value ^ (value >> 16)
    value = value * 0x7FEB352D
    value = value ^ (value >> 15)
    return value * 0x846CA68B


@triton.jit
def drawn(index, first, second):
    lower, upper = index.to(tl.uint32), (index.to(tl.int64) >> 32).to(tl.uint32)
    mixed = stir(lower ^ first)
    mixed = mixed ^ (mixed >> 16)
    return (stir(mixed + (second ^ upper)) >> 1).to(tl.int32)
"""

# GPUs convert from float64 to narrower types and back many times more slowly than they calculate with it.
_ROUND = """

@triton.jit
def rounded_to_{name}(value):
    bits = value.to(tl.int64, bitcast=True)
    size = bits & 0x7FFFFFFFFFFFFFFF
    upper = (size + {half} + ((size >> {dropped}) & 1)) >> {dropped}
    upper = upper.to(tl.int32) - {bias}
    unit = tl.full((), {subnormal!r}, tl.float64)
    count = (tl.abs(value) + unit).to(tl.int64, bitcast=True) - unit.to(tl.int64, bitcast=True)
    upper = tl.where(tl.abs(value) < tl.full((), {normal!r}, tl.float64), count.to(tl.int32), upper)
    upper = tl.where(size > 0x7FF0000000000000, {nan}, tl.minimum(upper, {infinity}))
    return (upper | ((bits >> 48).to(tl.int32) & 0x8000)).to(tl.int16).to(tl.{name}, bitcast=True)
"""


def rounding(name: str, mantissa: int, exponent: int) -> str:
    """A helper that rounds float64 to a 16-bit type, to nearest, ties to even.

    What is below the least normal number is counted in units of the least subnormal one, by adding a number so
    large that its last bit is that unit.
    """
    bias, dropped = (1 << (exponent - 1)) - 1, 52 - mantissa
    infinity = ((1 << exponent) - 1) << mantissa
    return _ROUND.format(
        name=name,
        half=(1 << (dropped - 1)) - 1,
        dropped=dropped,
        bias=(1023 - bias) << mantissa,
        subnormal=1.5 * 2.0 ** (53 - bias - mantissa),
        normal=2.0 ** (1 - bias),
        infinity=infinity,
        nan=infinity | (1 << (mantissa - 1)),
    )


HELPERS = _DRAWN + rounding("bfloat16", 7, 8) + rounding("float16", 10, 5)

_BODY = """
    inside = index < size
{lines}
    rounded = {rounded}
    tl.store(out + index, rounded, mask=inside)
    broken = inside & ~(tl.abs({result}) < float("inf"))
    tl.store(finite + tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int8), mask=broken)
"""

MERGE = (
    """

@triton.jit(do_not_specialize={numbers}, do_not_specialize_on_alignment={unaligned})
def merge({arguments}, out, arrays, finite, size, {typed} BLOCK: tl.constexpr):
    index = {program} * BLOCK + tl.arange(0, BLOCK)"""
    + _BODY
)

# Each program finds in a table which tensor it is for, and what the kernel for one takes as arguments.
MERGE_TOGETHER = (
    """

@triton.jit(do_not_specialize_on_alignment=["row_of"])
def merge(table, row_of, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row = table + tl.load(row_of + program) * {columns}
{arguments}
    index = (program - first) * BLOCK + tl.arange(0, BLOCK)"""
    + _BODY
)

ROUNDED = {
    torch.float64: "{}",
    torch.float32: "{}.to(tl.float32)",
    torch.bfloat16: "rounded_to_bfloat16({})",
    torch.float16: "rounded_to_float16({})",
}

SELECT = """

@triton.jit(do_not_specialize={limits}, do_not_specialize_on_alignment={limits})
def select(base, {arguments}, number, found, size, {typed} BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size
    origin = tl.load(base + index, mask=inside, other=0.0).to(tl.float64)
{lines}
"""

MAGNITUDE = """
    size_{expert} = tl.abs(tl.load(expert_{expert} + index, mask=inside, other=0.0).to(tl.float64) - origin)
"""

SELECT_ONE = """
    value = size_{expert}
    low = low_{k}.to(tl.int64).to(tl.float64, bitcast=True)
    high = high_{k}.to(tl.int64).to(tl.float64, bitcast=True)
    chosen = (inside & (value >= low) & (value < high)).to(tl.int32)
    many = tl.sum(chosen, axis=0)
    if many > 0:
        place = start_{k} + tl.atomic_add(number + {k}, many) + tl.cumsum(chosen, axis=0) - 1
        tl.store(found + place, value.to(tl.float32), mask=(chosen > 0) & (place < start_{k} + most_{k}))
"""
