"""The linear assignment: the sum that SciPy finds, with duals that prove it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from evomerge.kernels.assignment import Assigned, best_assignment, by_auction


def found_by_scipy(scores: NDArray[np.floating]) -> float:
    return total(scores, linear_sum_assignment(scores, maximize=True)[1])


def total(scores: NDArray[np.floating], order: NDArray[np.int64]) -> float:
    return float(scores[np.arange(len(scores)), order].sum(dtype=np.float64))


def size_of(scores: NDArray[np.floating]) -> float:
    return float(np.abs(scores).max(axis=1).sum(dtype=np.float64))


def found(scores: NDArray[np.floating]) -> Assigned:
    assigned = by_auction(scores)
    assert assigned is not None
    return assigned


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 150),
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 20),
    spread=st.floats(0, 3),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_no_assignment_has_a_larger_sum_and_the_duals_prove_it(
    size: int, seed: int, rank: int, spread: float, dtype: type[np.floating]
) -> None:
    generator = np.random.default_rng(seed)
    rows, columns = (np.exp(spread * generator.standard_normal(size)) for _ in range(2))
    products = generator.standard_normal((size, rank)) @ generator.standard_normal((rank, size))
    scores = (np.abs(products) * rows[:, None] * columns).astype(dtype)
    assigned = by_auction(scores)
    if assigned is None:
        return
    assert sorted(assigned.order) == list(range(size))
    assert total(scores, assigned.order) >= found_by_scipy(scores) - 1e-12 * size_of(scores)
    assert 0 <= assigned.gap(scores) + 1e-12 * size_of(scores) <= 2e-9 * size_of(scores)
    assert np.all(scores <= assigned.profits[:, None] + assigned.prices + 1e-12 * size_of(scores))


def test_a_planted_order_is_found() -> None:
    generator = np.random.default_rng(0)
    order = generator.permutation(300)
    units = generator.standard_normal((300, 40)).astype(np.float32)
    other = np.empty_like(units)
    other[order] = units
    assert np.array_equal(best_assignment(units @ other.T), order)


def test_a_gap_is_found_where_an_assignment_is_not_the_best() -> None:
    scores = np.random.default_rng(1).standard_normal((200, 200))
    best = found(scores)
    worse = Assigned(np.roll(best.order, 1), best.profits, best.prices)
    difference = total(scores, best.order) - total(scores, worse.order)
    assert worse.gap(scores) == pytest.approx(difference, rel=1e-9)


@pytest.mark.parametrize("kind", ["zeros", "dead rows", "dead rows and columns", "whole numbers", "copies", "one huge"])
def test_units_that_are_alike_or_far_larger_than_others_change_nothing_about_the_sum(kind: str) -> None:
    generator = np.random.default_rng(2)
    scores = generator.standard_normal((400, 400)).astype(np.float32)
    if kind == "zeros":
        scores[:] = 0
    elif kind == "dead rows":
        scores[::2] = 0
    elif kind == "dead rows and columns":
        scores[::2] = scores[:, ::3] = 0
    elif kind == "whole numbers":
        scores = generator.integers(0, 3, scores.shape).astype(np.float32)
    elif kind == "copies":
        scores = scores[generator.integers(0, 20, 400)]
    else:
        scores[3, 5] = 1e30
    order = best_assignment(scores)
    assert sorted(order) == list(range(400))
    assert total(scores, order) == pytest.approx(found_by_scipy(scores), rel=1e-12)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        by_auction(np.full((4, 4), np.inf))
