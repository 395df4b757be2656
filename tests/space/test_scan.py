"""The weights of uniform merges: spread over any number of experts, with all of them alike and each by itself."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from evomerge.space.scan import spread


def chosen(experts: int, count: int, low: float = 0.0, high: float = 1.5) -> NDArray[np.float64]:
    """The first `count` that differ."""
    different = dict.fromkeys(tuple(weights.tolist()) for weights in spread(experts, low, high, count))
    return np.array(list(islice(different, count)))


def equal(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return weights[np.ptp(weights, axis=1) == 0, 0]


def alone(weights: NDArray[np.float64], absent: float = 0.0) -> list[set[float]]:
    """For each expert, the weights it has where all others are absent."""
    others = (weights == absent).sum(axis=1) == weights.shape[1] - 1
    return [set(column[others & (column != absent)].tolist()) for column in weights.T]


def test_two_experts_fill_the_default_scan_with_a_grid_of_four_levels_but_for_the_base() -> None:
    steps = {0.0, 0.375, 0.75, 1.125}
    grid = {(one, other) for one in steps for other in steps} - {(0.0, 0.0)}
    assert {tuple(weights) for weights in chosen(2, 15)} == grid


def test_three_experts_have_a_grid_of_three_levels_as_soon_as_it_fits() -> None:
    assert {tuple(row) for row in chosen(3, 26)} == {
        (one, other, third) for one in (0, 0.5, 1) for other in (0, 0.5, 1) for third in (0, 0.5, 1)
    } - {(0, 0, 0)}
    assert len(set(chosen(3, 25)[:, 0])) > 3


@pytest.mark.parametrize("experts", range(2, 13))
@pytest.mark.parametrize("count", [15, 31, 63, 200])
def test_there_are_as_many_as_asked_for_with_all_experts_alike_at_several_scales_and_each_by_itself(
    experts: int, count: int
) -> None:
    found = chosen(experts, count)
    assert len(found) == count
    assert len(equal(found)) >= 2
    assert all(alone(found))
    assert len({len(levels) for levels in alone(found)}) == 1


@pytest.mark.parametrize(("experts", "count"), [(3, 15), (3, 20), (4, 31), (6, 63)])
def test_what_is_between_favours_no_expert(experts: int, count: int) -> None:
    found = chosen(experts, count)
    rest = np.array([row for row in found if np.ptp(row) > 0 and np.count_nonzero(row) > 1])
    assert len(rest) >= 4
    # Each expert is somewhere the strongest of all, and their mean weights differ by little.
    assert {int(row.argmax()) for row in rest} == set(range(experts))
    assert np.ptp(rest.mean(axis=0)) < 0.15 * 1.5


@given(
    experts=st.integers(1, 9),
    count=st.integers(1, 60),
    low=st.floats(-1.0, 1.0),
    width=st.floats(0.05, 3.0),
)
@settings(deadline=None, max_examples=60)
def test_weights_stay_inside_any_bounds_and_the_base_alone_is_not_among_them(
    experts: int, count: int, low: float, width: float
) -> None:
    high = low + width
    found = chosen(experts, count, low, high)
    assert len(found) == count
    assert np.all((found >= low) & (found <= high))
    if experts > 1 and low < 0 < high:
        assert np.any(found != 0, axis=1).all()


def test_bounds_that_exclude_zero_leave_an_expert_as_near_to_it_as_they_allow() -> None:
    assert all(alone(chosen(3, 15, 0.2, 1.0), absent=0.2))
    assert all(alone(chosen(3, 15, -1.0, -0.2), absent=-0.2))


def test_with_too_little_room_for_each_expert_by_itself_none_is_preferred() -> None:
    assert len(equal(chosen(5, 7))) == 7


def test_one_expert_has_evenly_spaced_weights() -> None:
    np.testing.assert_allclose(chosen(1, 4)[:, 0], [0.3, 0.6, 0.9, 1.2])
