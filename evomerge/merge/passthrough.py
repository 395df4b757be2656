"""One model's tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evomerge.errors import MergeError, unknown
from evomerge.merge.base import Coefficients, MergeMethod, Option, TensorInputs
from evomerge.merge.kernels import round_once


class Passthrough(MergeMethod):
    """θ = θ of one model: bit for bit in its own dtype, otherwise rounded once."""

    name = "passthrough"
    summary = "Copy of the base or of one expert."
    source = "the models themselves"
    options = (Option(name="model", description='Name of an expert, or "base".', default="base"),)

    def __init__(self, options: Mapping[str, Any], *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        if self.option["model"] not in ("base", *experts):
            raise MergeError(f"passthrough: model: {unknown('model', self.option['model'], ('base', *experts))}")

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        """Copy the chosen model's tensor."""
        model = self.option["model"]
        # An expert may be called "base"; the name then means the base all the same.
        source = inputs.base if model == "base" else inputs.experts[self.experts.index(model)]
        assert source is not None
        out.copy_(round_once(source, out.dtype) if source.dtype == torch.float64 else source)
