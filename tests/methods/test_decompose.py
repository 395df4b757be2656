"""Singular values, polar factors and the threads that work on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evomerge.errors import MergeError
from evomerge.methods.spectral import decompose as decomposing
from evomerge.methods.spectral.decompose import MatrixPool, decompose, polar
from evomerge.methods.spectral.singular import IsoC, IsoCts, TsvMerge
from evomerge.streams import stream
from helpers.matrices import prepared, task_vectors


def test_the_signs_of_singular_vectors_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    tau = task_vectors((14, 11), 3)
    before = {method: sum(prepared(method, tau)) for method in (TsvMerge, IsoC, IsoCts)}
    generator = stream(3, "signs")
    plain = decomposing._singular_values

    def flipped(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        left, values, right = plain(matrix)
        signs = torch.from_numpy(generator.choice([-1.0, 1.0], len(values)))
        return left * signs, values, right * signs[:, None]

    monkeypatch.setattr(decomposing, "_singular_values", flipped)
    for method, expected in before.items():
        np.testing.assert_allclose(sum(prepared(method, tau)), expected, atol=1e-15)


def test_float32_decompositions_come_near_those_in_float64() -> None:
    tau = task_vectors((20, 30), 3)
    for method in (TsvMerge, IsoC, IsoCts):
        rough, fine = sum(prepared(method, tau, precision="float32")), sum(prepared(method, tau))
        assert 0 < np.abs(rough - fine).max() < 1e-4 * np.abs(fine).max()


def test_decompositions_keep_what_can_be_told_from_zero() -> None:
    generator = stream(4, "rank")
    for shape in ((5, 40), (40, 5), (20, 20), (1, 7), (7, 1)):
        matrix = torch.from_numpy(generator.standard_normal(shape))
        left, values, right = decompose(matrix)
        assert len(values) == min(shape)
        torch.testing.assert_close((left * values) @ right, matrix, rtol=0, atol=1e-13)
        torch.testing.assert_close(left.T @ left, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-13)
        torch.testing.assert_close(right @ right.T, torch.eye(min(shape), dtype=torch.float64), rtol=0, atol=1e-13)
    assert len(decompose(torch.ones(4, 6, dtype=torch.float64)).values) == 1
    assert len(decompose(torch.zeros(4, 6, dtype=torch.float64)).values) == 0
    assert decompose(torch.zeros(4, 0, dtype=torch.float64)).left.shape == (4, 0)


def test_a_decomposition_that_fails_is_tried_on_the_transpose_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = torch.linalg.svd, []

    def failing(matrix: torch.Tensor, full_matrices: bool) -> object:
        calls.append(matrix.shape)
        if len(calls) == 1 or always:
            raise torch.linalg.LinAlgError("no convergence")
        return real(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", failing)
    always = False
    matrix = torch.from_numpy(task_vectors((6, 7), 1)[0])
    left, values, right = decompose(matrix)
    torch.testing.assert_close((left * values) @ right, matrix)
    always = True
    with pytest.raises(MergeError, match=r"layer\.weight: singular values don't converge"):
        prepared(TsvMerge, task_vectors((6, 7), 2))


def test_polar_factors_are_partial_isometries() -> None:
    generator = stream(5, "polar")
    matrix = torch.from_numpy(generator.standard_normal((9, 5)))
    found, dropped = polar(matrix)
    assert dropped == 0
    torch.testing.assert_close(found.T @ found, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-14)
    doubled, dropped = polar(torch.cat([matrix, matrix], dim=1), 1e-9)
    assert dropped == 4  # of min(9, 10) directions five are there
    torch.testing.assert_close(doubled, torch.cat([found, found], dim=1) / 2**0.5, rtol=0, atol=1e-14)


def test_a_pool_gives_results_in_order_and_leaves_torch_its_threads() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with decomposing.matrix_pool(torch.device("cpu")) as side_by_side:
            assert side_by_side.count == 2
            assert torch.get_num_threads() == 1
            assert side_by_side.map(lambda item: (item, torch.get_num_threads()), range(5)) == [
                (i, 1) for i in range(5)
            ]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert MatrixPool(1).map(str, [1, 2]) == ["1", "2"]
