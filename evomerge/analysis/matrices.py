"""Everything about the task vectors of one weight seen as matrices: their ranks, and how their directions lie.

Knows matrices. Does not know models, layers or names.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.analysis.spectra import (
    DIRECTIONS,
    FULL_UP_TO,
    Spectrum,
    effective_rank,
    energy_share,
    rank_at,
    spectrum,
    stable_rank,
)
from evomerge.analysis.subspaces import alignment_ratio, interference, overlap

ENERGY = 0.95
"""The share of the energy that the compared subspaces hold."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixStatistics:
    """Of K task vectors of one matrix, or means over several matrices. NaN stands for what isn't defined.

    Attributes:
        stable_rank: ‖τ‖²/σ₁², shape (K,).
        effective_rank: exp of the entropy of the singular values, shape (K,); NaN where not all were found.
        energy_share: share of the energy in the first r/K of the r directions, shape (K,).
        rank_at_energy: directions that hold `ENERGY` of it, over r, shape (K,); NaN where those found hold less.
        overlap_left: of the spans of outputs at `ENERGY`, or of all directions found where those hold less, (K, K).
        overlap_right: the same of inputs.
        alignment: how much of each lies in the leading output directions of the sum of all, shape (K,).
        interference: singular task interference over the sum of singular values, shape ().
        found_energy: share of the energy in the directions that were found, shape (K,); 1 where all were.
    """

    stable_rank: Numbers
    effective_rank: Numbers
    energy_share: Numbers
    rank_at_energy: Numbers
    overlap_left: Numbers
    overlap_right: Numbers
    alignment: Numbers
    interference: Numbers
    found_energy: Numbers


def matrix_statistics(
    tau: Sequence[Tensor], *, full_up_to: int = FULL_UP_TO, directions: int = DIRECTIONS, seed: int = 0
) -> MatrixStatistics:
    """The statistics of one weight.

    Args:
        tau: K task vectors, shape (m, n) each, finite.
        full_up_to: as `spectrum`.
        directions: as `spectrum`.
        seed: as `spectrum`.
    """
    settings = {"full_up_to": full_up_to, "directions": directions, "seed": seed}
    found = [spectrum(matrix, **settings) for matrix in tau]
    merged = _at_energy(spectrum(torch.stack(tuple(tau)).sum(0), **settings))
    size = found[0].size
    count = max(1, size // len(found))
    leading = [_at_energy(one) for one in found]
    left, right = (np.full((len(found), len(found)), np.nan) for _ in range(2))
    for (row, one), (column, two) in itertools.combinations(enumerate(leading), 2):
        left[row, column] = left[column, row] = overlap(one.left, two.left)
        right[row, column] = right[column, row] = overlap(one.right.T, two.right.T)
    ranks = [rank_at(one, ENERGY) for one in found]
    return MatrixStatistics(
        stable_rank=np.array([stable_rank(one) for one in found]),
        effective_rank=np.array([effective_rank(one) for one in found]),
        energy_share=np.array([energy_share(one, count) for one in found]),
        rank_at_energy=np.array(
            [np.nan if rank is None or one.energy == 0 else rank / size for rank, one in zip(ranks, found, strict=True)]
        ),
        overlap_left=left,
        overlap_right=right,
        alignment=np.array([alignment_ratio(merged.left, matrix) for matrix in tau]),
        interference=np.array(interference([one.leading(count) for one in found])),
        found_energy=np.array([energy_share(one, len(one.values)) for one in found]),
    )


def mean_of(statistics: Sequence[MatrixStatistics]) -> MatrixStatistics:
    """Means over matrices, each number over those where it is defined; NaN where it is nowhere."""
    means = {}
    for field in fields(MatrixStatistics):
        values = np.stack([getattr(one, field.name) for one in statistics])
        defined = ~np.isnan(values)
        counts = defined.sum(0)
        means[field.name] = np.where(defined, values, 0.0).sum(0) / np.where(counts > 0, counts, np.nan)
    return MatrixStatistics(**means)


def cost(shape: tuple[int, int], num_experts: int) -> float:
    """Roughly how many floating-point operations `matrix_statistics` takes for one weight."""
    rows, columns = min(shape), max(shape)
    if rows <= max(FULL_UP_TO, DIRECTIONS):
        return (num_experts + 1) * (60.0 * rows**3 + 4.0 * rows**2 * columns)
    return (num_experts + 1) * 16.0 * DIRECTIONS * rows * columns


def _at_energy(found: Spectrum) -> Spectrum:
    rank = rank_at(found, ENERGY)
    return found if rank is None else found.leading(rank)
