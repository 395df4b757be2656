from __future__ import annotations

import os
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.kernels import engines, formulas, fuse, rounding, sums, threads
from helpers.patience import LONG_S

# Mantissa bits, least normal exponent and largest finite number.
FORMATS = {
    torch.bfloat16: (7, -126, Fraction(3.3895313892515355e38)),
    torch.float16: (10, -14, Fraction(65504)),
    torch.float32: (23, -126, Fraction(3.4028234663852886e38)),
}


def rounded_by_hand(value: float, dtype: torch.dtype) -> float:
    """Round in exact rational arithmetic to nearest, ties to even."""
    mantissa, least, largest = FORMATS[dtype]
    exact = abs(Fraction(value))
    if exact == 0:
        return value
    exponent = max(exact.numerator.bit_length() - exact.denominator.bit_length() - 1, least - 1)
    if exact >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (max(exponent, least) - mantissa)
    result = round(exact / unit) * unit  # Fraction rounds ties to even
    return float(np.copysign(float(result) if result <= largest else np.inf, value))


def near_ties(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Numbers around the midpoints of neighbours in `dtype`, where rounding twice goes wrong."""
    mantissa, least, _ = FORMATS[dtype]

    def build(digits: int, exponent: int, nudge: int, sign: float) -> float:
        midpoint = (2 * digits + 1) * 2.0 ** (exponent - mantissa - 1)
        return sign * (midpoint + nudge * abs(midpoint) * 2.0**-50)

    lowest = max(least - 3, -1000)
    return st.builds(
        build,
        st.integers(0, 2 ** (mantissa + 1)),
        st.integers(lowest, 16 if dtype == torch.float16 else 100),
        st.integers(-3, 3),
        st.sampled_from([1.0, -1.0]),
    )


def both_ways(values: Tensor, dtype: torch.dtype) -> list[Tensor]:
    out = torch.empty_like(values, dtype=dtype)
    fuse.span([values], [1.0], out)
    return [rounding.round_once(values, dtype), out]


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_float64_is_rounded_once_to_nearest_even(dtype: torch.dtype) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.lists(near_ties(dtype) | st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=40))
    def check(values: list[float]) -> None:
        expected = [rounded_by_hand(value, dtype) for value in values]
        for result in both_ways(torch.tensor(values, dtype=torch.float64), dtype):
            assert result.double().tolist() == expected

    check()


def test_the_cast_of_torch_rounds_twice_where_ours_does_not() -> None:
    # Just above the midpoint of 1 and the next bfloat16: float32 can't tell it from the midpoint.
    value = torch.tensor([1.0 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    for result in both_ways(value, torch.bfloat16):
        assert result.item() == 1.0 + 2.0**-7


@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_nan_infinity_overflow_and_the_sign_of_zero_survive_rounding(dtype: torch.dtype) -> None:
    values = torch.tensor([np.nan, np.inf, -np.inf, 1e39, -1e39, -0.0], dtype=torch.float64)
    for result in both_ways(values, dtype):
        assert result[0].isnan()
        assert result[1:5].tolist() == [np.inf, -np.inf, np.inf, -np.inf]
    assert torch.signbit(rounding.round_once(values, dtype)[5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_is_read_exactly(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    out = torch.empty(2**16, dtype=torch.float64)
    fuse.span([every], [1.0], out)
    torch.testing.assert_close(out, every.double(), rtol=0, atol=0, equal_nan=True)
    again = torch.empty_like(every)
    fuse.span([every], [1.0], again)
    numbers = ~every.isnan() & (every != 0)
    assert torch.equal(again.view(torch.int16)[numbers], every.view(torch.int16)[numbers])


def test_rows_of_coefficients_apply_to_equal_parts() -> None:
    first, second = torch.randn(4, 3000), torch.randn(4, 3000)
    coefficients = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [2.0, -1.0]])
    expected = coefficients[:, :1] * first.double().numpy() + coefficients[:, 1:] * second.double().numpy()
    out = torch.empty(4, 3000, dtype=torch.float64)
    fuse.span([first, second], coefficients, out)
    np.testing.assert_array_equal(out.numpy(), expected)
    with engines.torch_only():
        fuse.span([first, second], coefficients, out.zero_())
    np.testing.assert_array_equal(out.numpy(), expected)


def test_a_source_may_be_the_output() -> None:
    model, other = torch.randn(5000), torch.randn(5000)
    expected = torch.empty(5000)
    fuse.span([model, other], [0.25, 0.75], expected)
    fuse.span([model, other], [0.25, 0.75], model)
    assert torch.equal(model, expected)


def test_tensors_at_odd_addresses_merge_as_others() -> None:
    stored = torch.arange(1, 1001, dtype=torch.bfloat16)
    memory = torch.zeros(2001, dtype=torch.uint8)
    memory[1:] = stored.view(torch.uint8)
    odd = torch.frombuffer(memory.numpy().data, dtype=torch.bfloat16, count=1000, offset=1)
    assert odd.data_ptr() % 2 == 1
    out = torch.empty(1000, dtype=torch.bfloat16)
    fuse.span([odd], [1.0], out)
    assert torch.equal(out, stored)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 5000), (7, 3), (5, 1024), (3, 2500)])
def test_inner_products_are_those_of_float64_the_same_on_every_path(rows: int, length: int) -> None:
    generator = np.random.default_rng(rows * length)
    vectors = generator.standard_normal((3, rows, length)).astype(np.float32)
    origin = generator.standard_normal((rows, length)).astype(np.float32)
    shifted = vectors.astype(np.float64) - origin
    expected = np.einsum("irn,jrn->rij", shifted, shifted)
    sources = [torch.from_numpy(vector) for vector in vectors]
    result = sums.gram(sources, origin=torch.from_numpy(origin), rows=rows)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)
    with engines.torch_only():
        np.testing.assert_array_equal(sums.gram(sources, origin=torch.from_numpy(origin), rows=rows), result)


def test_inner_products_of_models_without_origin() -> None:
    first, second = torch.randn(3000).bfloat16(), torch.randn(3000).half()
    expected = np.array([[(a.double() * b.double()).sum().item() for b in (first, second)] for a in (first, second)])
    np.testing.assert_allclose(sums.gram([first, second])[0], expected, rtol=1e-12)


def test_inner_products_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MIN_PART", 4096)
    vectors = [torch.randn(200_000), torch.randn(200_000)]
    one = sums.gram(vectors)
    torch.set_num_threads(3)
    try:
        np.testing.assert_array_equal(sums.gram(vectors), one)
    finally:
        torch.set_num_threads(1)


def test_parts_cover_everything_once_and_start_at_whole_grains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    torch.set_num_threads(3)
    try:
        threads.in_parts(lambda start, stop: seen.append((start, stop)), 100_001, grain=64, least=1000)
    finally:
        torch.set_num_threads(1)
    seen.sort()
    assert len(seen) > 3
    assert [start for start, _ in seen] == [0, *(stop for _, stop in seen[:-1])]
    assert seen[-1][1] == 100_001
    assert all(start % 64 == 0 for start, _ in seen)


def test_an_error_in_a_part_reaches_the_caller() -> None:
    def fail(start: int, stop: int) -> None:
        raise ValueError("a part failed")

    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="a part failed"):
            threads.in_parts(fail, 1000, least=10)
    finally:
        torch.set_num_threads(1)


def test_nothing_is_still_at_work_when_an_error_reaches_the_caller() -> None:
    at_work, finished = threading.Event(), []

    def part(start: int, stop: int) -> None:
        # The caller fails; its helpers take their time.
        if threading.current_thread() is threading.main_thread():
            at_work.wait(LONG_S)
            raise ValueError("a part failed")
        at_work.set()
        threading.Event().wait(0.3)
        finished.append(start)

    torch.set_num_threads(3)
    try:
        with pytest.raises(ValueError, match="a part failed"):
            threads.in_parts(part, 120, grain=1, least=10)
        seen = len(finished)
        threading.Event().wait(0.5)
    finally:
        torch.set_num_threads(1)
    assert 0 < seen == len(finished)


def test_the_caller_does_alone_what_no_other_thread_is_free_for() -> None:
    release, seen = threading.Event(), []
    busy = [threads._pool(os.getpid(), 2).submit(release.wait) for _ in range(2)]
    torch.set_num_threads(3)
    try:
        threads.in_parts(lambda start, stop: seen.append(threading.get_ident()), 1000, grain=1, least=10)
    finally:
        torch.set_num_threads(1)
        release.set()
    assert len(seen) > 3
    assert set(seen) == {threading.get_ident()}
    assert all(thread.result() for thread in busy)


def test_random_numbers_are_even_and_unrelated_between_keys_and_neighbours() -> None:
    count = 1 << 18
    keys = ((1, 2), (1, 3), (2, 2), (0, 0))
    draws = [formulas.uniform(torch.arange(count), *key).numpy() * 2.0**-31 for key in keys]
    for draw in draws:
        counts, _ = np.histogram(draw, bins=64, range=(0, 1))
        chi_squared = ((counts - count / 64) ** 2 / (count / 64)).sum()
        assert chi_squared < 63 + 5 * np.sqrt(2 * 63)
        for lag in (1, 2, 1024):
            assert abs(np.corrcoef(draw[:-lag], draw[lag:])[0, 1]) < 5 / np.sqrt(count)
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(count)


def test_random_numbers_depend_on_the_whole_index() -> None:
    some = torch.arange(5, 8)
    low = formulas.uniform(some, 1, 2)
    assert torch.equal(formulas.uniform(torch.arange(8), 1, 2)[5:], low)
    assert not torch.equal(formulas.uniform(some + 2**32, 1, 2), low)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [("bfloat16",) * 4, ("bfloat16",) * 7, ("bfloat16", "float32", "float32"), ("float32",)]
)
@pytest.mark.parametrize("spread", ["arbitrary", "halves"])
def test_sums_proved_in_float32_have_the_bytes_of_float64(kinds: list[str], spread: str) -> None:
    generator = torch.Generator().manual_seed(len(kinds))
    base = torch.randn(40_000, generator=generator) * 0.02
    sources = [(base + 0.002 * torch.randn(len(base), generator=generator)).to(getattr(torch, kind)) for kind in kinds]
    # Every bfloat16 there is once, and what no interval arithmetic in float32 can decide.
    sources[0][: 2**15] = torch.arange(2**15).to(torch.int16).view(torch.bfloat16).to(sources[0].dtype)
    sources[-1][:3] = torch.tensor([np.inf, -np.inf, np.nan])
    coefficients = np.random.default_rng(0).standard_normal(len(kinds)) if spread == "arbitrary" else [0.5] * len(kinds)
    out = torch.empty(len(base), dtype=torch.bfloat16)
    fuse.span(sources, coefficients, out)
    expected = torch.empty_like(out)
    with engines.torch_only():
        fuse.span(sources, coefficients, expected)
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(7.0).view(torch.int16), expected.nan_to_num(7.0).view(torch.int16))


@pytest.mark.parametrize("dtype", [*FORMATS, torch.float64], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_found_wherever_it_stands(dtype: torch.dtype, value: float) -> None:
    largest = torch.finfo(dtype).max
    for size in (0, 1, 1000, 300_001):
        tensor = torch.full((size,), -largest, dtype=dtype)
        assert fuse.is_finite(tensor)
        for place in {0, size // 2, size - 1} if size else ():
            broken = tensor.clone()
            broken[place] = value
            assert not fuse.is_finite(broken)
            assert not fuse.is_finite(broken.view(1, -1).expand(2, -1))


@pytest.mark.slow
def test_loops_do_not_wait_for_scipy_and_leave_numbas_own_use_of_it_alone() -> None:
    script = """
import sys
import numba, numpy as np, torch
from evomerge.kernels import fuse

fuse.span([torch.ones(8)], [0.5], torch.empty(8))
assert "evomerge.kernels.loops" in sys.modules
assert "scipy.linalg" not in sys.modules

a = np.random.default_rng(0).random((4, 4))
assert np.allclose(numba.njit(lambda a: np.dot(a, a))(a), a @ a)
assert np.allclose(numba.njit(lambda a: np.linalg.inv(a))(a), np.linalg.inv(a))
assert np.allclose(numba.njit(lambda a: np.convolve(a, a))(a[0]), np.convolve(a[0], a[0]))
assert "scipy.linalg" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
