"""MagMax: per entry the task vector of largest magnitude."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evomerge.merge.base import Coefficients, MergeMethod, Parameter, TensorInputs
from evomerge.merge.kernels import fuse, representable


class MagMax(MergeMethod):
    """θ = θ₀ + λ · τ_k per entry, k the expert whose |wᵢ τᵢ| is largest there (§3.2).

    The weights, 1 as published, scale task vectors before they are compared and in the result; λ is the
    coefficient `scale`. Of two equally large entries of opposite sign the positive one is taken.
    """

    name = "magmax"
    summary = "Per entry the task vector of largest magnitude."
    source = "Marczak et al. 2024, MagMax, arXiv 2407.06322"
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

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> bool:
        """Write the base plus the largest entries."""
        assert inputs.base is not None
        weights, scale = tuple(coefficients["weight"].tolist()), float(coefficients["scale"])

        def formula(blocks: list[Tensor], first: int) -> Tensor:
            best, poison = torch.zeros_like(blocks[0]), torch.zeros_like(blocks[0])
            for block, weight in zip(blocks[1:], weights, strict=True):
                value = (block - blocks[0]) * weight
                # Not zero only for NaN and Inf, which no comparison may lose.
                poison += value * 0.0
                larger = (value.abs() > best.abs()) | ((value.abs() == best.abs()) & (value > best))
                best = torch.where(larger, value, best)
            return blocks[0] + (best + poison) * scale

        return fuse(
            "merge_magmax", formula, (inputs.base, *inputs.experts), out, (weights, scale),
            provable=representable(weights, scale),
        )  # fmt: skip
