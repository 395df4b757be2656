"""TIES: trim task vectors by magnitude, elect a sign per entry, average those that agree."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from evomerge.merge.base import Coefficients, TensorInputs
from evomerge.merge.orders import (
    OrderStatistics,
    count_kept,
    least_reaching,
    magnitudes,
    magnitudes_between,
    order,
    prepared_bytes,
)
from evomerge.merge.sparse import DENSITY, ELECTED_WEIGHT, ELECTION, SCALE, SparseMethod, Sparsity, normalize_option


class Ties(SparseMethod):
    """θ = θ₀ + λ · disjoint mean of the trimmed task vectors that agree with the elected sign (§3, eq. 1).

    *Trim*: per tensor and expert the ⌊density · size⌋ entries of largest magnitude are kept, with all
    that tie with the smallest of them, so that no entry depends on where it stands. A positive density
    keeps at least one entry; a density of 0 leaves the expert out. (The paper's own code trims over all
    tensors at once; here, as is usual, each tensor is trimmed by itself.)
    *Elect*: the sign of Σ wᵢ τᵢ (`election: weighted`, the default, as is usual in practice) or of
    Σ τᵢ (`unweighted`, as in the paper) over what was kept; a sum of zero counts as positive.
    *Merge*: Σ wᵢ τᵢ over the entries of that sign, divided by the sum of their wᵢ if `normalize`
    (unless that is 0), times λ, the coefficient `scale`.
    """

    name = "ties"
    summary = "Trimmed task vectors, one elected sign per entry, mean of those that agree."
    source = "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708"
    parameters = (ELECTED_WEIGHT, DENSITY, replace(SCALE, searched=True))
    options = (ELECTION, normalize_option(True))
    elects = True

    def prepare(self, inputs: TensorInputs) -> tuple[OrderStatistics, ...]:
        """Each task vector's order statistics."""
        return ordered_magnitudes(inputs)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 768 KiB per expert."""
        return num_experts * prepared_bytes(math.prod(shape))

    def sparsity(
        self, inputs: TensorInputs, coefficients: Coefficients, state: tuple[OrderStatistics, ...]
    ) -> Sparsity:
        """Keep what reaches each expert's threshold."""
        assert inputs.base is not None
        low = [
            least_reaching(
                statistics.largest(
                    count_kept(density, statistics.size),
                    magnitudes(inputs.base, expert),
                    magnitudes_between(inputs.base, expert),
                )
            )
            for density, statistics, expert in zip(coefficients["density"].tolist(), state, inputs.experts, strict=True)
        ]
        return Sparsity(kind="band", low=np.array(low), high=np.full(len(low), np.inf), factor=np.ones(len(low)))


def ordered_magnitudes(inputs: TensorInputs) -> tuple[OrderStatistics, ...]:
    """Order statistics of each expert's task vector."""
    assert inputs.base is not None
    return tuple(order(expert.numel(), magnitudes(inputs.base, expert)) for expert in inputs.experts)
