"""WUDI against least squares in numpy, its closed forms and the descent that it stands for."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.methods.spectral.wudi import Wudi
from evomerge.streams import stream
from helpers.matrices import Matrix, prepared


def task_vectors(shape: tuple[int, int], count: int, rank: int | None = None, seed: int = 0) -> list[Matrix]:
    generator = stream(seed, "tau", *shape)
    inner = min(shape) if rank is None else rank
    return [
        0.01 * generator.standard_normal((shape[0], inner)) @ generator.standard_normal((inner, shape[1]))
        for _ in range(count)
    ]


def loss(x: Matrix, tau: list[Matrix]) -> float:
    return float(sum(np.sum(((x - vector) @ vector.T) ** 2) / np.sum(vector**2) for vector in tau))


def plain_wudi(tau: list[Matrix], ridge: float) -> Matrix:
    """Least squares with the pull to the sum as further equations."""
    width = tau[0].shape[1]
    pull = np.sqrt(ridge * len(tau) / min(width, len(tau) * tau[0].shape[0]))
    sides = [vector.T / np.linalg.norm(vector) for vector in tau]
    left = np.hstack([*sides, pull * np.eye(width)])
    right = np.hstack([*(vector @ side for vector, side in zip(tau, sides, strict=True)), pull * sum(tau)])
    return np.linalg.lstsq(left.T, right.T, rcond=None)[0].T


@pytest.mark.parametrize("ridge", [1e-2, 1e-6])
@pytest.mark.parametrize("shape", [(9, 14), (14, 9), (10, 10), (4, 40)], ids=str)
def test_the_sum_of_parts_solves_the_least_squares_problem(shape: tuple[int, int], ridge: float) -> None:
    for count in (1, 2, 3):
        tau = task_vectors(shape, count)
        np.testing.assert_allclose(sum(prepared(Wudi, tau, ridge=ridge)), plain_wudi(tau, ridge), rtol=0, atol=1e-9)


def test_the_parts_disturb_the_tasks_less_than_the_sum_and_the_mean_do() -> None:
    tau = task_vectors((12, 30), 3, rank=6)
    found = loss(sum(prepared(Wudi, tau)), tau)
    assert found < 1e-3 * loss(sum(tau) / 3, tau)
    assert found < 1e-3 * loss(sum(tau), tau)


def test_gradient_descent_from_the_sum_leads_to_the_same_place() -> None:
    tau = task_vectors((5, 6), 2)
    x = sum(tau)
    grams = [vector.T @ vector / np.sum(vector**2) for vector in tau]
    for _ in range(200_000):
        step = sum((x - vector) @ gram for vector, gram in zip(tau, grams, strict=True))
        x = x - 0.9 * step
        if np.abs(step).max() < 1e-16:
            break
    np.testing.assert_allclose(sum(prepared(Wudi, tau, ridge=1e-9)), x, atol=1e-6)


def test_one_expert_alone_keeps_its_task_vector() -> None:
    tau = task_vectors((8, 11), 1)
    np.testing.assert_allclose(prepared(Wudi, tau)[0], tau[0], rtol=1e-8, atol=1e-12)


def test_experts_with_orthogonal_inputs_keep_their_task_vectors() -> None:
    generator = stream(1, "orthogonal")
    right, _ = np.linalg.qr(generator.standard_normal((12, 8)))
    tau = [generator.standard_normal((9, 4)) @ right[:, part].T for part in (slice(0, 4), slice(4, 8))]
    for part, vector in zip(prepared(Wudi, tau), tau, strict=True):
        np.testing.assert_allclose(part, vector, atol=1e-5)


def test_equal_experts_share_their_task_vector() -> None:
    tau = task_vectors((8, 11), 1)[0]
    first, second = prepared(Wudi, [tau, tau], ridge=1e-9)
    np.testing.assert_allclose(first, second, atol=1e-16)
    np.testing.assert_allclose(first + second, tau, atol=1e-5 * np.abs(tau).max())


def test_a_strong_ridge_is_the_sum() -> None:
    tau = task_vectors((6, 9), 3)
    np.testing.assert_allclose(sum(prepared(Wudi, tau, ridge=1e9)), sum(tau), atol=1e-9)


def test_inputs_may_be_rows() -> None:
    tau = task_vectors((6, 9), 2)
    for part, turned in zip(
        prepared(Wudi, tau, inputs="rows"), prepared(Wudi, [vector.T for vector in tau]), strict=True
    ):
        assert (part == turned.T).all()


def test_parts_scale_with_the_task_vectors() -> None:
    tau = task_vectors((6, 9), 2)
    small = prepared(Wudi, [1e-30 * vector for vector in tau])
    for part, other in zip(small, prepared(Wudi, tau), strict=True):
        np.testing.assert_allclose(part * 1e30, other, atol=1e-12)


def test_an_expert_counts_by_its_direction_and_not_by_its_length() -> None:
    tau = task_vectors((6, 9), 2)
    first, second = prepared(Wudi, tau)
    longer = prepared(Wudi, [tau[0], 100.0 * tau[1]])
    np.testing.assert_allclose(longer[0], first, atol=1e-12)
    np.testing.assert_allclose(longer[1], 100.0 * second, atol=1e-10)


def test_zero_task_vectors_take_no_part() -> None:
    tau = task_vectors((6, 9), 1)[0]
    first, second = prepared(Wudi, [tau, np.zeros((6, 9))])
    np.testing.assert_allclose(first, tau, atol=1e-9)
    assert not second.any()
    assert not sum(prepared(Wudi, [np.zeros((6, 9))] * 2)).any()
