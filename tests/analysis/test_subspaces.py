"""How subspaces lie to each other, against scipy's principal angles and the formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from evomerge.analysis.matrices import cost, matrix_statistics, mean_of
from evomerge.analysis.spectra import spectrum
from evomerge.analysis.subspaces import alignment_ratio, interference, overlap


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def basis(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(random(rows, columns, seed=seed))[0]


@pytest.mark.parametrize(("one", "two"), [(3, 3), (3, 5), (6, 2)])
def test_the_overlap_is_the_mean_squared_cosine_of_the_principal_angles(one: int, two: int) -> None:
    left, right = basis(12, one, 0), basis(12, two, 1)
    angles = scipy.linalg.subspace_angles(left.numpy(), right.numpy())
    assert overlap(left, right) == pytest.approx(np.mean(np.cos(angles) ** 2))


def test_a_span_inside_another_overlaps_wholly_and_an_orthogonal_one_not_at_all() -> None:
    whole = basis(12, 6, 0)
    assert overlap(whole, whole[:, :2]) == pytest.approx(1.0)
    assert overlap(whole[:, :3], whole[:, 3:]) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(overlap(whole, whole[:, :0]))


def test_the_alignment_ratio_is_the_length_of_the_projection() -> None:
    span, tau = basis(12, 4, 0), random(12, 9, seed=1)
    projected = span.numpy() @ span.numpy().T @ tau.numpy()
    assert alignment_ratio(span, tau) == pytest.approx(np.linalg.norm(projected) / np.linalg.norm(tau.numpy()))
    assert np.isnan(alignment_ratio(span, torch.zeros(12, 9)))


def test_interference_is_its_formula() -> None:
    tau = [random(8, 10, seed=seed) for seed in range(3)]
    decomposed = [np.linalg.svd(matrix.numpy(), full_matrices=False) for matrix in tau]
    left = np.concatenate([u[:, :2] for u, _, _ in decomposed], axis=1)
    values = np.concatenate([s[:2] for _, s, _ in decomposed])
    right = np.concatenate([v[:2] for _, _, v in decomposed])
    inner = (left.T @ left - np.eye(6)) @ np.diag(values) @ (right @ right.T - np.eye(6))
    found = interference([spectrum(matrix).leading(2) for matrix in tau])
    assert found == pytest.approx(np.abs(inner).sum() / values.sum())


def test_vectors_in_orthogonal_directions_dont_interfere_and_equal_ones_do() -> None:
    left, right = basis(9, 6, 0), basis(9, 6, 1)
    apart = [spectrum(left[:, part] @ right[:, part].T) for part in (slice(3), slice(3, 6))]
    assert interference(apart) == pytest.approx(0.0, abs=1e-10)
    assert interference([apart[0], apart[0]]) == pytest.approx(1.0)
    assert np.isnan(interference([spectrum(torch.zeros(9, 9))]))


def test_the_statistics_of_a_weight_are_those_of_its_parts() -> None:
    tau = [random(10, 16, seed=seed) * scale for seed, scale in ((0, 1.0), (1, 3.0))]
    found = matrix_statistics(tau)
    one, two = (np.linalg.svd(matrix.numpy(), full_matrices=False) for matrix in tau)

    def rank(values: np.ndarray) -> int:
        return int(np.argmax(np.cumsum(values**2) >= 0.95 * np.sum(values**2))) + 1

    angles = scipy.linalg.subspace_angles(one[0][:, : rank(one[1])], two[0][:, : rank(two[1])])
    assert found.overlap_left[0, 1] == found.overlap_left[1, 0] == pytest.approx(np.mean(np.cos(angles) ** 2))
    angles = scipy.linalg.subspace_angles(one[2][: rank(one[1])].T, two[2][: rank(two[1])].T)
    assert found.overlap_right[0, 1] == pytest.approx(np.mean(np.cos(angles) ** 2))
    merged = np.linalg.svd((tau[0] + tau[1]).numpy(), full_matrices=False)
    span = merged[0][:, : rank(merged[1])]
    assert found.alignment[0] == pytest.approx(np.linalg.norm(span.T @ tau[0].numpy()) / np.linalg.norm(tau[0].numpy()))
    assert found.energy_share[1] == pytest.approx(np.sum(two[1][:5] ** 2) / np.sum(two[1] ** 2))
    assert found.rank_at_energy[0] == pytest.approx(rank(one[1]) / 10)
    np.testing.assert_allclose(found.found_energy, [1.0, 1.0])


def test_an_expert_that_changes_nothing_leaves_what_it_has_no_part_in_undefined() -> None:
    found = matrix_statistics([random(6, 8), torch.zeros(6, 8, dtype=torch.float64)])
    assert np.isfinite(found.stable_rank[0])
    assert np.isnan([found.stable_rank[1], found.overlap_left[0, 1], found.alignment[1], found.rank_at_energy[1]]).all()
    assert found.alignment[0] > 0.97


def test_means_leave_out_what_is_undefined() -> None:
    one = matrix_statistics([random(6, 8), torch.zeros(6, 8, dtype=torch.float64)])
    two = matrix_statistics([random(6, 8, seed=1), random(6, 8, seed=2)])
    mean = mean_of([one, two])
    assert mean.stable_rank[0] == pytest.approx((one.stable_rank[0] + two.stable_rank[0]) / 2)
    assert mean.stable_rank[1] == two.stable_rank[1]
    assert np.isnan(mean_of([one, one]).stable_rank[1])


def test_leading_directions_cost_less_than_all_of_a_large_matrix() -> None:
    assert cost((4096, 4096), 2) < 3 * 60.0 * 4096**3 / 10
    assert cost((4096, 1024), 2) == cost((1024, 4096), 2)
