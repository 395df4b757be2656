"""Small inputs for any merge method."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.methods.base import MergeMethod, TensorInputs
from evomerge.streams import stream

SHAPES = ((7,), (1,), (5, 9), (1, 6), (6, 1), (3, 4, 5), (70, 67))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def options_of(method: type[MergeMethod], **changes: Any) -> dict[str, Any]:
    """A method's options at their defaults, with changes."""
    return {**{option.name: option.default for option in method.options}, **changes}


def every_options(method: type[MergeMethod]) -> Iterator[dict[str, Any]]:
    """The defaults, then each choice (and each truth value) of each option alone."""
    yield options_of(method)
    for option in method.options:
        values = option.choices or ((True, False) if isinstance(option.default, bool) else ())
        for value in values:
            if value != option.default:
                yield options_of(method, **{option.name: value})


def number_of_experts(method: type[MergeMethod], wanted: int = 3) -> int:
    """As many experts as wanted, or as the method takes."""
    return min(max(wanted, method.min_experts), method.max_experts or wanted)


def make_inputs(
    method: type[MergeMethod],
    shape: tuple[int, ...] = (5, 9),
    dtype: torch.dtype = torch.float32,
    *,
    experts: int | None = None,
    seed: int = 0,
) -> TensorInputs:
    """A random base and experts near it, with the magnitudes of real weights."""
    generator = stream(seed, "inputs", *shape)
    count = number_of_experts(method) if experts is None else experts

    def random(scale: float) -> Tensor:
        return torch.from_numpy(np.asarray(generator.standard_normal(shape) * scale))

    base = random(0.02)
    others = tuple((base + random(0.004)).to(dtype) for _ in range(count))
    return TensorInputs(name="layer.weight", base=base.to(dtype) if method.base == "required" else None, experts=others)


def make_coefficients(method: type[MergeMethod], experts: int, *, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Coefficients drawn between the default bounds."""
    generator = stream(seed, "coefficients")
    return {
        parameter.name: np.asarray(
            generator.uniform(parameter.low, parameter.high, (experts,) if parameter.per_expert else ())
        )
        for parameter in method.parameters
    }


def merged(
    method: type[MergeMethod],
    inputs: TensorInputs,
    coefficients: Mapping[str, NDArray[np.float64]],
    *,
    options: Mapping[str, Any] | None = None,
    out: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    names: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Tensor:
    """Prepare and merge a model of one tensor from scratch, into `out` or into new memory of `dtype`."""
    names = names or tuple(f"expert_{index}" for index in range(len(inputs.experts)))
    instance = method(options_of(method) if options is None else options, experts=names, seed=seed)
    target = torch.full(tuple(inputs.experts[0].shape), math.nan, dtype=dtype) if out is None else out
    instance.collect_statistics(lambda: iter((inputs,)))
    instance.merge(inputs, coefficients, instance.prepare(inputs), target)
    return target


def defaults(method: type[MergeMethod], experts: int) -> dict[str, NDArray[np.float64]]:
    """The method's default coefficients."""
    return {
        parameter.name: np.full((experts,) if parameter.per_expert else (), parameter.default)
        for parameter in method.parameters
    }


def with_tensor(inputs: TensorInputs, index: int, change: Callable[[Tensor], Tensor]) -> TensorInputs:
    """The inputs with one expert's tensor changed, or the base's at index -1."""
    if index < 0:
        assert inputs.base is not None
        return dataclasses.replace(inputs, base=change(inputs.base))
    experts = list(inputs.experts)
    experts[index] = change(experts[index])
    return dataclasses.replace(inputs, experts=tuple(experts))


def put(tensor: Tensor, value: float) -> Tensor:
    """A copy with the middle entry replaced."""
    changed = tensor.clone()
    changed.view(-1)[changed.numel() // 2] = value
    return changed


def unaligned(tensor: Tensor) -> Tensor:
    """A copy that begins one entry after where memory was allocated."""
    memory = tensor.new_empty(tensor.numel() + 1)
    copy = memory[1:].view(tensor.shape)
    copy.copy_(tensor)
    return copy


def on_device(inputs: TensorInputs, device: torch.device | str) -> TensorInputs:
    """The inputs on another device; where they are there, as they are."""
    base = None if inputs.base is None else inputs.base.to(device)
    return dataclasses.replace(inputs, base=base, experts=tuple(expert.to(device) for expert in inputs.experts))


def size_bytes(state: Any) -> int:
    """Bytes of the arrays in a prepared state; a number takes eight."""
    if isinstance(state, np.ndarray):
        return int(state.nbytes)
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, float):
        return 8
    if isinstance(state, list | tuple):
        return sum(size_bytes(part) for part in state)
    if isinstance(state, Mapping):
        return sum(size_bytes(part) for part in state.values())
    if dataclasses.is_dataclass(state):
        return sum(size_bytes(getattr(state, field.name)) for field in dataclasses.fields(state))
    return 0
