"""Divergences of rows, against decimals of forty digits and with and without compiled loops."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels.divergence import divergences, exponential, log_of_ratio
from evomerge.kernels.engines import torch_only
from evomerge.kernels.raw import RawTensor

FLOOR = 1e-8


def pair(shape: tuple[int, ...], spread: float, change: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    base = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return base.to(dtype), (base + change * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def exact(base: list[float], expert: list[float]) -> Decimal:
    powers = [[Decimal(value).exp() for value in row] for row in (expert, base)]
    p, q = ([power / sum(row) + Decimal(FLOOR) for power in row] for row in powers)
    return sum((one * (one / other).ln() for one, other in zip(p, q, strict=True)), Decimal(0))


@pytest.mark.parametrize(
    ("spread", "change", "error"), [(0.02, 0.002, 1e-12), (0.02, 1e-5, 1e-9), (3.0, 0.5, 1e-13), (40.0, 40.0, 1e-13)]
)
def test_rows_diverge_as_forty_digits_say(spread: float, change: float, error: float) -> None:
    base, expert = pair((3, 70), spread, change, torch.float64)
    with localcontext() as context:
        context.prec = 40
        expected = [float(exact(*rows)) for rows in zip(base.tolist(), expert.tolist(), strict=True)]
    np.testing.assert_allclose(divergences(base, expert, floor=FLOOR), expected, rtol=error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (3000,), (5, 1), (300, 64), (4, 1024), (3, 4, 1500), (0, 3)])
def test_every_engine_finds_the_same_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    base, expert = pair(shape, 2.0, 0.5, dtype)
    found = divergences(base, expert, floor=FLOOR)
    assert found.shape == (math.prod(shape[:-1]),)
    raw = [RawTensor.of(tensor) for tensor in (base, expert)]
    assert divergences(*raw, floor=FLOOR).tobytes() == found.tobytes()  # type: ignore[arg-type]
    with torch_only():
        assert divergences(base, expert, floor=FLOOR).tobytes() == found.tobytes()


@pytest.mark.parametrize("compiled", [True, False])
def test_equal_rows_dont_diverge_and_what_isnt_finite_shows(compiled: bool) -> None:
    base = torch.linspace(-700.0, 700.0, 48).view(6, 8)
    expert = base.clone()
    expert[1, 0], expert[2, 7], expert[3, 7] = torch.nan, torch.inf, -torch.inf
    expert[4] += 1.0
    found = divergences(base, expert, floor=FLOOR)
    if not compiled:
        with torch_only():
            found = divergences(base, expert, floor=FLOOR)
    assert found[[0, 5]].tolist() == [0.0, 0.0]
    assert np.isnan(found[1:3]).all()
    # All of the row's weight is on one entry, which has a probability of FLOOR by the base and then another has.
    assert found[3] == pytest.approx((1.0 + FLOOR) * math.log(1.0 / FLOOR), rel=1e-6)
    # A shift of all numbers is none of their probabilities.
    assert 0.0 <= found[4] < 1e-12


def test_exponentials_and_logarithms_are_those_of_decimals() -> None:
    numbers = np.concatenate([-np.geomspace(1e-12, 700.0, 400), [-0.0, -math.log(2) / 2, -math.log(2) * 1.5]])
    expected = np.array([float(Decimal(number).exp()) for number in numbers.tolist()])
    np.testing.assert_allclose(exponential(numbers), expected, rtol=1e-15)
    assert exponential(np.array([-1e9, -708.0])).tolist() == [exponential(np.array([-708.0]))[0]] * 2

    p, q = np.geomspace(1e-8, 1.0, 500), np.roll(np.geomspace(1e-8, 1.0, 500), 3)[::-1]
    for one, other in ((p, q), (p, p * (1.0 + 1e-9)), (p, p)):
        expected = np.array(
            [float((Decimal(a) / Decimal(b)).ln()) for a, b in zip(one.tolist(), other.tolist(), strict=True)]
        )
        np.testing.assert_allclose(log_of_ratio(one, other), expected, rtol=4e-16)
