"""MagMax: per entry the task vector of largest magnitude."""

from __future__ import annotations

from typing import Any

from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import fuse, representable
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs


class MagMax(MergeMethod):
    """θ = θ₀ + λ · τ_k per entry, k the expert whose |wᵢ τᵢ| is largest there (§3.2).

    The weights, 1 as published, scale task vectors before they are compared and in the result; λ is the
    coefficient `scale`. Of two equally large entries of opposite sign the positive one is taken.
    """

    name = "magmax"
    summary = "Per entry the task vector of largest magnitude."
    source = "Marczak et al. 2024, MagMax, arXiv 2407.06322"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(
            name="weight",
            description="Factor of the expert's task vector before comparing.",
            default=1.0,
            low=0.0,
            high=1.5,
            per_expert=True,
        ),
        Parameter(
            name="scale",
            description="Factor of the merged task vector.",
            default=1.0,
            low=0.0,
            high=2.0,
            searched=False,
        ),
    )

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the largest entries."""
        assert inputs.base is not None
        weights, scale = tuple(coefficients["weight"].tolist()), float(coefficients["scale"])
        return fuse(
            "merge_magmax", _formula, (inputs.base, *inputs.experts), out, (weights, scale),
            provable=lambda: representable(weights, scale),
        )  # fmt: skip


def _formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    weights, scale = numbers
    base, *experts = values
    best, poison = torch.zeros_like(base), torch.zeros_like(base)
    for expert, weight in zip(experts, weights, strict=True):
        vector = (expert - base) * weight
        # Not zero only for NaN and Inf, which no comparison may lose.
        poison = poison + vector * 0.0
        size, largest = vector.abs(), best.abs()
        best = torch.where((size > largest) | ((size == largest) & (vector > best)), vector, best)
    merged: Tensor = base + (best + poison) * scale
    return merged
