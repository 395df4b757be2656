"""Arcee Fusion: take over an expert's most important changes only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.divergence import divergences
from evomerge.kernels.engines import compiled_for
from evomerge.kernels.formulas import Finite, of_row
from evomerge.kernels.fuse import fuse, representable
from evomerge.kernels.memory import addresses_of, flattened
from evomerge.kernels.order_statistics import Values, all_largest, look_through, order
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs

_FLOOR = 1e-8
"""Added to each probability."""


@dataclass(frozen=True, slots=True)
class Importance:
    """What `merge` needs of one tensor: a factor per row, median and interquartile range of the importance."""

    rows: NDArray[np.float64]
    median: float
    range: float


class ArceeFusion(MergeMethod):
    """θ = θ₀ + w · m ⊙ τ for one expert, m keeping entries of importance at least median + k · (Q₃ − Q₁).

    The importance of an entry is |τ| times its row's KL(softmax(θ) ‖ softmax(θ₀)), 10⁻⁸ being added to
    each probability; a tensor of one dimension is one row. Quartiles are exact, over the whole tensor,
    at ranks ⌊q (n − 1)⌋. As published k = 1.5, the coefficient `selectivity`, and w = 1, `weight`.
    """

    name = "arcee_fusion"
    summary = "One expert's changes where they matter most, on top of the base."
    source = "Arcee Fusion, https://www.arcee.ai/blog/meet-mergekit-v0-1"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(name="weight", description="Factor of the changes taken over.", default=1.0, low=0.0, high=1.5),
        Parameter(
            name="selectivity",
            description="Interquartile ranges above the median from which a change counts; larger keeps less.",
            default=1.5,
            low=0.0,
            high=3.0,
        ),
    )
    max_experts = 1

    def prepare(self, inputs: TensorInputs) -> Importance:
        """Divergence of each row and quartiles of the importance."""
        inputs = inputs.cpu()
        assert inputs.base is not None
        base, expert = flattened(inputs.base), flattened(inputs.experts[0])
        rows = divergences(inputs.base, inputs.experts[0], floor=_FLOOR)
        values = _importances(base, expert, rows)
        size = base.numel()
        statistics = order(size, values)
        counts = [size - int(q * (size - 1)) for q in (0.25, 0.5, 0.75)]
        [[first, median, third]] = all_largest([statistics], [counts], look_through(size, values))
        return Importance(rows, median, third - first)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """A number per row."""
        return 8 * math.prod(shape[:-1]) + 16

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Importance, out: Tensor) -> Finite:
        """Write the base plus the important changes."""
        assert inputs.base is not None
        threshold = state.median + float(coefficients["selectivity"]) * state.range
        weight, length = float(coefficients["weight"]), max(1, inputs.base.numel() // len(state.rows))
        return fuse(
            "merge_fusion", _formula, (inputs.base, *inputs.experts), out,
            (state.rows, length, threshold, weight), provable=lambda: representable(weight),
        )  # fmt: skip


def _importances(base: Tensor, expert: Tensor, rows: NDArray[np.float64]) -> Values:
    length = max(1, base.numel() // len(rows))
    compiled = compiled_for(base, expert)
    arguments = () if compiled is None else addresses_of((base, expert))

    def values(start: int, stop: int) -> NDArray[np.float32]:
        result = np.empty(stop - start, dtype=np.float32)
        if compiled is not None:
            compiled.importances(start, stop, *arguments, rows, length, result)
            return result
        tau = expert[start:stop].to(torch.float64) - base[start:stop].to(torch.float64)
        size = tau.abs() * torch.from_numpy(rows)[torch.arange(start, stop) // length]
        result[:] = size.nan_to_num(nan=torch.inf, posinf=torch.inf).to(torch.float32).numpy()
        return result

    return values


def _formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    (base, expert), (rows, length, threshold, weight) = values, numbers
    vector = expert - base
    size = (vector.abs() * of_row(rows, index, length)).to(torch.float32)
    return base + vector * torch.where(size.to(torch.float64) >= threshold, weight, torch.zeros_like(base))
