"""Ranks and energies against numpy's singular value decomposition and scipy's entropy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from evomerge.analysis.spectra import Spectrum, effective_rank, energy_share, rank_at, spectrum, stable_rank


def falling(rows: int, columns: int, seed: int = 0, power: float = 1.0) -> torch.Tensor:
    """A matrix whose singular values are 1, 1/2ᵖ, 1/3ᵖ, ..."""
    generator = torch.Generator().manual_seed(seed)
    side = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, side, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, side, dtype=torch.float64, generator=generator))
    return left * torch.arange(1, side + 1, dtype=torch.float64) ** -power @ right.T


def rebuilt(found: Spectrum) -> torch.Tensor:
    return found.left.double() * torch.from_numpy(found.values) @ found.right.double()


@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20)])
def test_all_values_of_a_small_matrix_are_those_of_numpy(shape: tuple[int, int]) -> None:
    matrix = falling(*shape)
    found = spectrum(matrix)
    np.testing.assert_allclose(found.values, np.linalg.svd(matrix.numpy(), compute_uv=False), rtol=1e-10)
    torch.testing.assert_close(rebuilt(found), matrix)
    for basis in (found.left, found.right.T):
        torch.testing.assert_close(basis.T @ basis, torch.eye(20 + 10 * (shape == (30, 30)), dtype=torch.float64))
    assert found.complete
    assert found.size == min(shape)


def test_the_leading_values_of_a_large_matrix_are_those_of_numpy() -> None:
    matrix = falling(300, 400)
    found = spectrum(matrix, full_up_to=10, directions=20)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    np.testing.assert_allclose(found.values, values[:20], rtol=1e-3)
    assert not found.complete
    assert stable_rank(found) == pytest.approx(np.sum(values**2) / values[0] ** 2, rel=1e-5)
    assert energy_share(found, 10) == pytest.approx(np.sum(values[:10] ** 2) / np.sum(values**2), rel=1e-4)
    assert np.isnan(energy_share(found, 21))
    assert np.isnan(effective_rank(found))
    assert rank_at(found, 0.999999) is None


@pytest.mark.parametrize("shape", [(300, 400), (400, 300)])
def test_a_large_matrix_of_low_rank_is_found_whole(shape: tuple[int, int]) -> None:
    matrix = falling(shape[0], 5, 1) @ falling(5, shape[1], 2)
    found = spectrum(matrix, full_up_to=10, directions=20)
    assert found.complete
    assert len(found.values) == 5
    torch.testing.assert_close(rebuilt(found), matrix, rtol=1e-4, atol=1e-6)


def test_ranks_and_energies_are_their_formulas() -> None:
    matrix = falling(12, 40, power=0.7)
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    found = spectrum(matrix)
    assert stable_rank(found) == pytest.approx(np.sum(values**2) / values[0] ** 2)
    assert effective_rank(found) == pytest.approx(np.exp(scipy.stats.entropy(values / values.sum())))
    for count in (1, 5, 12):
        assert energy_share(found, count) == pytest.approx(np.sum(values[:count] ** 2) / np.sum(values**2))
    cumulated = np.cumsum(values**2) / np.sum(values**2)
    for share in (0.3, 0.9, 0.95):
        assert rank_at(found, share) == int(np.argmax(cumulated >= share)) + 1
    assert rank_at(found, 1.0) == 12


@pytest.mark.parametrize("rank", [1, 7])
def test_equal_singular_values_have_every_rank_alike(rank: int) -> None:
    basis, _ = torch.linalg.qr(torch.randn(20, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    found = spectrum(basis @ basis.T)
    assert len(found.values) == rank
    assert stable_rank(found) == pytest.approx(rank)
    assert effective_rank(found) == pytest.approx(rank)


def test_a_matrix_of_zeros_has_no_rank() -> None:
    for found in (spectrum(torch.zeros(4, 6)), spectrum(torch.zeros(40, 60), full_up_to=3, directions=4)):
        assert len(found.values) == 0
        assert np.isnan([stable_rank(found), effective_rank(found), energy_share(found, 1)]).all()


def test_the_leading_directions_keep_the_whole_energy() -> None:
    found = spectrum(falling(10, 10))
    cut = found.leading(3)
    assert cut.left.shape == (10, 3)
    assert cut.right.shape == (3, 10)
    assert cut.energy == found.energy
    assert not cut.complete
    assert found.leading(10).complete


def test_the_random_start_has_a_seed() -> None:
    matrix = falling(100, 120)
    one, same, other = (spectrum(matrix, full_up_to=3, directions=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.left, same.left)
    assert not torch.equal(one.left, other.left)
