"""TALL masks, where a sum of task vectors serves a task, and Consensus Task Arithmetic, what serves several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import MergeError, unknown
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import fuse, representable
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs

SCALE = Parameter(name="scale", description="Factor of the masked sum.", default=1.0, low=0.0, high=1.5)


def selectivity(per_expert: bool) -> Parameter:
    """How strict a mask is."""
    return Parameter(
        name="selectivity",
        description="How far the expert's entry must outweigh the others' to count; larger keeps less.",
        default=0.4,
        low=0.2,
        high=0.6,
        minimum=0.0,
        per_expert=per_expert,
    )


class ConsensusTaskArithmetic(MergeMethod):
    """θ = θ₀ + α · m ⊙ Σ wᵢ τᵢ, m keeping entries that serve at least `least` experts (§4.3, eq. 6).

    An entry serves expert i where |τᵢ| > λᵢ |Σ τ − τᵢ| (eq. 5); λᵢ is the coefficient `selectivity`.
    Entries that serve one expert alone, or none, are dropped. The weights, 1 as published, act after
    the masks. Where nothing is kept the result is the base.
    """

    name = "consensus_ta"
    summary = "Sum of task vectors where it serves at least two experts."
    source = "Wang et al. 2024, Localizing task information, arXiv 2405.07813"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(
            name="weight",
            description="Factor of the expert's task vector.",
            default=0.5,
            low=0.0,
            high=1.5,
            per_expert=True,
        ),
        selectivity(per_expert=True),
    )
    options = (Option(name="least", description="Experts that an entry must serve.", default=2, minimum=0),)
    min_experts = 2

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the entries that serve enough experts."""
        return _masked_sum(
            inputs, coefficients["weight"], coefficients["selectivity"], None, self.option["least"], 1.0, out
        )


class TallMask(MergeMethod):
    """θ = θ₀ + α · mₖ ⊙ Σ τᵢ: expert k, the option `model`, found again in the sum of all (§4.1, eq. 4 and 5).

    mₖ keeps entries where |τₖ| > λ |Σ τ − τₖ|; λ is the coefficient `selectivity`.
    """

    name = "tall_mask"
    summary = "One expert as the masked sum of all experts' task vectors."
    source = "Wang et al. 2024, Localizing task information, arXiv 2405.07813"
    takes_raw = True
    adds_task_vectors = True
    parameters = (SCALE, selectivity(per_expert=False))
    options = (Option(name="model", description="The expert to find again; empty: the first.", default=""),)

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        if self.option["model"] and self.option["model"] not in experts:
            raise MergeError(f"tall_mask: model: {unknown('expert', self.option['model'], experts)}")

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the masked sum."""
        count = len(inputs.experts)
        chosen = self.experts.index(self.option["model"]) if self.option["model"] else 0
        strictness = np.full(count, float(coefficients["selectivity"]))
        return _masked_sum(inputs, np.ones(count), strictness, chosen, 1, float(coefficients["scale"]), out)


def _masked_sum(
    inputs: TensorInputs,
    weights: NDArray[np.float64],
    strictness: NDArray[np.float64],
    chosen: int | None,
    least: int,
    scale: float,
    out: Tensor,
) -> Finite:
    assert inputs.base is not None
    voices = tuple(1.0 if chosen in (None, index) else 0.0 for index in range(len(weights)))
    return fuse(
        "agreement", _formula, (inputs.base, *inputs.experts), out,
        (tuple(weights.tolist()), tuple(strictness.tolist()), voices, float(least), scale),
        provable=lambda: representable(weights, strictness, scale),
    )  # fmt: skip


def _formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    weights, strictness, voices, least, scale = numbers
    base = values[0]
    vectors = [value - base for value in values[1:]]
    total, weighted, votes = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    for vector, weight in zip(vectors, weights, strict=True):
        total = total + vector
        weighted = weighted + vector * weight
    for vector, selectivity, voice in zip(vectors, strictness, voices, strict=True):
        counts = vector.abs() > (total - vector).abs() * selectivity
        votes = votes + torch.where(counts, voice, torch.zeros_like(base))
    return base + weighted * torch.where(votes >= least, scale, torch.zeros_like(base))
