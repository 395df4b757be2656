"""What every merge method must keep: one function per law, each taking the method's class.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_method(law):
    law(MyMethod)
```
A law that doesn't concern a method passes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from evomerge.encoding import Encoded, decode, encode
from evomerge.merge import kernels
from evomerge.merge.base import MergeMethod, TensorInputs
from evomerge.streams import stream

Law = Callable[[type[MergeMethod]], None]

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
    instance.survey(lambda: iter((inputs,)))
    instance.merge(inputs, coefficients, instance.prepare(inputs), target)
    return target


def declares_sound_parameters_and_options(method: type[MergeMethod]) -> None:
    """Bounds are ordered and inside the method's domain, defaults are admissible, everything is described."""
    assert method.name
    assert method.source
    assert method.__doc__
    assert method.summary.endswith(".")
    assert method.min_experts >= 1
    names = [*(parameter.name for parameter in method.parameters), *(option.name for option in method.options)]
    assert len(set(names)) == len(names)
    for parameter in method.parameters:
        least = -math.inf if parameter.minimum is None else parameter.minimum
        most = math.inf if parameter.maximum is None else parameter.maximum
        assert least <= parameter.low < parameter.high <= most, parameter
        assert parameter.low <= parameter.default <= parameter.high, parameter
        assert parameter.description.endswith("."), parameter
    for option in method.options:
        assert option.choices is None or option.default in option.choices, option
        assert option.description.endswith("."), option


def writes_the_same_bytes_again(method: type[MergeMethod]) -> None:
    """A second merge, prepared anew, over other contents of the output, gives the same bytes."""
    for options in every_options(method):
        inputs = make_inputs(method, (70, 67), torch.bfloat16)
        coefficients = make_coefficients(method, len(inputs.experts))
        first = merged(method, inputs, coefficients, options=options, dtype=torch.bfloat16)
        again = merged(method, inputs, coefficients, options=options, out=torch.zeros_like(first))
        assert torch.equal(first, again), options


def does_not_depend_on_threads(method: type[MergeMethod]) -> None:
    """One thread and three, which then take parts of the tensor, write the same bytes."""
    inputs = make_inputs(method, (300, 401))
    coefficients = make_coefficients(method, len(inputs.experts))
    before, least = torch.get_num_threads(), kernels.MIN_PART
    results = []
    try:
        kernels.MIN_PART = 4096
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(merged(method, inputs, coefficients, dtype=torch.float32))
    finally:
        kernels.MIN_PART = least
        torch.set_num_threads(before)
    assert torch.equal(*results)


def does_not_depend_on_the_engine(method: type[MergeMethod]) -> None:
    """Compiled loops and torch write the same bytes."""
    for options in every_options(method):
        for dtype in DTYPES:
            inputs = make_inputs(method, (70, 67), dtype)
            coefficients = make_coefficients(method, len(inputs.experts))
            compiled = merged(method, inputs, coefficients, options=options, dtype=dtype)
            with kernels.torch_only():
                plain = merged(method, inputs, coefficients, options=options, dtype=dtype)
            assert torch.equal(compiled, plain), (options, dtype)


def rounds_only_once(method: type[MergeMethod]) -> None:
    """Whatever the output's dtype, it is the float64 result rounded to nearest."""
    for options in every_options(method):
        for stored in DTYPES:
            inputs = make_inputs(method, (70, 67), stored)
            coefficients = make_coefficients(method, len(inputs.experts))
            exact = merged(method, inputs, coefficients, options=options)
            assert bool(torch.isfinite(exact).all())
            for dtype in DTYPES:
                rounded = merged(method, inputs, coefficients, options=options, dtype=dtype)
                assert torch.equal(rounded, kernels.round_once(exact, dtype)), (options, stored, dtype)


