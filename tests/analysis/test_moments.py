"""Sums over entries, against numpy over the whole arrays in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.analysis import moments as module
from evomerge.analysis.moments import Moments, cosines, count_signs, moments, threshold


def family(
    seed: int, shape: tuple[int, ...] = (50, 40), dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base, two experts that change all of it, and one that changes a tenth."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    experts = [base + scale * torch.randn(shape, generator=generator) for scale in (0.1, 0.4)]
    few = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.3, 0.0)
    return base.to(dtype), [expert.to(dtype) for expert in (*experts, base + few)]


def arrays(base: torch.Tensor, experts: list[torch.Tensor]) -> NDArray[np.float64]:
    start = base.double().numpy().ravel()
    return np.stack([expert.double().numpy().ravel() - start for expert in experts])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_lengths_and_cosines_are_those_of_the_differences_in_float64(dtype: torch.dtype) -> None:
    base, experts = family(0, dtype=dtype)
    tau = arrays(base, experts)
    found = moments(base, experts, top=0.2)
    np.testing.assert_allclose(found.norms, np.linalg.norm(tau, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.relative_norms, found.norms / np.linalg.norm(base.double().numpy()), rtol=1e-12)
    expected = tau @ tau.T / np.outer(np.linalg.norm(tau, axis=1), np.linalg.norm(tau, axis=1))
    np.testing.assert_allclose(found.cosines, expected, rtol=1e-10)
    assert found.changed.tolist() == np.count_nonzero(tau, axis=1).tolist()


def test_sign_conflicts_are_counted_as_one_would_by_hand() -> None:
    signs = torch.tensor([[1, 1, -1, 0, 1, 0], [1, -1, -1, 1, 0, 0], [1, 1, 1, 0, -1, 0]], dtype=torch.float32)
    found = count_signs(signs)
    assert found.overlap.tolist() == [[4, 3, 4], [3, 4, 3], [4, 3, 4]]
    assert found.conflict.tolist() == [[0, 1, 2], [1, 0, 2], [2, 2, 0]]
    assert (found.shared, found.contested) == (4, 3)
    assert found.share == 0.75
    np.testing.assert_allclose(found.pairs, [[0, 1 / 3, 0.5], [1 / 3, 0, 2 / 3], [0.5, 2 / 3, 0]])


def test_conflicts_among_the_largest_entries_are_those_of_the_trimmed_vectors() -> None:
    base, experts = family(1)
    tau = arrays(base, experts)
    keep = int(0.2 * tau.shape[1])
    reached = np.sort(np.abs(tau), axis=1)[:, -keep]
    trimmed = np.sign(tau) * (np.abs(tau) >= reached[:, None])
    found = moments(base, experts, top=0.2).top_signs
    both = (trimmed[0] != 0) & (trimmed[1] != 0)
    assert found.overlap[0, 1] == both.sum()
    assert found.conflict[0, 1] == (both & (trimmed[0] != trimmed[1])).sum()
    assert found.overlap[0, 0] == keep


@given(st.integers(0, 2**16), st.integers(1, 3000))
def test_sums_add_up_over_the_parts_of_a_tensor(seed: int, cut: int) -> None:
    base, experts = family(seed, (3001,))
    whole = moments(base, experts, top=1.0)
    first = moments(base[:cut], [expert[:cut] for expert in experts], top=1.0)
    rest = moments(base[cut:], [expert[cut:] for expert in experts], top=1.0)
    total = first + rest
    assert total.entries == whole.entries
    np.testing.assert_allclose(total.gram, whole.gram, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(total.signs.overlap, whole.signs.overlap)
    np.testing.assert_array_equal(total.signs.conflict, whole.signs.conflict)
    assert (total.signs.shared, total.signs.contested) == (whole.signs.shared, whole.signs.contested)


def test_the_size_of_the_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family(2)
    whole = moments(base, experts, top=0.3)
    monkeypatch.setattr(module, "_CHUNK", 17)
    parts = moments(base, experts, top=0.3)
    np.testing.assert_allclose(parts.gram, whole.gram, rtol=1e-12)
    np.testing.assert_array_equal(parts.top_signs.overlap, whole.top_signs.overlap)


def test_the_threshold_of_a_large_tensor_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = family(3, (200, 500))
    exact = threshold(base.ravel(), experts[0].ravel(), 0.2)
    monkeypatch.setattr(module, "SAMPLED", 10_000)
    sampled = threshold(base.ravel(), experts[0].ravel(), 0.2)
    sizes = (experts[0] - base).double().abs()
    assert sampled != exact
    assert abs(float((sizes >= sampled).double().mean()) - 0.2) < 0.01


def test_a_vector_of_zeros_has_no_cosine_and_no_sign() -> None:
    base = torch.ones(5)
    found = moments(base, [base, base + 1], top=0.5)
    assert np.isnan(found.cosines[0]).all()
    assert found.cosines[1, 1] == 1.0
    assert np.isnan(found.signs.share)
    assert found.changed.tolist() == [0, 5]


def test_nothing_has_no_length_relative_to_a_base_of_zeros() -> None:
    found = moments(torch.zeros(4), [torch.ones(4)], top=0.5)
    assert np.isnan(found.relative_norms).all()
    assert found.norms.tolist() == [2.0]
    assert isinstance(moments(torch.zeros(0), [torch.zeros(0)], top=0.5), Moments)


@given(st.integers(0, 2**16))
def test_cosines_dont_depend_on_scale(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(3, 20))
    gram, scales = vectors @ vectors.T, np.array([1e-3, 1.0, 1e4])
    np.testing.assert_allclose(cosines(gram * np.outer(scales, scales)), cosines(gram), rtol=1e-10, atol=1e-12)
