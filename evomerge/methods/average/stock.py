"""Model Stock: how far to go from the base to the experts' mean, from the angles between task vectors."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import span
from evomerge.kernels.sums import gram
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs


class ModelStock(MergeMethod):
    """θ = θ₀ + s · t · mean(τ), t = K c / (1 + (K − 1) c), c the mean cosine between the K task vectors (eq. 7).

    The estimate assumes that fine-tuned weights lie on a sphere around their mean. Task vectors that
    point away from each other (c < 0) would then step backwards or, near c = −1/(K − 1), to infinity:
    t is kept in [0, 1] (`clamp: false` isn't so careful, but takes t = 0 at the singularity). A zero
    task vector counts as perpendicular to all. `along: rows` finds c and t for each row of a matrix.
    s is the coefficient `scale`; 1 is the method as published, which has nothing to search.
    """

    name = "model_stock"
    summary = "Step from the base towards the experts' mean whose length follows from their angles."
    source = "Jang et al. 2024, Model Stock, arXiv 2403.19522"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(name="scale", description="Factor of the step that the angles give.", default=1.0, low=0.0, high=2.0),
    )
    options = (
        Option(
            name="along", description="One step per tensor or per row.", default="tensor", choices=("tensor", "rows")
        ),
        Option(name="clamp", description="Keep the step between the base and the mean.", default=True),
    )
    min_experts = 2

    def prepare(self, inputs: TensorInputs) -> NDArray[np.float64]:
        """The step t for each part, shape (1 or rows,)."""
        assert inputs.base is not None
        rows = self._rows(tuple(inputs.base.shape))
        products = gram(inputs.experts, origin=inputs.base, rows=rows)
        count = len(inputs.experts)
        lengths = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
        first, second = np.triu_indices(count, k=1)
        scale = lengths[:, first] * lengths[:, second]
        usable = (scale > 0.0) & np.isfinite(scale)
        cosines = np.where(usable, products[:, first, second] / np.where(usable, scale, 1.0), 0.0)
        cosine = np.clip(cosines, -1.0, 1.0).mean(axis=1)
        below = 1.0 + (count - 1) * cosine
        step = np.where(np.abs(below) < 1e-6, 0.0, count * cosine / np.where(np.abs(below) < 1e-6, 1.0, below))
        return np.clip(step, 0.0, 1.0) if self.option["clamp"] else step

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        """One number per part."""
        return 8 * self._rows(shape)

    def merge(
        self, inputs: TensorInputs, coefficients: Coefficients, state: NDArray[np.float64], out: Tensor
    ) -> Finite:
        """Write the base plus the step."""
        assert inputs.base is not None
        step = float(coefficients["scale"]) * state[:, None]
        shares = np.repeat(step / len(inputs.experts), len(inputs.experts), axis=1)
        return span((inputs.base, *inputs.experts), np.concatenate([1.0 - step, shares], axis=1), out)

    def _rows(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[:-1]) if self.option["along"] == "rows" and len(shape) > 1 else 1
