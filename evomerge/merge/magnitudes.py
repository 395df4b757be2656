"""Order statistics of task vectors, so that any density finds its threshold without sorting again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KEPT = 1 << 16
"""Distinct magnitudes remembered per tensor and expert, at most."""

_ENTRY_BYTES = 12


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How many entries of one task vector are at least as large as a magnitude, for some or all magnitudes.

    Magnitudes are |θ − θ₀| rounded to float32, which keeps their order and adds a tie only between
    entries that differ by less than one part in 10⁷.
    """

    size: int
    values: NDArray[np.float32]
    """Ascending, distinct: all that occur, or KEPT of them evenly spread over the ranks."""
    at_least: NDArray[np.int64]
    """For each value the number of entries that are no smaller."""
    complete: bool
    """Whether `values` are all that occur."""

    def threshold(self, count: int, base: Tensor, expert: Tensor) -> float:
        """The magnitude of the `count`-th largest entry: the entries that reach it are those to keep.

        Args:
            count: 0 to size. Zero gives infinity, size gives zero.
            base: the tensor that the task vector starts from.
            expert: the tensor that it leads to; both are read again only if `complete` is false.
        """
        if count <= 0:
            return float("inf")
        if count >= self.size:
            return 0.0
        index = int(np.searchsorted(-self.at_least, -count, side="right")) - 1
        value = self.values[index]
        if self.complete or self.at_least[index] == count:
            return float(value)
        upper = self.values[index + 1]
        magnitudes = magnitude(base, expert)
        between = np.sort(magnitudes[(magnitudes >= value) & (magnitudes < upper)])
        return float(between[len(between) - (count - int(self.at_least[index + 1]))])


def count_kept(density: float, size: int) -> int:
    """How many entries a density keeps: the whole part of density · size."""
    return int(density * size)


def magnitude(base: Tensor, expert: Tensor) -> NDArray[np.float32]:
    """|expert − base| in float64, rounded to float32, flattened; what isn't finite counts as infinite."""
    size = base.numel()
    flat_base, flat_expert = base.detach().reshape(-1), expert.detach().reshape(-1)
    result = torch.empty(size, dtype=torch.float32)
    block = 1 << 18
    for first in range(0, size, block):
        difference = flat_expert[first : first + block].to(torch.float64) - flat_base[first : first + block]
        result[first : first + block] = difference.abs().nan_to_num(nan=float("inf"))
    return result.numpy()


def order_statistics(base: Tensor, expert: Tensor) -> Magnitudes:
    """Sort the magnitudes of a task vector once and remember enough to find any threshold."""
    ordered = magnitude(base, expert)
    ordered.sort()
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    complete = len(starts) <= KEPT
    if not complete:
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, KEPT).astype(np.int64))]
    return Magnitudes(len(ordered), ordered[starts], (len(ordered) - starts).astype(np.int64), complete)


def prepared_bytes(size: int) -> int:
    """The most that the order statistics of one task vector of `size` entries take."""
    return _ENTRY_BYTES * min(size, KEPT)
