"""Kernels made from formulas: the bytes of the CPU's loops, on a GPU, and here in Triton's interpreter."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels import engines, fuse, order_statistics, rounding
from evomerge.methods import METHODS
from evomerge.methods.spectral.base import MatrixMethod
from evomerge.testing.inputs import every_options, make_coefficients, make_inputs, merged, on_device, options_of

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # the interpreter's NumPy

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


ELEMENTWISE = [name for name in METHODS.names() if not issubclass(METHODS.get(name), MatrixMethod)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_kernels_write_the_bytes_of_the_loops(name: str, request: pytest.FixtureRequest) -> None:
    method = METHODS.get(name)
    expected: list[Tensor] = []
    for interpreted in (False, True):
        results = []
        if interpreted:
            request.getfixturevalue("gpu")
        for options in every_options(method):
            for dtype in DTYPES:
                inputs = make_inputs(method, (31, 67), dtype)
                coefficients = make_coefficients(method, len(inputs.experts))
                results.append(merged(method, inputs, coefficients, options=options, dtype=dtype))
        expected = expected or results
        for result, bytes_ in zip(results, expected, strict=True):
            assert torch.equal(result, bytes_)


@pytest.mark.parametrize("options", [{"along": "rows"}, {"along": "columns"}], ids=str)
def test_kernels_for_huge_tensors_write_the_same_bytes(
    options: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for narrow in (True, False):
        if not narrow:
            monkeypatch.setattr(request.getfixturevalue("gpu"), "_LARGEST_INT32", 0)
        for name in ("nuslerp", "dare_ties"):
            method = METHODS.get(name)
            inputs = make_inputs(method, (9, 300), torch.bfloat16)
            chosen = options_of(method, **options) if name == "nuslerp" else options_of(method)
            coefficients = make_coefficients(method, len(inputs.experts))
            results.append(merged(method, inputs, coefficients, options=chosen, dtype=torch.bfloat16))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(5,), (31, 67), (300, 512)], ids=str)
@pytest.mark.parametrize("name", METHODS.names())
def test_a_gpu_writes_the_bytes_that_the_cpu_writes(name: str, shape: tuple[int, ...]) -> None:
    method = METHODS.get(name)
    for options in every_options(method):
        for dtype in DTYPES:
            inputs = make_inputs(method, shape, dtype)
            coefficients = make_coefficients(method, len(inputs.experts))
            expected = merged(method, inputs, coefficients, options=options, dtype=dtype)
            out = torch.full(shape, torch.nan, dtype=dtype, device="cuda")
            merged(method, on_device(inputs, "cuda"), coefficients, options=options, out=out)
            if issubclass(method, MatrixMethod):
                # Decompositions on a GPU are others in their last bits, which are float32's.
                torch.testing.assert_close(out.cpu(), expected, atol=1e-4, rtol=0.02)
            else:
                assert torch.equal(out.cpu(), expected), (options, dtype)


@pytest.mark.gpu
def test_one_kernel_serves_all_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from evomerge.kernels.gpu.merges import Compiled

    made: list[Any] = []
    begin = Compiled.launch
    monkeypatch.setattr(Compiled, "launch", lambda kernel, *rest: (made.append(kernel.function), begin(kernel, *rest)))
    method = METHODS.get("dare_ties")
    inputs = on_device(make_inputs(method, (64, 64), torch.bfloat16), "cuda")
    out = torch.empty(64, 64, dtype=torch.bfloat16, device="cuda")
    for number in range(100):
        coefficients = make_coefficients(method, len(inputs.experts), seed=number)
        merged(method, replace(inputs, name=f"tensor {number}"), coefficients, out=out)
    assert made[0] is made[-1]
    assert len(made[0].device_caches[0][0]) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_kernels_round_once(gpu: Any, dtype: torch.dtype) -> None:
    bits = np.random.default_rng(0).integers(-(2**63), 2**63, 4096)
    exponents = np.random.default_rng(1).integers(1023 - 160, 1023 + 140, 4096)
    near = (bits & ~(0x7FF << 52)) | (exponents << 52)
    # Midpoints between two numbers, and what lies next to them.
    midpoints = near & ~((1 << 41) - 1)
    every = np.concatenate([bits, near, midpoints, midpoints + 1, midpoints - 1]).view(np.float64)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 2.0**-25, 2.0**-24, 2.0**-134, 3.39e38]
    values = torch.from_numpy(np.concatenate([every, special]))
    out = torch.empty(len(values), dtype=dtype)
    finite = gpu.fuse(lambda values, ranks, index, numbers: values[0], [values], [], (), out)
    torch.testing.assert_close(out, rounding.round_once(values, dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(out.signbit() | out.isnan(), values.signbit() | values.isnan())
    assert not bool(finite)


def test_kernels_select_magnitudes(gpu: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    base, *experts = (torch.randn(3000, generator=generator).to(dtype) for dtype in DTYPES[:3])
    sizes = [np.sort((expert.double() - base.double()).abs().float().numpy()) for expert in experts]
    gaps, expected = [], []
    for of, size in enumerate(sizes):
        for low, high in ((size[10], size[700]), (size[1500], size[1501]), (size[-1], np.inf)):
            inside = size[(size >= low) & (size < high)]
            gaps.append(order_statistics.Gap(float(low), float(high), len(inside), of))
            expected.append(inside)
    for wanted in (range(6), [1, 4]):
        found = order_statistics.look_at_magnitudes(base, experts)([gaps[k] for k in wanted])
        for k, values in zip(wanted, found, strict=True):
            assert np.array_equal(np.sort(values), expected[k])


def test_numbers_of_numpy_are_taken_as_pythons_are(gpu: Any) -> None:
    values, out = torch.randn(50), torch.empty(50)
    results = []
    for number in (0.37, np.float64(0.37)):
        gpu.fuse(_times, [values], [], (number,), out)
        results.append(out.clone())
    assert torch.equal(results[0], (values.double() * 0.37).float())
    assert torch.equal(results[1], results[0])


def _times(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    result: Tensor = values[0] * numbers[0]
    return result


def test_kernels_are_tried_out(gpu: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    gpu.try_out(torch.device("cpu"))
    monkeypatch.setattr(gpu, "_bits", lambda number: 0)
    with pytest.raises(ArithmeticError, match="don't compute as they should"):
        gpu.try_out(torch.device("cpu"))
    engines._kernels.cache_clear()
    monkeypatch.setattr(gpu, "try_out", lambda device: int("no compiler"))
    with caplog.at_level(logging.WARNING):
        assert engines._kernels() is None
    assert "with torch alone, tens of times slower: ValueError" in caplog.text
    engines._kernels.cache_clear()


def test_what_kernels_lack_is_left_to_torch(gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
    def formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
        return values[0].cos()

    values, out = torch.randn(50), torch.empty(50)
    with caplog.at_level(logging.WARNING):
        assert fuse.fuse(None, formula, [values], out, ())
    assert torch.equal(out, values.double().cos().float())
    assert "no kernel can be made of cos" in caplog.text
