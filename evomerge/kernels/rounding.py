"""Rounding a float64 result once to the dtype it is stored in."""

from __future__ import annotations

from evomerge.kernels.raw import as_torch
from evomerge.late import Tensor, torch


def round_once(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 values to nearest, ties to even, without a rounding in between.

    torch's own cast from float64 to a 16-bit type rounds to float32 first, and twice is wrong for about
    one value in 10⁵. Rounding to odd in float32 keeps what the second rounding needs to know
    (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums").

    Args:
        values: float64, any shape.
        dtype: a floating-point dtype.

    Returns: the values in `dtype`, of the same shape. NaN stays NaN; what is too large becomes infinite.
    """
    if dtype in (torch.float64, torch.float32):
        return values.to(dtype)
    near = values.to(torch.float32)
    wide = near.to(torch.float64)
    bits = near.view(torch.int32)
    bits = torch.where(wide.abs() > values.abs(), bits - 1, bits)
    bits = torch.where((wide != values) & ~values.isnan(), bits | 1, bits)
    return bits.view(torch.float32).to(dtype)


def copy_once(source: Tensor, out: Tensor) -> None:
    """Write a tensor's numbers into another of its shape: bit for bit in the same dtype, otherwise rounded once."""
    if source.dtype == out.dtype:
        out.copy_(source)
    else:
        source, out = as_torch(source), as_torch(out)
        out.copy_(round_once(source, out.dtype) if source.dtype == torch.float64 else source)
