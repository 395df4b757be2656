"""What an adapter does to one tensor: LoRA and DoRA (low rank), and LoHa (a product of two of low rank).

Each is worked out in float64 and rounded once. The bytes don't depend on threads: products of matrices are added in
the order of the rank, and norms row by row. Knows factors. Does not know names or settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from evomerge.kernels.low_rank import add_low_rank
from evomerge.models.headers import TensorInfo

Read = Callable[[TensorInfo], Tensor]
_BLOCK = 1 << 22  # entries that are in float64 at a time


class Update(Protocol):
    """A change of one tensor of the base."""

    @property
    def rank(self) -> int:
        """Rank of its factors."""

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The adapter's tensors that it is made of."""

    def apply(self, start: Tensor, read: Read, out: Tensor) -> None:
        """Write the changed tensor into `out`.

        Args:
            start: the base's, shape (rows, columns).
            read: gives the adapter's tensors.
            out: of the same shape, contiguous, of any floating dtype.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The sum with factor · left · right, and with DoRA each output scaled to a trained norm (Liu et al. 2024, eq. 5).

    Attributes:
        left: shape (outputs, rank).
        right: shape (rank, inputs).
        transposed: whether the base stores its tensor as (inputs, outputs).
        factor: of the product.
        magnitude: the norm of each output, shape (outputs,); None for plain LoRA.
    """

    left: TensorInfo
    right: TensorInfo
    transposed: bool
    factor: float
    magnitude: TensorInfo | None = None

    @property
    def rank(self) -> int:
        """Rank of its factors."""
        return self.right.shape[0]

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """Its factors, and the norms."""
        return (self.left, self.right) if self.magnitude is None else (self.left, self.right, self.magnitude)

    def apply(self, start: Tensor, read: Read, out: Tensor) -> None:
        """As `Update.apply`."""
        left, right = read(self.left), read(self.right)
        if self.transposed:
            left, right = right.T, left.T
        if self.magnitude is None:
            add_low_rank(start, left, right, self.factor, out)
            return
        magnitude = read(self.magnitude).to(torch.float64).flatten()

        def summed(rows: slice) -> Tensor:
            block = torch.empty(start[rows].shape, dtype=torch.float64)
            add_low_rank(start[rows], left[rows], right, self.factor, block)
            return block

        if not self.transposed:
            for rows in _blocks(start):
                block = summed(rows)
                norm = torch.linalg.vector_norm(block, dim=1)
                out[rows] = block.mul_((magnitude[rows] / norm)[:, None])
            return
        squares = torch.zeros(start.shape[1], dtype=torch.float64)
        for rows in _blocks(start):
            squares += summed(rows).square_().sum(0)
        scale = magnitude / squares.sqrt_()
        for rows in _blocks(start):
            out[rows] = summed(rows).mul_(scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hadamard:
    """The sum with factor · (left₁ · right₁) ⊙ (left₂ · right₂): LoHa (Hyeon-Woo et al. 2022, Proposition 1).

    Attributes:
        pairs: two pairs of factors, of shapes (rows, rank) and (rank, columns).
        factor: of the product.
    """

    pairs: tuple[tuple[TensorInfo, TensorInfo], tuple[TensorInfo, TensorInfo]]
    factor: float

    @property
    def rank(self) -> int:
        """Rank of each pair."""
        return self.pairs[0][1].shape[0]

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """Its four factors."""
        return (*self.pairs[0], *self.pairs[1])

    def apply(self, start: Tensor, read: Read, out: Tensor) -> None:
        """As `Update.apply`."""
        (one, two), (three, four) = ((read(left), read(right)) for left, right in self.pairs)
        for rows in _blocks(start):
            zero = torch.zeros((), dtype=torch.float64).expand(start[rows].shape)
            product, other = (torch.empty(start[rows].shape, dtype=torch.float64) for _ in range(2))
            add_low_rank(zero, one[rows], two, self.factor, product)
            add_low_rank(zero, three[rows], four, 1.0, other)
            out[rows] = product.mul_(other).add_(start[rows])


def _blocks(tensor: Tensor) -> list[slice]:
    step = max(1, _BLOCK // max(1, tensor.shape[1]))
    return [slice(first, first + step) for first in range(0, tensor.shape[0], step)]
