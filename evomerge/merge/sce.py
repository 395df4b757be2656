"""SCE: select entries by their variance over experts, weigh experts by energy, erase the minority sign."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merge.base import Coefficients, MergeMethod, Parameter, TensorInputs
from evomerge.merge.kernels import TREE, addresses_of, compiled_for, flattened, fuse, in_parts, tree_sums
from evomerge.merge.orders import OrderStatistics, Values, count_kept, least_reaching, order, prepared_bytes


class Sce(MergeMethod):
    """θ = θ₀ + λ Σ ηᵢ τᵢ / Σ ηᵢ over the experts that have the sign of Σ τ, at selected entries (§3.3).

    *Select*: of the entries that vary over experts the ⌊density · number⌋ of largest variance, at least
    one, and all that tie with the smallest of them; a density of 1 keeps every entry, 0 gives the base.
    *Calculate*: ηᵢ is the mean of τᵢ² over the tensor after selection (equal for all if that is 0).
    *Erase*: entries against the sign of Σ τ drop out; a sum of zero counts as positive.
    λ is the coefficient `scale`, 1 as published.
    """

    name = "sce"
    summary = "Task vectors where experts vary most, weighted by energy, the minority sign erased."
    source = "Wan et al. 2024, FuseChat, arXiv 2408.07990"
    parameters = (
        Parameter(
            name="density",
            description="Fraction of the varying entries that are kept, those of largest variance.",
            default=1.0,
            low=0.05,
            high=1.0,
            minimum=0.0,
            maximum=1.0,
        ),
        Parameter(name="scale", description="Factor of the merged task vector.", default=1.0, low=0.0, high=2.0),
    )
    min_experts = 2

    def prepare(self, inputs: TensorInputs) -> OrderStatistics:
        """Order statistics of the variance over experts."""
        return order(inputs.experts[0].numel(), _variances(inputs))

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """At most 768 KiB."""
        return prepared_bytes(math.prod(shape))

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: OrderStatistics, out: Tensor) -> None:
        """Find the weights at this density, then write the merge."""
        assert inputs.base is not None
        density, scale = float(coefficients["density"]), float(coefficients["scale"])
        kept = min(count_kept(density, state.positive), state.positive)
        threshold = 0.0 if density >= 1.0 else least_reaching(state.largest(kept, _variances(inputs)))
        energy = _energies(inputs, threshold)
        total = float(energy.sum())
        weights = energy / total if 0.0 < total < np.inf else np.full(len(energy), 1.0 / len(energy))

        def formula(blocks: list[Tensor], first: int) -> Tensor:
            zero = torch.zeros_like(blocks[0])
            tau = [block - blocks[0] for block in blocks[1:]]
            kept = (_variance(tau) >= threshold).to(zero.dtype)
            tau = [vector * kept for vector in tau]
            votes, merged, divisor = zero.clone(), zero.clone(), zero.clone()
            for vector in tau:
                votes += vector
            sign = 1.0 - 2.0 * (votes < 0.0).to(zero.dtype)
            for vector, weight in zip(tau, weights.tolist(), strict=True):
                agrees = (vector * sign > 0.0).to(zero.dtype)
                merged += vector * weight * agrees
                divisor += agrees * weight
            return blocks[0] + merged / (divisor + (divisor == 0.0).to(zero.dtype)) * scale

        fuse("merge_sce", formula, (inputs.base, *inputs.experts), out, weights, threshold, scale)


def _variance(tau: list[Tensor]) -> Tensor:
    mean, spread = torch.zeros_like(tau[0]), torch.zeros_like(tau[0])
    for vector in tau:
        mean += vector
    mean /= len(tau)
    for vector in tau:
        spread += (vector - mean) * (vector - mean)
    return spread / len(tau)


def _variances(inputs: TensorInputs) -> Values:
    assert inputs.base is not None
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]

    def values(start: int, stop: int) -> NDArray[np.float32]:
        result = np.empty(stop - start, dtype=np.float32)
        if compiled := compiled_for(*flat):
            compiled.variances(start, stop, *addresses_of(flat), result)
            return result
        base, *experts = (tensor[start:stop].to(torch.float64) for tensor in flat)
        spread = _variance([expert - base for expert in experts])
        result[:] = spread.nan_to_num(nan=torch.inf, posinf=torch.inf).to(torch.float32).cpu().numpy()
        return result

    return values


def _energies(inputs: TensorInputs, threshold: float) -> NDArray[np.float64]:
    """Σ τ² per expert over the entries whose variance reaches the threshold, shape (K,)."""
    assert inputs.base is not None
    flat = [flattened(tensor) for tensor in (inputs.base, *inputs.experts)]
    size = flat[0].numel()
    partial = np.zeros((len(inputs.experts), max(1, -(-size // TREE))), dtype=np.float64)
    if compiled := compiled_for(*flat):
        arguments = addresses_of(flat)
        in_parts(lambda start, stop: compiled.energies(start, stop, *arguments, threshold, partial), size)
    else:
        for first in range(0, size, TREE):
            base, *experts = (tensor[first : first + TREE].to(torch.float64) for tensor in flat)
            tau = [expert - base for expert in experts]
            kept = (_variance(tau) >= threshold).to(torch.float64)
            for index, vector in enumerate(tau):
                padded = np.zeros(TREE)
                padded[: len(vector)] = (vector * vector * kept).cpu().numpy()
                partial[index, first // TREE] = tree_sums(padded, axis=0)
    return tree_sums(partial, axis=1)
