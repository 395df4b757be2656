"""Weighted sums: linear merging and task arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.errors import MergeError
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs


class Linear(MergeMethod):
    """θ = Σ wᵢ θᵢ, divided by Σ wᵢ if `normalize` (Wortsman et al. 2022, §2).

    Normalised, only the ratios of the weights matter; a sum of zero is then undefined and refused.
    """

    name = "linear"
    summary = "Weighted average of the experts; the base takes no part."
    source = "Wortsman et al. 2022, Model soups, arXiv 2203.05482"
    takes_raw = True
    parameters = (
        Parameter(
            name="weight",
            description="Share of the expert.",
            default=1.0,
            low=0.0,
            high=1.0,
            per_expert=True,
        ),
    )
    options = (Option(name="normalize", description="Divide by the sum of the weights.", default=True),)
    base = "unused"

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the weighted sum. Raises: MergeError if normalised weights add up to zero."""
        weight = coefficients["weight"]
        if self.option["normalize"]:
            total = float(weight.sum())
            if total == 0.0:
                raise MergeError(f"linear: weights {weight.tolist()} add up to 0 and can't be normalised")
            weight = weight / total
        return span(inputs.experts, weight, out)


class TaskArithmetic(MergeMethod):
    """θ = θ₀ + Σ λᵢ (θᵢ − θ₀) (Ilharco et al. 2023, §2), computed as (1 − Σ λᵢ) θ₀ + Σ λᵢ θᵢ.

    The default of 0.5 is the average of two experts, the merge of two that most often works, and close
    to what the paper finds best for a few. Zero returns the base; one expert at 1 returns the expert.
    """

    name = "task_arithmetic"
    summary = "Base plus weighted task vectors."
    source = "Ilharco et al. 2023, Editing models with task arithmetic, arXiv 2212.04089"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(
            name="weight",
            description="Factor of the expert's task vector; above 1 extrapolates.",
            default=0.5,
            low=0.0,
            high=1.5,
            per_expert=True,
        ),
    )

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the weighted task vectors."""
        assert inputs.base is not None
        weight = coefficients["weight"]
        return span((inputs.base, *inputs.experts), np.concatenate([[1.0 - weight.sum()], weight]), out)
