"""TIES: trim task vectors by magnitude, elect a sign per entry, average those that agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merge.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.merge.kernels import fuse
from evomerge.merge.magnitudes import Magnitudes, count_kept, order_statistics, prepared_bytes

DENSITY = Parameter(
    name="density",
    description="Fraction of the task vector's entries that are kept.",
    default=0.5,
    low=0.05,
    high=1.0,
    minimum=0.0,
    maximum=1.0,
    per_expert=True,
)


class Ties(MergeMethod):
    """θ = θ₀ + λ · disjoint mean of the trimmed task vectors that agree with the elected sign (§3, eq. 1).

    *Trim*: per tensor and expert the ⌊density · size⌋ entries of largest magnitude are kept, with all
    that tie with the smallest of them, so that no entry depends on where it stands. A density that
    keeps no entry leaves that expert out; if all are left out the result is the base.
    *Elect*: the sign of Σ wᵢ τᵢ (`election: weighted`, the default, as is usual in practice) or of
    Σ τᵢ (`unweighted`, as in the paper) over what was kept; a sum of zero counts as positive.
    *Merge*: Σ wᵢ τᵢ over the entries of that sign, divided by the sum of their wᵢ if `normalize`
    (unless that is below 10⁻⁸), times λ, the parameter `scale`.
    """

    name = "ties"
    summary = "Trimmed task vectors, one elected sign per entry, mean of those that agree."
    source = "Yadav et al. 2023, TIES-Merging, arXiv 2306.01708"
    parameters = (
        Parameter(
            name="weight",
            description="Weight of the expert among those that agree, and in the election.",
            default=1.0,
            low=0.0,
            high=1.0,
            per_expert=True,
        ),
        DENSITY,
        Parameter(
            name="scale",
            description="Factor λ of the merged task vector.",
            default=1.0,
            low=0.0,
            high=2.0,
        ),
    )
    options = (
        Option(
            name="election",
            description="Elect signs by weighted or by unweighted task vectors.",
            default="weighted",
            choices=("weighted", "unweighted"),
        ),
        Option(name="normalize", description="Divide by the weights of those that agree.", default=True),
    )

    def prepare(self, inputs: TensorInputs) -> tuple[Magnitudes, ...]:
        """Each task vector's order statistics."""
        assert inputs.base is not None
        return tuple(order_statistics(inputs.base, expert) for expert in inputs.experts)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 768 KiB per expert."""
        return num_experts * prepared_bytes(math.prod(shape))

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        """Write the base plus the merged task vector."""
        base = inputs.base
        assert base is not None
        thresholds = np.array(
            [
                magnitudes.threshold(count_kept(float(density), base.numel()), base, expert)
                for density, magnitudes, expert in zip(coefficients["density"], state, inputs.experts, strict=True)
            ]
        )
        consensus(
            inputs,
            coefficients["weight"],
            thresholds,
            scale=float(coefficients["scale"]),
            weighted_election=self.option["election"] == "weighted",
            normalize=self.option["normalize"],
            out=out,
        )


def consensus(
    inputs: TensorInputs,
    weights: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    *,
    scale: float,
    weighted_election: bool,
    normalize: bool,
    out: Tensor,
) -> None:
    """Trim at given thresholds, elect signs and write base + scale · merged task vector.

    Args:
        inputs: the base and K experts.
        weights: shape (K,).
        thresholds: least magnitude kept per expert, shape (K,).
        scale: factor of the merged task vector.
        weighted_election: whether weights count in the election.
        normalize: whether to divide by the weights of those that agree.
        out: where to write.
    """
    assert inputs.base is not None
    # Equal weights elect as no weights do, but without the weights' rounding, which could tip an exact tie.
    voted = weighted_election and not (bool((weights == weights[0]).all()) and weights[0] > 0.0)

    def formula(blocks: list[Tensor], first: int) -> Tensor:
        start, zero = blocks[0], torch.zeros_like(blocks[0])
        votes, up, down, up_weight, down_weight = (torch.zeros_like(start) for _ in range(5))
        for block, weight, threshold in zip(blocks[1:], weights.tolist(), thresholds.tolist(), strict=True):
            tau = block - start
            tau = torch.where(tau.abs().to(torch.float32) < threshold, zero, tau)
            weighted = tau * weight
            vote = weighted if voted else tau
            votes += vote
            # Negated comparisons, so that NaN lands on both sides.
            up += torch.where(vote <= 0.0, zero, weighted)
            up_weight += torch.where(vote <= 0.0, zero, weight)
            down += torch.where(vote >= 0.0, zero, weighted)
            down_weight += torch.where(vote >= 0.0, zero, weight)
        total = torch.where(votes < 0.0, down, up)
        if normalize:
            weight_sum = torch.where(votes < 0.0, down_weight, up_weight)
            total = total / torch.where(weight_sum.abs() >= 1e-8, weight_sum, torch.ones_like(start))
        return start + total * scale

    fuse(
        "ties", formula, (inputs.base, *inputs.experts), out,
        np.ascontiguousarray(weights), np.ascontiguousarray(thresholds), scale, voted, normalize,
    )  # fmt: skip
