"""Interpolation on spheres. Results lie in the span of the inputs, so only their inner products are prepared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merge.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs
from evomerge.merge.kernels import gram, span

THRESHOLD = Option(
    name="threshold",
    description="Interpolate linearly where the cosine's absolute value is above this.",
    default=0.9995,
    minimum=0.0,
    maximum=1.0,
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
    options = (THRESHOLD,)
    base = "unused"
    min_experts = 2
    max_experts = 2

    def prepare(self, inputs: TensorInputs) -> NDArray[np.float64]:
        """The two experts' inner products, shape (2, 2)."""
        return gram(inputs.experts)

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """Four numbers."""
        return 32

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        """Write the point at `t` of the arc."""
        span(inputs.experts, arc(state, float(coefficients["t"]), self.option["threshold"]), out)


def arc(products: NDArray[np.float64], t: float, threshold: float) -> tuple[float, float]:
    """Coefficients of both ends of an arc for the point at `t`.

    Args:
        products: inner products of the ends, shape (2, 2).
        t: position, from 0 to 1.
        threshold: cosine above which, in absolute value, the chord is taken for the arc.

    Returns: the factors of the first and the second end.
    """
    lengths = math.sqrt(products[0, 0]) * math.sqrt(products[1, 1])
    cosine = float(products[0, 1]) / lengths if 0.0 < lengths < math.inf else math.nan
    if not abs(cosine) <= min(threshold, 1.0) or abs(cosine) == 1.0:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
