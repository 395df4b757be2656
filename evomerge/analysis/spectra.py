"""Singular values of one task vector's matrix, in full or the leading ones, and what they say of its rank.

Knows matrices. Does not know models, layers or names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FULL_UP_TO = 512
"""The smaller side up to which all singular values are found, in float64."""

DIRECTIONS = 128
"""How many leading ones are found of a larger matrix, in float32."""

_SPARE, _ROUNDS = 16, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """A matrix τ ≈ left · diag(values) · right of shape (m, n), with k values that fall.

    Attributes:
        left: shape (m, k), orthonormal columns.
        values: shape (k,), above rounding noise, float64.
        right: shape (k, n), orthonormal rows.
        energy: ‖τ‖², the sum of squares of all singular values, also of those not found.
        complete: whether all values above the noise are there.
    """

    left: Tensor
    values: NDArray[np.float64]
    right: Tensor
    energy: float
    complete: bool

    @property
    def size(self) -> int:
        """min(m, n), the most directions that there can be."""
        return min(self.left.shape[0], self.right.shape[1])

    def leading(self, count: int) -> Spectrum:
        """With the first `count` directions alone, and the whole energy."""
        return Spectrum(
            left=self.left[:, :count],
            values=self.values[:count],
            right=self.right[:count],
            energy=self.energy,
            complete=self.complete and count >= len(self.values),
        )


def spectrum(matrix: Tensor, *, full_up_to: int = FULL_UP_TO, directions: int = DIRECTIONS, seed: int = 0) -> Spectrum:
    """Singular values and vectors of a matrix: all of a small one, the leading ones of a large one.

    Small ones come from the eigenvectors of the smaller Gram matrix, so that values below about 10⁻⁸ of the largest
    count as zero. Large ones come from randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).

    Args:
        matrix: shape (m, n), finite.
        full_up_to: the smaller side up to which all values are found.
        directions: how many are found of a larger matrix.
        seed: of the random start.
    """
    if matrix.shape[0] > matrix.shape[1]:
        turned = spectrum(matrix.T, full_up_to=full_up_to, directions=directions, seed=seed)
        return Spectrum(
            left=turned.right.T,
            values=turned.values,
            right=turned.left.T,
            energy=turned.energy,
            complete=turned.complete,
        )
    rows = matrix.shape[0]
    if rows <= max(full_up_to, directions):
        return _full(matrix.to(torch.float64))
    return _leading(matrix.to(torch.float32), directions, seed)


def _full(matrix: Tensor) -> Spectrum:
    gram = matrix @ matrix.T
    squares, left = torch.linalg.eigh(gram)
    squares, left = squares.flip(0), left.flip(1)
    eps = torch.finfo(torch.float64).eps
    largest = float(squares[0]) if squares.numel() else 0.0
    rank = int((squares > largest * eps * max(matrix.shape)).sum())
    left, values = left[:, :rank], squares[:rank].sqrt()
    return Spectrum(
        left=left,
        values=values.numpy(),
        right=(left.T @ matrix) / values[:, None],
        energy=float(matrix.square().sum()),
        complete=True,
    )


def _leading(matrix: Tensor, directions: int, seed: int) -> Spectrum:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn((matrix.shape[0], directions + _SPARE), generator=generator)
    for _ in range(_ROUNDS):
        across, _ = torch.linalg.qr(matrix.T @ basis)
        basis, _ = torch.linalg.qr(matrix @ across)
    inside, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    rank = int((values > float(values[0]) * torch.finfo(torch.float32).eps * max(matrix.shape)).sum())
    # What a sketch that holds the whole row space finds is everything.
    complete = rank < basis.shape[1]
    kept = rank if complete else directions
    return Spectrum(
        left=basis @ inside[:, :kept],
        values=values[:kept].to(torch.float64).numpy(),
        right=right[:kept],
        energy=float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2,
        complete=complete,
    )


def stable_rank(found: Spectrum) -> float:
    """‖τ‖²/σ₁², between 1 and the rank (Rudelson and Vershynin 2007); NaN for a zero matrix."""
    return float(found.energy / found.values[0] ** 2) if len(found.values) else float("nan")


def effective_rank(found: Spectrum) -> float:
    """Exp of the entropy of σ/Σσ (Roy and Vetterli 2007); NaN for a zero matrix or where not all values are known."""
    if not found.complete or not len(found.values):
        return float("nan")
    shares = found.values / found.values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def energy_share(found: Spectrum, count: int) -> float:
    """Share of ‖τ‖² in the first `count` directions; NaN for a zero matrix or where so many aren't known."""
    if found.energy == 0 or (not found.complete and count > len(found.values)):
        return float("nan")
    return min(1.0, float(np.sum(found.values[:count] ** 2)) / found.energy)


def rank_at(found: Spectrum, share: float) -> int | None:
    """The least number of directions that hold this share of ‖τ‖²; None where those known hold less."""
    sums = np.cumsum(found.values**2)
    # The last sum and the energy differ by rounding.
    count = int(np.searchsorted(sums, share * found.energy * (1 - 1e-12))) + 1
    if count <= len(sums):
        return count
    return len(sums) if found.complete else None
