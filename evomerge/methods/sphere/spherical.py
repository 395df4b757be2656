"""Interpolation and means on spheres.

Results lie in the span of the inputs, so their inner products are all that has to be prepared: each
candidate costs a little arithmetic on them and one weighted sum.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.kernels.sums import gram
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs

Products = NDArray[np.float64]
"""Inner products of K vectors, shape (rows, K, K): one matrix for each part of a tensor."""

# Where sin Ω is this small, the arc equals the chord to rounding; where Ω is nearly π, it is arbitrary.
_PARALLEL = 1.0 - 1e-12

# Square roots of differences of rounded squares can't be told from zero below this.
TINY = 1e-7

SHARE = Parameter(
    name="weight",
    description="Share of the expert; only the ratios of the weights matter.",
    default=1.0,
    low=0.0,
    high=1.0,
    per_expert=True,
)


def origin_option(default: str) -> Option:
    """Where the sphere's centre lies."""
    return Option(
        name="origin",
        description="Take directions from the base (task vectors) or from zero (the weights themselves).",
        default=default,
        choices=("base", "zero"),
    )


class Slerp(MergeMethod):
    """θ = [sin((1 − t)Ω) θ_a + sin(tΩ) θ_b] / sin Ω, Ω = acos⟨θ_a, θ_b⟩/(‖θ_a‖‖θ_b‖), per flattened tensor.

    (Shoemake 1985, §3.3.) Linear interpolation instead, (1 − t) θ_a + t θ_b, where the vectors are
    nearly parallel or opposite (`threshold`) or one of them is zero. Fine-tunes of one base nearly
    always are that parallel, so between them this mostly is linear interpolation.
    """

    name = "slerp"
    summary = "Spherical interpolation between exactly two experts."
    source = "Shoemake 1985, Animating rotation with quaternion curves"
    takes_raw = True
    parameters = (
        Parameter(
            name="t",
            description="Position between the first expert (0) and the second (1).",
            default=0.5,
            low=0.0,
            high=1.0,
            minimum=0.0,
            maximum=1.0,
        ),
    )
    options = (
        Option(
            name="threshold",
            description="Interpolate linearly where the cosine's absolute value is above this.",
            default=0.9995,
            minimum=0.0,
            maximum=1.0,
        ),
    )
    base = "unused"
    min_experts = 2
    max_experts = 2

    def prepare(self, inputs: TensorInputs) -> Products:
        """The two experts' inner products, shape (1, 2, 2)."""
        return gram(inputs.experts)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """Four numbers."""
        return 32

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Products, out: Tensor) -> Finite:
        """Write the point at `t` of the arc."""
        return span(inputs.experts, arc(state, float(coefficients["t"]), self.option["threshold"]), out)


class NuSlerp(MergeMethod):
    """Spherical interpolation as in `Slerp`, at t = w_b/(w_a + w_b), between task vectors or weights.

    `origin: base`, the default, interpolates τ_a and τ_b and adds θ₀; `zero` interpolates the weights.
    `along` says what a vector is: the whole `tensor`, or each of its `rows` (along the last dimension)
    or `columns` (along the first). Linear only where the vectors are parallel or opposite to within
    rounding, or where one is zero. Weights that add up to 0 within 10⁻⁶ give t = ½.
    """

    name = "nuslerp"
    summary = "Spherical interpolation between two experts' task vectors, whole, by rows or by columns."
    source = "Goddard et al. 2024, mergekit, arXiv 2403.13257 (its method of this name)"
    takes_raw = True
    parameters = (SHARE,)
    options = (
        origin_option("base"),
        Option(
            name="along",
            description="What is interpolated as one vector.",
            default="tensor",
            choices=("tensor", "rows", "columns"),
        ),
    )
    min_experts = 2
    max_experts = 2

    def prepare(self, inputs: TensorInputs) -> Products:
        """The two vectors' inner products, shape (1 or vectors, 2, 2)."""
        base, experts = self._oriented(inputs)
        origin = base if self.option["origin"] == "base" else None
        return gram(experts, origin=origin, rows=self._vectors(tuple(experts[0].shape)))

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """Four numbers per vector."""
        return 32 * self._vectors(shape if self.option["along"] != "columns" else (*shape[1:], *shape[:1]))

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Products, out: Tensor) -> Finite:
        """Write the points of the arcs."""
        first, second = coefficients["weight"].tolist()
        total = first + second
        ends = arc(state, 0.5 if abs(total) < 1e-6 else second / total, _PARALLEL)
        base, experts = self._oriented(inputs)
        if self.option["along"] == "columns" and out.dim() > 1:
            out = out.movedim(0, -1)
        if self.option["origin"] == "base":
            return span((base, *experts), np.concatenate([1.0 - ends.sum(axis=1, keepdims=True), ends], axis=1), out)
        else:
            return span(experts, ends, out)

    def _oriented(self, inputs: TensorInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Base and experts with the vectors to interpolate along the last dimension."""
        assert inputs.base is not None
        if self.option["along"] != "columns" or inputs.base.dim() < 2:
            return inputs.base, inputs.experts
        return inputs.base.movedim(0, -1), tuple(expert.movedim(0, -1) for expert in inputs.experts)

    def _vectors(self, shape: tuple[int, ...]) -> int:
        return 1 if self.option["along"] == "tensor" or len(shape) < 2 else math.prod(shape[:-1])


def arc(products: Products, t: float, threshold: float) -> NDArray[np.float64]:
    """Coefficients of both ends of each arc for its point at `t`.

    Args:
        products: inner products of the ends, shape (rows, 2, 2).
        t: position, from 0 to 1.
        threshold: cosine above which, in absolute value, the chord is taken for the arc.

    Returns: the factors of the first and the second end, shape (rows, 2).
    """
    lengths = np.sqrt(products[:, 0, 0]) * np.sqrt(products[:, 1, 1])
    usable = (lengths > 0.0) & np.isfinite(lengths)
    cosine = np.where(usable, products[:, 0, 1] / np.where(usable, lengths, 1.0), 1.0)
    linear = ~(np.abs(cosine) <= min(threshold, _PARALLEL))
    angle = np.arccos(np.where(linear, 0.0, cosine))
    first = np.where(linear, 1.0 - t, np.sin((1.0 - t) * angle) / np.sin(angle))
    second = np.where(linear, t, np.sin(t * angle) / np.sin(angle))
    return np.stack([first, second], axis=1)
