"""Truncated decompositions against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import MergeError
from evomerge.methods.spectral.compress import Factors, Truncation, compress, expand, factor_bytes, squared_error
from evomerge.streams import stream


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(stream(seed, "tau", *shape).standard_normal(shape))


def relative_error(tau: torch.Tensor, factors: Factors) -> float:
    wrong, size = squared_error(tau, expand(factors))
    return float((wrong / size) ** 0.5)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 40)], ids=str)
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_rank_keeps_the_nearest_matrix_of_that_rank(shape: tuple[int, int], rank: int) -> None:
    tau = matrix(*shape)
    factors = compress(tau, Truncation(rank=rank))
    assert factors.left.shape == (shape[0], rank)
    assert factors.right.shape == (rank, shape[1])
    values = np.linalg.svd(tau.numpy(), compute_uv=False)
    expected = float(np.sqrt((values[rank:] ** 2).sum() / (values**2).sum()))
    assert relative_error(tau, factors) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(factors.values.numpy(), values[:rank], rtol=1e-6)


def test_a_fraction_keeps_that_part_of_the_directions() -> None:
    tau = matrix(98, 110)
    for num_experts in (1, 2, 3, 8, 49, 100):  # 98 · (1/49) is a little less than 2
        assert compress(tau, Truncation(fraction=1 / num_experts)).rank == max(1, 98 // num_experts)


@settings(max_examples=25, deadline=None)
@given(energy=st.floats(0.01, 1.0), seed=st.integers(0, 100))
def test_an_energy_keeps_the_fewest_directions_that_reach_it(energy: float, seed: int) -> None:
    tau = matrix(7, 11, seed=seed)
    squares = np.linalg.svd(tau.numpy(), compute_uv=False) ** 2
    rank = compress(tau, Truncation(energy=energy)).rank
    shares = np.cumsum(squares) / squares.sum()
    assert shares[rank - 1] >= energy - 1e-12
    assert rank == 1 or shares[rank - 2] < energy + 1e-12


def test_everything_kept_is_exact_to_the_rounding_of_the_factors() -> None:
    tau = matrix(15, 10)
    for dtype, unit in ((torch.float32, 2.0**-24), (torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)):
        factors = compress(tau, Truncation(fraction=1.0), dtype=dtype)
        assert (factors.left.dtype, factors.values.dtype, factors.right.dtype) == (dtype, torch.float32, dtype)
        assert relative_error(tau, factors) < 4 * unit
        assert factors.size_bytes == factor_bytes((15, 10), 10, dtype)


def test_vectors_are_orthonormal_and_their_signs_are_settled() -> None:
    factors = compress(matrix(15, 10), Truncation(rank=6))
    identity = torch.eye(6)
    torch.testing.assert_close(factors.left.T @ factors.left, identity, rtol=0, atol=1e-6)
    torch.testing.assert_close(factors.right @ factors.right.T, identity, rtol=0, atol=1e-6)
    again = compress(-matrix(15, 10), Truncation(rank=6))
    assert torch.equal(again.left, factors.left)
    assert torch.equal(again.right, -factors.right)
    assert bool((factors.left.gather(0, factors.left.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_a_stack_keeps_as_many_as_its_neediest_slice() -> None:
    low = matrix(8, 2) @ matrix(2, 9)
    tau = torch.stack([low, matrix(8, 9), torch.zeros(8, 9, dtype=torch.float64)])
    factors = compress(tau, Truncation(energy=1.0 - 1e-9))
    assert factors.left.shape == (3, 8, 8)
    assert factors.size_bytes == factor_bytes((3, 8, 9), 8, torch.float32)
    assert relative_error(tau, factors) < 1e-6
    assert not expand(factors)[2].any()
    assert compress(tau[:1], Truncation(rank=8)).rank == 2


def test_zeros_have_no_factors() -> None:
    factors = compress(torch.zeros(4, 6), Truncation(rank=3))
    assert factors.rank == 0
    assert factors.size_bytes == 0
    assert torch.equal(expand(factors), torch.zeros(4, 6, dtype=torch.float64))


def test_factors_are_the_same_bytes_again_whatever_the_threads() -> None:
    tau = matrix(120, 90)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(compress(tau, Truncation(rank=20)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "got none"),
        ({"rank": 2, "energy": 0.5}, "got rank, energy"),
        ({"rank": 0}, "rank 0 keeps nothing"),
        ({"rank": -1}, "keeps nothing"),
        ({"fraction": 0.0}, "fraction 0.0 isn't above 0"),
        ({"energy": 1.5}, "energy 1.5 isn't"),
        ({"energy": float("nan")}, "energy nan isn't"),
    ],
)
def test_truncations_that_make_no_sense_are_refused(wanted: dict[str, float], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        Truncation(**wanted)
