"""NearSwap: take the expert's weights where they are near the base's, less of them the farther they are."""

from __future__ import annotations

from typing import Any

from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import fuse, representable
from evomerge.late import Tensor, torch
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs

_NEAREST = 1e-6


class NearSwap(MergeMethod):
    """θ = θ₀ + min(1, t / max(|τ|, 10⁻⁶)) · τ for one expert: a step towards it of at most t per entry."""

    name = "nearswap"
    summary = "Steps from the base to one expert of at most t per entry."
    source = "alchemonaut 2024, https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001"
    takes_raw = True
    adds_task_vectors = True
    parameters = (
        Parameter(
            name="t",
            description="Largest step, in units of the weights.",
            default=1e-3,
            low=0.0,
            high=1e-2,
            minimum=0.0,
        ),
    )
    max_experts = 1

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the base plus the steps."""
        assert inputs.base is not None
        t = float(coefficients["t"])
        return fuse(
            "merge_nearswap",
            _formula,
            (inputs.base, *inputs.experts),
            out,
            (t, _NEAREST),
            provable=lambda: representable(t),
        )


def _formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    (base, expert), (t, nearest) = values, numbers
    vector = expert - base
    distance = vector.abs()
    share = t / torch.where(distance < nearest, nearest, distance)
    return base + torch.where(share > 1.0, 1.0, share) * vector
