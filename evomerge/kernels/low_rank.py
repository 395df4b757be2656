"""A tensor plus a product of two thin matrices, as low-rank adapters store their task vectors."""

from __future__ import annotations

from evomerge.errors import ShapeError
from evomerge.kernels.engines import compiled_for
from evomerge.kernels.memory import addresses_of, flattened
from evomerge.kernels.rounding import round_once
from evomerge.kernels.threads import MIN_PART, in_parts
from evomerge.late import Tensor, torch

_BLOCK = 1 << 18


def add_low_rank(base: Tensor, left: Tensor, right: Tensor, factor: float, out: Tensor) -> None:
    """Write base + factor · left · right into `out`, in float64 and rounded once.

    Products of entries of 32 bits or fewer are exact, and they are added in the order of the rank, so
    that the bytes don't depend on threads or blocks.

    Args:
        base: shape (rows, columns), of any floating dtype.
        left: shape (rows, rank).
        right: shape (rank, columns).
        factor: of the product.
        out: shape (rows, columns), contiguous, of any floating dtype.

    Raises: ShapeError if the shapes don't fit each other.
    """
    rows, columns = base.shape
    if left.shape[0] != rows or right.shape[1] != columns or left.shape[1] != right.shape[0] or out.shape != base.shape:
        raise ShapeError(
            f"{tuple(left.shape)} times {tuple(right.shape)} can't be added to {tuple(base.shape)} and written to "
            f"{tuple(out.shape)}"
        )
    left, right = left.to(torch.float64).contiguous(), right.to(torch.float64).contiguous()
    source = flattened(base)
    if compiled := compiled_for(source, out):
        (address, target), (code, out_code) = addresses_of((source, out))
        factors = left.numpy(), right.numpy()

        def part(start: int, stop: int) -> None:
            compiled.low_rank(start, stop, address, code, *factors, factor, target, out_code)

        in_parts(part, rows, grain=1, least=max(1, MIN_PART // max(1, columns)))
        return
    height = max(1, _BLOCK // max(1, columns))
    for first in range(0, rows, height):
        part_of_left = left[first : first + height]
        total = torch.zeros(part_of_left.shape[0], columns, dtype=torch.float64, device=base.device)
        for k in range(right.shape[0]):
            total += part_of_left[:, k : k + 1] * right[k]
        start = base[first : first + height].to(torch.float64)
        out[first : first + height] = round_once(start + total * factor, out.dtype)
