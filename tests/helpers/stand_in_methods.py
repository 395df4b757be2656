"""Plain merge methods that exercise the whole seam, independent of those that evomerge brings."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from evomerge.errors import RecipeError
from evomerge.methods.base import Coefficients, MergeMethod, Option, Parameter, TensorInputs


class Weighted(MergeMethod):
    """base + scale * sum of weight * task vector, in float64."""

    name = "weighted"
    summary = "A sum of task vectors."
    source = "test"
    parameters = (
        Parameter(
            name="weight", description="", default=0.5, low=0.0, high=1.0, minimum=-2.0, maximum=1e30, per_expert=True
        ),
        Parameter(name="scale", description="", default=1.0, low=0.0, high=2.0, minimum=0.0),
    )
    options = (
        Option(name="mode", description="", default="plain", choices=("plain", "negated")),
        Option(name="floor", description="", default=0.0, minimum=0.0, maximum=1.0),
        Option(name="rounds", description="", default=1),
        Option(name="sure", description="", default=True),
    )
    prepared: ClassVar[list[str]] = []

    def prepare(self, inputs: TensorInputs) -> Any:
        self.prepared.append(inputs.name)
        return inputs.name

    def prepared_bytes(self, shape: tuple[int, ...], num_experts: int) -> int:
        return num_experts * torch.Size(shape).numel()

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        assert state == inputs.name
        assert inputs.base is not None
        sign = -1.0 if self.option["mode"] == "negated" else 1.0
        base = inputs.base.double()
        total = torch.zeros_like(base)
        for weight, expert in zip(coefficients["weight"], inputs.experts, strict=True):
            total += float(weight) * (expert.double() - base)
        out.copy_(base + sign * float(coefficients["scale"]) * total)


class Chosen(MergeMethod):
    """One model unchanged."""

    name = "chosen"
    summary = "One model."
    source = "test"
    options = (Option(name="model", description="", default="base"),)

    def __init__(self, options: Any, *, experts: tuple[str, ...], seed: int) -> None:
        super().__init__(options, experts=experts, seed=seed)
        if self.option["model"] not in ("base", *experts):
            raise RecipeError(f"recipe: options.model: {self.option['model']!r} is no model")

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        assert inputs.base is not None
        models = dict(zip(("base", *self.experts), (inputs.base, *inputs.experts), strict=True))
        out.copy_(models[self.option["model"]])


class Pair(MergeMethod):
    """The mean of exactly two experts, without a base."""

    name = "pair"
    summary = "A mean."
    source = "test"
    base = "unused"
    min_experts = 2
    max_experts = 2

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        assert inputs.base is None
        out.copy_((inputs.experts[0].double() + inputs.experts[1].double()) / 2)


METHODS = {method.name: f"helpers.stand_in_methods:{method.__name__}" for method in (Weighted, Chosen, Pair)}
