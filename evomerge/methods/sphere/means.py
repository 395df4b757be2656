"""Means of several models on a sphere: multi-SLERP and Karcher."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import MergeError
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.kernels.sums import gram
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.methods.sphere.spherical import SHARE, TINY, Products, origin_option


class _SphericalMean(MergeMethod):
    """A mean of directions, which `directions` finds from cosines, times the weighted mean of the lengths."""

    takes_raw = True
    parameters: ClassVar[tuple[Parameter, ...]] = (SHARE,)
    options: ClassVar[tuple[Option, ...]] = (origin_option("base"),)

    def prepare(self, inputs: TensorInputs) -> Products:
        """Inner products of the experts or their task vectors, shape (1, K, K)."""
        return gram(inputs.experts, origin=inputs.base if self.option["origin"] == "base" else None)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """A number for each pair of experts."""
        return 8 * num_experts**2

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Products, out: Tensor) -> Finite:
        """Write the mean. Raises: MergeError if the weights can't be normalised."""
        assert inputs.base is not None
        weight = self.shares(coefficients["weight"])
        lengths = np.sqrt(np.diagonal(state[0]))
        factors = np.zeros(len(weight))
        used = np.flatnonzero((lengths > 0.0) & np.isfinite(lengths))
        if len(used):
            cosines = state[0][np.ix_(used, used)] / np.outer(lengths[used], lengths[used])
            direction = self.direction(np.clip(cosines, -1.0, 1.0), weight[used])
            if direction is None:
                factors = weight
            else:
                factors[used] = float(weight[used] @ lengths[used]) * direction / lengths[used]
        if self.option["origin"] == "base":
            return span((inputs.base, *inputs.experts), np.concatenate([[1.0 - factors.sum()], factors]), out)
        else:
            return span(inputs.experts, factors, out)

    def shares(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights divided by their sum. Raises: MergeError if that is zero."""
        total = float(weight.sum())
        if total == 0.0:
            raise MergeError(f"{self.name}: weights {weight.tolist()} add up to 0 and can't be normalised")
        return weight / total

    def direction(self, cosines: Products, weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Coefficients of the unit vectors that make up the mean, a unit vector; None: average linearly."""
        raise NotImplementedError


class MultiSlerp(_SphericalMean):
    """θ = θ₀ + (Σ wᵢ‖τᵢ‖) · m, m = Σ wᵢ ûᵢ / ‖Σ wᵢ ûᵢ‖, ûᵢ = τᵢ/‖τᵢ‖ (with `origin: zero`, of the weights).

    The published procedure projects the ûᵢ to the tangent space at m, averages them there and maps the
    average v back. But v = Σ wᵢ (ûᵢ − ⟨ûᵢ, m⟩ m) = 0 by the choice of m, so m is already the result.
    Where Σ wᵢ ûᵢ = 0 no direction is preferred: the experts are then averaged linearly.
    Experts with a zero vector contribute nothing. `normalize: false` leaves the weights undivided.
    """

    name = "multi_slerp"
    summary = "Weighted mean direction of the task vectors at their weighted mean length."
    source = "Goddard 2024, Multi-SLERP, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea"
    options = (
        origin_option("base"),
        Option(name="normalize", description="Divide by the sum of the weights.", default=True),
    )

    def shares(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights, divided by their sum if `normalize`."""
        return super().shares(weight) if self.option["normalize"] else weight

    def direction(self, cosines: Products, weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """The normalised weighted sum."""
        length = math.sqrt(max(0.0, float(weight @ cosines @ weight)))
        if length >= TINY * float(np.abs(weight).sum()) and length > 0.0:
            return weight / length
        return None


class Karcher(_SphericalMean):
    """The direction of least weighted squared angle to all experts, times their weighted mean length.

    u ← exp_u(Σ aᵢ (φᵢ / sin φᵢ)(ûᵢ − cos φᵢ u)), φᵢ = acos⟨u, ûᵢ⟩, from the normalised weighted sum on, at
    most `max_iterations` times or until the step is below `tolerance` (Karcher 1977; Afsari 2011).
    `origin: zero`, the default as in mergekit, takes the weights' directions, `base` the task vectors'.
    Experts with a zero vector contribute nothing. Where directions cancel, or one is opposite to the
    others' mean, there is no such mean, and the experts are averaged linearly.
    """

    name = "karcher"
    summary = "Riemannian centre of mass of the experts' directions at their weighted mean length."
    source = "Karcher 1977, Riemannian center of mass and mollifier smoothing"
    parameters = (
        Parameter(
            name="weight",
            description="Share of the expert; only the ratios of the weights matter.",
            default=1.0,
            low=0.0,
            high=1.0,
            minimum=0.0,
            per_expert=True,
        ),
    )
    options = (
        origin_option("zero"),
        Option(name="max_iterations", description="Steps at most.", default=10, minimum=1),
        Option(name="tolerance", description="Stop at a step this small, in radians.", default=1e-5, minimum=0.0),
    )

    def direction(self, cosines: Products, weight: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Iterate in coordinates of the experts' unit vectors."""
        if not weight.any():
            return None
        weight = weight / weight.sum()
        length = math.sqrt(max(0.0, float(weight @ cosines @ weight)))
        if length < TINY:
            return None
        mean = weight / length
        for _ in range(self.option["max_iterations"]):
            along = np.clip(cosines @ mean, -1.0, 1.0)
            angle = np.arccos(along)
            if bool(((math.pi - angle < TINY) & (weight > 0.0)).any()):
                return None
            stretch = weight * np.where(angle > TINY, angle / np.sin(np.maximum(angle, TINY)), 1.0)
            step = stretch - float(stretch @ along) * mean
            size = math.sqrt(max(0.0, float(step @ cosines @ step)))
            if size < max(self.option["tolerance"], TINY):
                break
            mean = math.cos(size) * mean + (math.sin(size) / size) * step
            mean = mean / math.sqrt(float(mean @ cosines @ mean))
        return mean
