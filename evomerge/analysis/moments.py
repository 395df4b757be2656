"""Sums over the entries of task vectors: squares, products and signs. They add up over tensors.

Knows arrays. Does not know models, layers or names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]
Counts = NDArray[np.int64]

SAMPLED = 1 << 20
"""Entries, at most, from which the threshold of a tensor's largest entries is found."""

_CHUNK = 1 << 18  # entries of every model that are in float64 at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """How often task vectors agree on the sign of an entry. An entry that a task vector leaves at zero has none.

    Attributes:
        overlap: entries that two task vectors both change, shape (K, K); the diagonal is what each changes.
        conflict: of those, where their signs differ, shape (K, K).
        shared: entries that at least two change.
        contested: of those, where not all signs are the same.
    """

    overlap: Counts
    conflict: Counts
    shared: int
    contested: int

    def __add__(self, other: Signs) -> Signs:
        return Signs(
            overlap=self.overlap + other.overlap,
            conflict=self.conflict + other.conflict,
            shared=self.shared + other.shared,
            contested=self.contested + other.contested,
        )

    @property
    def pairs(self) -> Matrix:
        """Share of the entries that two both change where their signs differ, shape (K, K); NaN if there are none."""
        with np.errstate(invalid="ignore"):
            return self.conflict / np.where(self.overlap > 0, self.overlap, np.nan)

    @property
    def share(self) -> float:
        """Share of the entries that at least two change where not all signs are the same; NaN if there are none."""
        return self.contested / self.shared if self.shared else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Sums over the entries of one or more tensors, for K experts.

    Attributes:
        entries: number of entries.
        base_square: sum of the base's squared entries.
        gram: inner products of the task vectors, shape (K, K).
        signs: over all entries.
        top_signs: over the largest entries of each task vector, tensor by tensor.
    """

    entries: int
    base_square: float
    gram: Matrix
    signs: Signs
    top_signs: Signs

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            entries=self.entries + other.entries,
            base_square=self.base_square + other.base_square,
            gram=self.gram + other.gram,
            signs=self.signs + other.signs,
            top_signs=self.top_signs + other.top_signs,
        )

    @property
    def changed(self) -> Counts:
        """Entries that each expert changes, shape (K,)."""
        return np.diagonal(self.signs.overlap)

    @property
    def norms(self) -> Matrix:
        """Length of each task vector, shape (K,)."""
        return np.sqrt(np.diagonal(self.gram))

    @property
    def relative_norms(self) -> Matrix:
        """Length of each task vector over that of the base, shape (K,); NaN where the base is zero."""
        return self.norms / np.sqrt(self.base_square) if self.base_square > 0 else np.full(len(self.gram), np.nan)

    @property
    def cosines(self) -> Matrix:
        """Cosines between task vectors, shape (K, K); NaN where one is zero (Ilharco et al. 2023, figure 5)."""
        return cosines(self.gram)


def cosines(gram: Matrix) -> Matrix:
    """Cosines from inner products, both of shape (K, K); NaN where a vector is zero, and exactly 1 with itself."""
    norms = np.sqrt(np.diagonal(gram))
    lengths = np.where(norms > 0, norms, np.nan)
    found: Matrix = np.clip(gram / np.outer(lengths, lengths), -1.0, 1.0)
    found[np.diag_indices_from(found)] = np.where(norms > 0, 1.0, np.nan)
    return found


def zero_moments(num_experts: int) -> Moments:
    """Of no entries at all."""
    none = np.zeros((num_experts, num_experts), dtype=np.int64)
    signs = Signs(overlap=none, conflict=none, shared=0, contested=0)
    return Moments(entries=0, base_square=0.0, gram=none.astype(np.float64), signs=signs, top_signs=signs)


def moments(base: Tensor, experts: Sequence[Tensor], *, top: float) -> Moments:
    """The sums of one tensor, in float64, a part of it at a time.

    Args:
        base: any shape, a floating dtype, finite.
        experts: K tensors of that shape.
        top: the fraction of each task vector's entries that counts as its largest (ties with the last among them).
            In a tensor of more than `SAMPLED` entries their threshold is that of an evenly spaced sample.
    """
    start, ends = base.reshape(-1), [expert.reshape(-1) for expert in experts]
    found = zero_moments(len(ends))
    thresholds = torch.tensor([[threshold(start, end, top)] for end in ends], dtype=torch.float64)
    for first in range(0, start.numel(), _CHUNK):
        part = slice(first, first + _CHUNK)
        weights = start[part].to(torch.float64)
        tau = torch.stack([end[part].to(torch.float64).sub_(weights) for end in ends])
        signs = torch.sign(tau).to(torch.float32)
        found += Moments(
            entries=weights.numel(),
            base_square=float(weights @ weights),
            gram=(tau @ tau.T).numpy(),
            signs=count_signs(signs),
            top_signs=count_signs(signs * (tau.abs() >= thresholds)),
        )
    return found


def threshold(start: Tensor, end: Tensor, top: float) -> float:
    """The size that the largest fraction `top` of the entries of a difference reaches, from a sample of a large one.

    Args:
        start: shape (n,), what is taken off.
        end: shape (n,).
        top: fraction of the entries, in (0, 1]; at least one entry is meant.
    """
    if start.numel() == 0:
        return 0.0
    step = -(-start.numel() // SAMPLED)
    sizes = (end[::step].to(torch.float64) - start[::step].to(torch.float64)).abs_()
    count = max(1, int(top * sizes.numel()))
    return float(torch.kthvalue(sizes, sizes.numel() - count + 1).values)


def count_signs(signs: Tensor) -> Signs:
    """Count agreements among signs −1, 0 and 1 of K vectors, shape (K, n) with n below 2²⁴, float32.

    The share `Signs.share` is the conflict that TIES resolves by election (Yadav et al. 2023, §3.2 and figure 3).
    """
    sizes = signs.abs()
    overlap = (sizes @ sizes.T).to(torch.int64)
    conflict = (overlap - (signs @ signs.T).to(torch.int64)) // 2
    voters, sum_ = sizes.sum(0), signs.sum(0).abs()
    return Signs(
        overlap=overlap.numpy(),
        conflict=conflict.numpy(),
        shared=int((voters >= 2).sum()),
        contested=int((sum_ < voters).sum()),
    )