def reads_any_mix_of_dtypes(method: type[MergeMethod]) -> None:
    """Models stored in different dtypes merge as their exact values do."""
    inputs = make_inputs(method, (5, 9))
    mixed = [tensor.to(dtype) for tensor, dtype in zip(inputs.experts, (torch.float16, torch.bfloat16, torch.float32))]  # noqa: B905
    stored = dataclasses.replace(inputs, experts=tuple(mixed))
    wide = dataclasses.replace(inputs, experts=tuple(tensor.to(torch.float32) for tensor in mixed))
    coefficients = make_coefficients(method, len(mixed))
    assert torch.equal(merged(method, stored, coefficients), merged(method, wide, coefficients))


def merges_tensors_of_every_shape(method: type[MergeMethod]) -> None:
    """One to three dimensions, single entries, rows and columns give finite results that fill the output."""
    for options in every_options(method):
        for shape in SHAPES:
            inputs = make_inputs(method, shape)
            result = merged(method, inputs, make_coefficients(method, len(inputs.experts)), options=options)
            assert bool(torch.isfinite(result).all()), (options, shape)


def writes_into_strided_outputs(method: type[MergeMethod]) -> None:
    """A transposed or sliced output gets the same values as a contiguous one, and its neighbours nothing."""
    inputs = make_inputs(method, (6, 10), torch.bfloat16)
    coefficients = make_coefficients(method, len(inputs.experts))
    expected = merged(method, inputs, coefficients, dtype=torch.bfloat16)
    transposed = torch.zeros(10, 6, dtype=torch.bfloat16)
    assert torch.equal(merged(method, inputs, coefficients, out=transposed.T), expected)
    wide = torch.full((6, 13), 7.0, dtype=torch.bfloat16)
    assert torch.equal(merged(method, inputs, coefficients, out=wide[:, 2:12]), expected)
    assert bool((wide[:, :2] == 7.0).all())
    assert bool((wide[:, 12:] == 7.0).all())


def leaves_its_inputs_alone(method: type[MergeMethod]) -> None:
    """Neither preparing nor merging writes to a model."""
    inputs = make_inputs(method)
    tensors = [tensor for tensor in (inputs.base, *inputs.experts) if tensor is not None]
    copies = [tensor.clone() for tensor in tensors]
    merged(method, inputs, make_coefficients(method, len(inputs.experts)))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


def shows_what_is_not_finite(method: type[MergeMethod]) -> None:
    """NaN or infinity in a model that takes part makes the result not finite, and never goes unnoticed."""
    for options in every_options(method):
        inputs = make_inputs(method)
        coefficients = make_coefficients(method, len(inputs.experts))
        finite = merged(method, inputs, coefficients, options=options)
        for index in range(-1 if inputs.base is not None else 0, len(inputs.experts)):
            other = _with_tensor(inputs, index, lambda tensor: -2.0 * tensor)
            if torch.equal(merged(method, other, coefficients, options=options), finite):
                continue
            for value in (math.nan, math.inf, -math.inf):
                broken = _with_tensor(inputs, index, partial(_put, value=value))
                result = merged(method, broken, coefficients, options=options)
                assert not bool(torch.isfinite(result).all()), (options, index, value)


def treats_experts_alike(method: type[MergeMethod]) -> None:
    """Experts in another order, with their names and coefficients, give the same merge.

    A coefficient shared by exactly two experts says where between them to be, so there order counts.
    """
    if method.max_experts is not None or any(option.name == "model" for option in method.options):
        return
    for options in every_options(method):
        inputs = make_inputs(method)
        coefficients = make_coefficients(method, len(inputs.experts))
        order, names = [2, 0, 1], ("a", "b", "c")
        other = dataclasses.replace(inputs, experts=tuple(inputs.experts[index] for index in order))
        moved = {name: value[order] if value.ndim else value for name, value in coefficients.items()}
        first = merged(method, inputs, coefficients, options=options, names=names)
        second = merged(method, other, moved, options=options, names=tuple(names[index] for index in order))
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-13)


