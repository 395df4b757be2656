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
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from safetensors.torch import load, save

from evomerge.kernels import engines, rounding, threads
from evomerge.kernels.fuse import gathered
from evomerge.materialise.encoding import Encoded, decode, encode
from evomerge.methods.base import MergeMethod
from evomerge.testing.inputs import (
    DTYPES,
    SHAPES,
    defaults,
    every_options,
    make_coefficients,
    make_inputs,
    merged,
    on_device,
    put,
    size_bytes,
    unaligned,
    with_tensor,
)

Law = Callable[[type[MergeMethod]], None]


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
    before, least = torch.get_num_threads(), threads.MIN_PART
    results = []
    try:
        threads.MIN_PART = 4096
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(merged(method, inputs, coefficients, dtype=torch.float32))
    finally:
        threads.MIN_PART = least
        torch.set_num_threads(before)
    assert torch.equal(*results)


def does_not_depend_on_the_engine(method: type[MergeMethod]) -> None:
    """Compiled loops and torch write the same bytes."""
    for options in every_options(method):
        for dtype in DTYPES:
            inputs = make_inputs(method, (70, 67), dtype)
            coefficients = make_coefficients(method, len(inputs.experts))
            compiled = merged(method, inputs, coefficients, options=options, dtype=dtype)
            with engines.torch_only():
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
                assert torch.equal(rounded, rounding.round_once(exact, dtype)), (options, stored, dtype)


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
            other = with_tensor(inputs, index, lambda tensor: -2.0 * tensor)
            if torch.equal(merged(method, other, coefficients, options=options), finite):
                continue
            for value in (math.nan, math.inf, -math.inf):
                broken = with_tensor(inputs, index, partial(put, value=value))
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
        result = merged(method, same, defaults(method, len(inputs.experts)), options=options, dtype=torch.bfloat16)
        if options.get("normalize", True) or inputs.base is not None:
            assert torch.equal(result, model), options


def ignores_experts_that_equal_the_base(method: type[MergeMethod]) -> None:
    """One that `adds_task_vectors` merges alike, to rounding, whatever the coefficients of an expert without one; and
    writes the base, whatever the coefficients, where no expert has one.
    """
    if not method.adds_task_vectors:
        return
    for options in every_options(method):
        for shape in ((7,), (5, 9)):
            inputs = make_inputs(method, shape)
            assert inputs.base is not None
            count = len(inputs.experts)
            first, other = (make_coefficients(method, count, seed=seed) for seed in range(2))
            for index in range(count):
                equal = with_tensor(inputs, index, lambda _, base=inputs.base: base)  # type: ignore[misc]
                changed = {name: value.copy() for name, value in first.items()}
                for name, value in changed.items():
                    if value.ndim:
                        value[index] = other[name][index]
                merges = [merged(method, equal, one, options=options) for one in (first, changed)]
                torch.testing.assert_close(*merges, rtol=1e-9, atol=1e-13)
            none = dataclasses.replace(inputs, experts=(inputs.base,) * count)
            result = merged(method, none, first, options=options)
            torch.testing.assert_close(result, inputs.base.double(), rtol=1e-9, atol=1e-13)


def states_the_size_of_its_preparation(method: type[MergeMethod]) -> None:
    """`prepared_bytes` is no less than what `prepare` keeps."""
    for options in every_options(method):
        for shape in SHAPES:
            inputs = make_inputs(method, shape)
            count = len(inputs.experts)
            instance = method(options, experts=tuple(f"expert_{index}" for index in range(count)), seed=0)
            assert size_bytes(instance.prepare(inputs)) <= instance.prepared_bytes(shape, count), (options, shape)


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
            instance.collect_statistics(lambda inputs=inputs: iter((inputs,)))  # type: ignore[misc]
            state = instance.prepare(inputs)
            try:
                encoded = encode(state)
            except TypeError:
                return
            again = decode(Encoded(load(save(dict(encoded.tensors))), encoded.structure), "cpu")
            for engine in (nullcontext, engines.torch_only):
                results = [torch.empty(inputs.experts[0].shape, dtype=dtype) for _ in range(2)]
                with engine():
                    for found, out in zip((state, again), results, strict=True):
                        instance.merge(inputs, coefficients, found, out)
                assert torch.equal(*results), (options, dtype)


def merges_among_others_as_alone(method: type[MergeMethod]) -> None:
    """Tensors that a GPU may merge together, of several sizes, dtypes and alignments, one of them not finite, have the
    bytes of each merged alone, and what says whether they are finite says so of the right ones.

    Where there is a GPU they lie on it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for options in every_options(method):
        cases = [
            dataclasses.replace(on_device(make_inputs(method, shape, dtype), device), name=f"{shape} {dtype}")
            for dtype in DTYPES[:2]
            for shape in ((9, 80), (32, 16))
        ]
        cases.append(with_tensor(cases[0], 0, unaligned))
        broken = with_tensor(make_inputs(method, (5, 9)), 0, partial(put, value=math.nan))
        cases += [on_device(inputs, device) for inputs in (broken, make_inputs(method, (7,)))]
        count = len(cases[0].experts)
        instance = method(options, experts=tuple(f"expert_{index}" for index in range(count)), seed=0)
        instance.collect_statistics(lambda cases=cases: iter(cases))  # type: ignore[misc]
        states = [instance.prepare(inputs) for inputs in cases]
        results = []
        for together in (False, True):
            outs = [torch.empty_like(inputs.experts[0]) for inputs in cases]
            flags = []
            with gathered(outs) if together else nullcontext():
                for number, (inputs, state, out) in enumerate(zip(cases, states, outs, strict=True)):
                    coefficients = make_coefficients(method, count, seed=number)
                    flags.append(instance.merge(inputs, coefficients, state, out))
            results.append((outs, [None if flag is None else bool(flag) for flag in flags]))
        (alone, expected), (among_others, found) = results
        assert found == expected, options
        for inputs, one, other in zip(cases, alone, among_others, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0, equal_nan=True, msg=f"{options}, {inputs.name}")


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
    ignores_experts_that_equal_the_base,
    states_the_size_of_its_preparation,
    merges_the_same_from_a_kept_state,
    merges_among_others_as_alone,
)
"""Everything that is expected of a method on arrival."""
