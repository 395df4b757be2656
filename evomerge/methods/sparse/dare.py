"""DARE: drop entries of task vectors at random and rescale the rest."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from evomerge.methods.base import Coefficients, Option, Parameter, TensorInputs
from evomerge.methods.sparse.base import (
    DENSITY,
    ELECTION,
    SCALE,
    SUMMED_WEIGHT,
    SparseMethod,
    normalize_option,
    rescale_option,
)
from evomerge.methods.sparse.sparsify import Sparsity, keys


class DareLinear(SparseMethod):
    """θ = θ₀ + Σ wᵢ mᵢ ⊙ τᵢ / ρᵢ, mᵢ keeping each entry with probability ρᵢ, the density (§3.2, eq. 2 and 3).

    An entry survives if its random number, a function of (seed, expert, tensor, element) alone, is below
    the density. So a larger density keeps all that a smaller one keeps, nothing is stored, and the model
    that is exported is the one that was scored.
    `rescale`: `probability`, the default, divides by the density as in the paper; `l1`, as in mergekit,
    restores the task vector's L1 norm; `none` leaves entries as they are. A density of 0 leaves the expert out.
    """

    name = "dare_linear"
    summary = "Task vectors with entries dropped at random and the rest rescaled, added up."
    source = "Yu et al. 2024, Language models are super Mario, arXiv 2311.03099"
    takes_raw = True
    parameters: ClassVar[tuple[Parameter, ...]] = (SUMMED_WEIGHT, DENSITY)
    options: ClassVar[tuple[Option, ...]] = (rescale_option("probability", "l1", "none"),)

    def sparsity(self, inputs: TensorInputs, coefficients: Coefficients, state: Any) -> Sparsity:
        """Keep entries whose random number is below the density."""
        density = np.ascontiguousarray(coefficients["density"])
        grows = self.option["rescale"] == "probability"
        return Sparsity(
            kind="random",
            low=density,
            high=density,
            factor=1.0 / np.where(density > 0.0, density, 1.0) if grows else np.ones_like(density),
            keys=keys(self.seed, "dare", self.experts, inputs.name),
        )


class DareTies(DareLinear):
    """DARE's sparse task vectors, combined as in TIES: elected signs, sum or mean of those that agree.

    The sum (`normalize: false`) is the default as in mergekit: the rescaling already makes up for what was dropped.
    """

    name = "dare_ties"
    summary = "Task vectors with entries dropped at random and the rest rescaled, combined by elected signs."
    parameters = (SUMMED_WEIGHT, DENSITY, SCALE)
    options = (ELECTION, normalize_option(False), rescale_option("probability", "l1", "none"))
    elects = True