def merges_equal_models_into_themselves(method: type[MergeMethod]) -> None:
    """Where every expert equals the base, defaults give the base back, to rounding."""
    if method.name == "scaled":
        return
    for options in every_options(method):
        inputs = make_inputs(method, (5, 9), torch.bfloat16)
        model = inputs.experts[0]
        same = dataclasses.replace(
            inputs, base=None if inputs.base is None else model, experts=(model,) * len(inputs.experts)
        )
        result = merged(method, same, _defaults(method, len(inputs.experts)), options=options, dtype=torch.bfloat16)
        if options.get("normalize", True) or inputs.base is not None:
            assert torch.equal(result, model), options


def states_the_size_of_its_preparation(method: type[MergeMethod]) -> None:
    """`prepared_bytes` is no less than what `prepare` keeps."""
    for options in every_options(method):
        for shape in SHAPES:
            inputs = make_inputs(method, shape)
            count = len(inputs.experts)
            instance = method(options, experts=tuple(f"expert_{index}" for index in range(count)), seed=0)
            assert _size_bytes(instance.prepare(inputs)) <= instance.prepared_bytes(shape, count), (options, shape)


def merges_the_same_from_a_kept_state(method: type[MergeMethod]) -> None:
    """A state written to a file and read back merges to the same bytes, compiled and in torch.

    One that can't be written is kept in memory, which is allowed.
    """
    for options in every_options(method):
        for dtype in DTYPES:
            inputs = make_inputs(method, (70, 67), dtype)
            count = len(inputs.experts)
            coefficients = make_coefficients(method, count)
            instance = method(options, experts=tuple(f"expert_{index}" for index in range(count)), seed=0)
            instance.survey(lambda inputs=inputs: iter((inputs,)))  # type: ignore[misc]
            state = instance.prepare(inputs)
            try:
                encoded = encode(state)
            except TypeError:
                return
            again = decode(Encoded(load(save(dict(encoded.tensors))), encoded.structure), "cpu")
            for engine in (nullcontext, kernels.torch_only):
                results = [torch.empty(inputs.experts[0].shape, dtype=dtype) for _ in range(2)]
                with engine():
                    for found, out in zip((state, again), results, strict=True):
                        instance.merge(inputs, coefficients, found, out)
                assert torch.equal(*results), (options, dtype)


LAWS: tuple[Law, ...] = (
    declares_sound_parameters_and_options,
    writes_the_same_bytes_again,
    does_not_depend_on_threads,
    does_not_depend_on_the_engine,
    rounds_only_once,
    reads_any_mix_of_dtypes,
    merges_tensors_of_every_shape,
    writes_into_strided_outputs,
    leaves_its_inputs_alone,
    shows_what_is_not_finite,
    treats_experts_alike,
    merges_equal_models_into_themselves,
    states_the_size_of_its_preparation,
    merges_the_same_from_a_kept_state,
)
"""Everything that is expected of a method on arrival."""


def _defaults(method: type[MergeMethod], experts: int) -> dict[str, NDArray[np.float64]]:
    return {
        parameter.name: np.full((experts,) if parameter.per_expert else (), parameter.default)
        for parameter in method.parameters
    }


def _with_tensor(inputs: TensorInputs, index: int, change: Callable[[Tensor], Tensor]) -> TensorInputs:
    """The inputs with one expert's tensor changed, or the base's at index -1."""
    if index < 0:
        assert inputs.base is not None
        return dataclasses.replace(inputs, base=change(inputs.base))
    experts = list(inputs.experts)
    experts[index] = change(experts[index])
    return dataclasses.replace(inputs, experts=tuple(experts))


def _put(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[changed.numel() // 2] = value
    return changed


def _size_bytes(state: Any) -> int:
    """Bytes of the arrays in a prepared state; a number takes eight."""
    if isinstance(state, np.ndarray):
        return int(state.nbytes)
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, float):
        return 8
    if isinstance(state, list | tuple):
        return sum(_size_bytes(part) for part in state)
    if isinstance(state, Mapping):
        return sum(_size_bytes(part) for part in state.values())
    if dataclasses.is_dataclass(state):
        return sum(_size_bytes(getattr(state, field.name)) for field in dataclasses.fields(state))
    return 0
