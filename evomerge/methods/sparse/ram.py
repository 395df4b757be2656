"""RAM: entries that one expert changed are kept whole, those that several changed are averaged."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.formulas import Finite, quotient
from evomerge.kernels.fuse import fuse, representable
from evomerge.kernels.memory import addresses_of, flattened
from evomerge.kernels.threads import in_parts
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs

WEIGHT = Parameter(
    name="weight",
    description="Factor of the expert's task vector.",
    default=1.0,
    low=0.0,
    high=1.5,
    per_expert=True,
)
EPSILON = Option(
    name="epsilon", description="An expert changed an entry if |τ| exceeds this.", default=1e-5, minimum=0.0
)
_CHUNK = 1 << 22


class Ram(MergeMethod):
    """θ = θ₀ + Σ wᵢ mᵢ ⊙ τᵢ / Σ mᵢ, mᵢ marking where |τᵢ| > ε (Reinforced Agent Merging, §3).

    Experts trained by reinforcement change few entries, many of them alone; plain averaging would shrink
    these. The weights, 1 as published, scale task vectors after the masks. Where no expert changed
    anything the base stays.
    """

    name = "ram"
    summary = "Mean of the task vectors over the experts that changed the entry."
    source = "Reinforced Agent Merging, arXiv 2601.13572"
    takes_raw = True
    adds_task_vectors = True
    parameters: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    options = (EPSILON,)

    def boosts(self, coefficients: Coefficients, state: Any) -> NDArray[np.float64]:
        """Factor of each expert's entries that no other changed, shape (K,)."""
        return np.ones(len(self.experts))

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the mean of what changed."""
        assert inputs.base is not None
        weights, boosts = coefficients["weight"], self.boosts(coefficients, state)
        epsilon = float(self.option["epsilon"])
        return fuse(
            "merge_ram", _formula, (inputs.base, *inputs.experts), out,
            (tuple(weights.tolist()), tuple(boosts.tolist()), epsilon),
            provable=lambda: representable(weights, boosts, weights * boosts),
        )  # fmt: skip


class RamPlus(Ram):
    """As `Ram`, an expert's own entries growing by 1 + r · min(ρ, α), to make up for what averaging takes elsewhere.

    ρ is, in this tensor, the number of its entries that others changed too over those that it changed alone
    (the tensor-local form of §3.3; over a count of zero, the least divisor is ε as in mergekit).
    """

    name = "ram_plus"
    summary = "RAM with each expert's own entries strengthened by how much it shares."
    parameters = (
        WEIGHT,
        Parameter(name="r", description="Strength of the growth.", default=0.1, low=0.0, high=1.0, minimum=0.0),
        Parameter(
            name="alpha",
            description="Ratio of shared to own entries above which growth stops.",
            default=0.2,
            low=0.0,
            high=1.0,
            minimum=0.0,
            searched=False,
        ),
    )

    def prepare(self, inputs: TensorInputs) -> NDArray[np.float64]:
        """Ratio of shared to own entries per expert, shape (K,)."""
        assert inputs.base is not None
        epsilon = self.option["epsilon"]
        base, *experts = (flattened(tensor) for tensor in (inputs.base, *inputs.experts))
        shared, own = np.zeros(len(experts)), np.zeros(len(experts))
        if compiled := compiled_for(base, *experts):
            arguments = (*addresses_of((base, *experts)), float(epsilon))
            found: list[NDArray[np.int64]] = []

            def count(start: int, stop: int) -> None:
                counts = np.zeros((2, len(experts)), dtype=np.int64)
                compiled.count_changed(start, stop, *arguments, *counts)
                found.append(counts)

            in_parts(count, base.numel())
            shared, own = np.sum(found, axis=0).astype(np.float64)
            return _ratio(shared, own, epsilon)
        for first in range(0, base.numel(), _CHUNK):
            start = base[first : first + _CHUNK].to(torch.float64)
            changed = [(expert[first : first + _CHUNK].to(torch.float64) - start).abs() > epsilon for expert in experts]
            counts = torch.stack(changed).sum(dim=0)
            shared += [float((mask & (counts > 1)).sum()) for mask in changed]
            own += [float((mask & (counts == 1)).sum()) for mask in changed]
        return _ratio(shared, own, epsilon)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """A number per expert."""
        return 8 * num_experts

    def boosts(self, coefficients: Coefficients, state: NDArray[np.float64]) -> NDArray[np.float64]:
        """1 + r · min(ρ, α)."""
        boosts: NDArray[np.float64] = 1.0 + float(coefficients["r"]) * np.minimum(state, float(coefficients["alpha"]))
        return boosts


def _formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    weights, boosts, epsilon = numbers
    base, *experts = values
    shared, alone, active = torch.zeros_like(base), torch.zeros_like(base), torch.zeros_like(base)
    for expert, weight, boost in zip(experts, weights, boosts, strict=True):
        vector = expert - base
        changed = torch.where(vector.abs() > epsilon, 1.0, 0.0)
        part = vector * changed * weight
        active = active + changed
        shared = shared + part
        alone = alone + part * boost
    several = active > 1.0
    return base + torch.where(several, quotient(shared, torch.where(several, active, 1.0)), alone)


def _ratio(shared: NDArray[np.float64], own: NDArray[np.float64], epsilon: float) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = shared / np.maximum(own, max(epsilon, np.finfo(np.float64).tiny))
    return ratio
