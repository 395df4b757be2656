"""One model's tensors as they are, or scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import MergeError, unknown
from evomerge.kernels.formulas import Finite
from evomerge.kernels.fuse import is_finite, span
from evomerge.kernels.rounding import copy_once
from evomerge.late import Tensor
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs

MODEL = Option(name="model", description='Name of an expert, or "base".', default="base")


class Passthrough(MergeMethod):
    """θ = θ of one model: bit for bit in its own dtype, otherwise rounded once."""

    name = "passthrough"
    summary = "Copy of the base or of one expert."
    source = "the models themselves"
    takes_raw = True
    options = (MODEL,)

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        if self.option["model"] not in ("base", *experts):
            raise MergeError(f"{self.name}: model: {unknown('model', self.option['model'], ('base', *experts))}")

    def chosen(self, inputs: TensorInputs) -> Tensor:
        """The tensor of the option `model`; "base" means the base even if an expert is called so."""
        model = self.option["model"]
        source = inputs.base if model == "base" else inputs.experts[self.experts.index(model)]
        assert source is not None
        return source

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Copy the chosen model's tensor."""
        source = self.chosen(inputs)
        copy_once(source, out)
        return is_finite(out)


class Scaled(Passthrough):
    """θ = s · θ of one model; a scale of 1 is the model itself."""

    name = "scaled"
    summary = "The base or one expert, multiplied."
    parameters = (Parameter(name="scale", description="Factor of the weights.", default=1.0, low=0.5, high=1.5),)

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> Finite:
        """Write the chosen model's tensor times the scale."""
        return span((self.chosen(inputs),), [float(coefficients["scale"])], out)
