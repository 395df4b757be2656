"""Compressing task vectors: few singular triplets in place of a matrix (TSV-Compress, truncated SVD)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.errors import MergeError
from evomerge.kernels.rounding import round_once
from evomerge.methods.spectral.decompose import decompose, matrix_pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """How many singular triplets of a matrix are kept; exactly one of the three is given.

    Attributes:
        rank: this many, or all where there are fewer.
        fraction: ⌊fraction · min(m, n)⌋, at least one: TSV-Compress, which takes one over the number of
            experts (Gargiulo et al. 2025, arXiv 2412.00081).
        energy: the fewest whose squared values make up this fraction of all (Eckart and Young 1936: no
            matrix of that rank comes nearer).

    Raises: MergeError if none or several are given, or one is out of range.
    """

    rank: int | None = None
    fraction: float | None = None
    energy: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("rank", "fraction", "energy") if getattr(self, name) is not None]
        if len(given) != 1:
            raise MergeError(f"compression: give one of rank, fraction and energy, got {', '.join(given) or 'none'}")
        if self.rank is not None and self.rank < 1:
            raise MergeError(f"compression: rank {self.rank} keeps nothing; give 1 or more")
        for name in ("fraction", "energy"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value <= 1.0:
                raise MergeError(f"compression: {name} {value} isn't above 0 and up to 1")

    def count(self, values: Tensor, side: int) -> int:
        """How many triplets are kept.

        Args:
            values: singular values that aren't zero, falling.
            side: the shorter side of the matrix.
        """
        if self.energy is not None:
            squares = values.to(torch.float64).square()
            reached = squares.cumsum(0) >= self.energy * squares.sum()
            # A sum's rounding may keep the last from being reached.
            return min(len(values), int((~reached).sum()) + 1)
        wanted = self.rank if self.rank is not None else max(1, int(side * (self.fraction or 0.0) + 1e-9))
        return min(wanted, len(values))


class Factors(NamedTuple):
    """A matrix as left · diag(values) · right, of shapes (m, k), (k,), (k, n); (slices, …) for a stack."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """Number of triplets."""
        return self.values.shape[-1]

    @property
    def size_bytes(self) -> int:
        """Size of the three tensors."""
        return sum(part.numel() * part.element_size() for part in self)


def compress(tau: Tensor, truncation: Truncation, *, dtype: torch.dtype = torch.float32) -> Factors:
    """The leading singular triplets of a task vector.

    Args:
        tau: shape (m, n), or (slices, m, n) for a stack of matrices, which all keep as many triplets as
            the one that needs most; finite.
        truncation: how many.
        dtype: of the singular vectors, whose entries lie in [−1, 1]: float16 is more exact than bfloat16.
            The values stay float32.

    Returns: factors, computed in float64 and rounded once; of rank 0 for zeros. The signs are those for
    which each left vector's largest entry is positive.
    Raises: MergeError if the singular values don't converge.
    """
    matrices = list(tau.to(torch.float64)) if tau.dim() == 3 else [tau.to(torch.float64)]
    with matrix_pool(tau.device) as side_by_side:
        found = side_by_side.map(decompose, matrices)
    count = max((truncation.count(values, min(tau.shape[-2:])) for _, values, _ in found), default=0)
    lefts = torch.zeros(len(found), tau.shape[-2], count, dtype=torch.float64, device=tau.device)
    rights = torch.zeros(len(found), count, tau.shape[-1], dtype=torch.float64, device=tau.device)
    sizes = torch.zeros(len(found), count, dtype=torch.float64, device=tau.device)
    for index, (left, values, right) in enumerate(found):
        kept = min(count, len(values))
        left, right = left[:, :kept], right[:kept]
        if kept:
            sign = left.gather(0, left.abs().argmax(dim=0, keepdim=True)).sign()
            left, right = left * sign, right * sign.T
        lefts[index, :, :kept], rights[index, :kept], sizes[index, :kept] = left, right, values[:kept]
    shape = tau.shape[:-2]
    return Factors(
        round_once(lefts, dtype).view(*shape, *lefts.shape[1:]),
        sizes.to(torch.float32).view(*shape, count),
        round_once(rights, dtype).view(*shape, *rights.shape[1:]),
    )


def expand(factors: Factors) -> Tensor:
    """The task vector that factors stand for, float64, shape (…, m, n)."""
    left, values, right = (part.to(torch.float64) for part in factors)
    with matrix_pool(left.device):
        return (left * values[..., None, :]) @ right


def squared_error(tau: Tensor, expanded: Tensor) -> tuple[float, float]:
    """Σ (expanded − τ)² and Σ τ², in float64: their quotient's root is the relative error."""
    tau = tau.to(torch.float64)
    return float((expanded.to(torch.float64) - tau).square().sum()), float(tau.square().sum())


def factor_bytes(shape: tuple[int, ...], rank: int, dtype: torch.dtype) -> int:
    """Size of the factors of a tensor of this shape at this rank, in bytes."""
    *stack, height, width = shape
    return math.prod(stack) * rank * ((height + width) * dtype.itemsize + 4)
