"""Model Breadcrumbs: task vectors without their largest and smallest entries."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from evomerge.kernels.order_statistics import OrderStatistics
from evomerge.kernels.thresholds import count_kept, least_reaching, most_not_exceeding
from evomerge.methods.base import Coefficients, Option, Parameter, TensorInputs
from evomerge.methods.sparse.base import (
    DENSITY,
    ELECTION,
    SCALE,
    SUMMED_WEIGHT,
    BandMethod,
    normalize_option,
    rescale_option,
)
from evomerge.methods.sparse.sparsify import Sparsity

GAMMA = Parameter(
    name="gamma",
    description="Fraction of the task vector's entries, the largest ones, that are dropped.",
    default=0.01,
    low=0.0,
    high=0.05,
    minimum=0.0,
    maximum=1.0,
    per_expert=True,
    searched=False,
)


class Breadcrumbs(BandMethod):
    """θ = θ₀ + Σ wᵢ mᵢ ⊙ τᵢ, mᵢ dropping the largest and the smallest entries of each tensor (§3, eq. 2).

    Of the n entries in order of magnitude, ⌊gamma · n⌋ at the top are dropped and as many at the bottom
    as leave ⌊density · n⌋, with all that tie with the largest or the smallest of these. Where gamma and
    density exceed 1 together, fewer are dropped at the top; a density of 1 keeps all. A positive density
    keeps at least one entry, and infinite ones survive, so that they are noticed.
    """

    name = "breadcrumbs"
    summary = "Task vectors without their largest and smallest entries, added up."
    source = "Davari and Belilovsky 2023, Model Breadcrumbs, arXiv 2312.06795"
    parameters: ClassVar[tuple[Parameter, ...]] = (SUMMED_WEIGHT, replace(DENSITY, default=0.9), GAMMA)
    options: ClassVar[tuple[Option, ...]] = (rescale_option("none", "l1"),)

    def sparsity(
        self, inputs: TensorInputs, coefficients: Coefficients, state: tuple[OrderStatistics, ...]
    ) -> Sparsity:
        """Keep the band between each expert's thresholds."""
        size = inputs.experts[0].numel()
        ranks = []
        for density, gamma in zip(coefficients["density"], coefficients["gamma"], strict=True):
            kept = count_kept(float(density), size)
            above = min(int(float(gamma) * size), size - kept) if kept else 0
            # Rank 0 is infinite: nothing is kept, or nothing dropped at the top.
            ranks.append((above + kept, above + 1 if above else 0))
        found = self.largest(inputs, state, ranks)
        low = np.array([least_reaching(bottom) for bottom, _ in found])
        high = np.array([most_not_exceeding(top) for _, top in found])
        return Sparsity(kind="band", low=low, high=high, factor=np.ones(len(low)))


class BreadcrumbsTies(Breadcrumbs):
    """Breadcrumbs' sparse task vectors, combined as in TIES: elected signs, sum or mean of those that agree.

    The sum (`normalize: false`) is the default, as in mergekit.
    """

    name = "breadcrumbs_ties"
    summary = "Task vectors without their largest and smallest entries, combined by elected signs."
    parameters = (SUMMED_WEIGHT, replace(DENSITY, default=0.9), GAMMA, SCALE)
    options = (ELECTION, normalize_option(False), rescale_option("none", "l1"))
    elects = True
