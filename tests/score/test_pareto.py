"""Fronts against their definitions, hypervolumes against closed forms, counting and Optuna's own."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from optuna.visualization import plot_hypervolume_history

from evomerge.score.pareto import crowding, dominates, front, hypervolume, knee, ranks, scaled, spread

Points = NDArray[np.float64]

GRID = st.integers(2, 4).flatmap(
    lambda objectives: arrays(
        np.float64, st.tuples(st.integers(1, 9), st.just(objectives)), elements=st.integers(0, 6).map(float)
    )
)
"""Few points on a coarse grid, so that many are equal or tie in an objective."""


def on_front(points: Points) -> list[bool]:
    """By the definition, pair by pair."""
    return [not any(dominates(other, point) for other in points) for point in points]


@given(GRID)
def test_the_front_is_what_no_point_dominates(points: Points) -> None:
    assert front(points).tolist() == on_front(points)


@given(GRID)
def test_a_point_of_a_later_front_is_dominated_by_one_of_the_front_before_and_by_none_of_its_own(
    points: Points,
) -> None:
    found = ranks(points)
    for rank, point in zip(found, points, strict=True):
        assert not any(dominates(other, point) for other in points[found >= rank])
        if rank:
            assert any(dominates(other, point) for other in points[found == rank - 1])


@given(GRID)
@settings(deadline=None)
def test_hypervolume_counts_the_unit_cells_below_the_points(points: Points) -> None:
    cells = np.indices((6,) * points.shape[1]).reshape(points.shape[1], -1).T
    covered = np.any(np.all(points[:, None] >= cells + 1, axis=2), axis=0)
    assert hypervolume(points, np.zeros(points.shape[1])) == pytest.approx(covered.sum())


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("objectives", [2, 3])
def test_hypervolume_is_that_of_optuna(objectives: int) -> None:
    points = np.random.default_rng(objectives).normal(size=(30, objectives))
    reference = np.full(objectives, -1.5)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * objectives)
    study.add_trials([optuna.create_trial(values=(-point).tolist()) for point in points])
    shown = plot_hypervolume_history(study, (-reference).tolist()).data[0].y
    found = [hypervolume(points[: count + 1], reference) for count in range(len(points))]
    assert found == pytest.approx(list(shown))


def test_hypervolume_of_points_on_a_sphere_nears_that_of_the_ball() -> None:
    angles = np.linspace(0, math.pi / 2, 4000)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert hypervolume(circle, (0, 0)) == pytest.approx(math.pi / 4, abs=1e-3)


def test_points_that_do_not_beat_the_reference_add_no_volume() -> None:
    points = np.array([[2.0, 3.0], [5.0, 0.0], [-1.0, 9.0]])
    assert hypervolume(points, (1, 1)) == 2.0
    assert hypervolume(points, (5, 9)) == 0.0
    assert hypervolume(np.empty((0, 2)), (0, 0)) == 0.0


def test_crowding_is_the_perimeter_of_the_box_between_neighbours() -> None:
    points = np.array([[0.0, 10.0], [1.0, 6.0], [4.0, 5.0], [10.0, 0.0]])
    assert crowding(points).tolist() == [math.inf, pytest.approx(0.4 + 0.5), pytest.approx(0.9 + 0.6), math.inf]


def test_an_objective_in_which_all_are_equal_says_nothing_of_crowding() -> None:
    points = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 4.0]])
    assert crowding(points).tolist() == [math.inf, 1.0, math.inf]
    assert crowding(points[:, :1]).tolist() == [0.0, 0.0, 0.0]


def test_a_spread_choice_keeps_the_ends_and_drops_the_crowded() -> None:
    first = np.array([0.0, 1.0, 2.0, 2.1, 2.2, 10.0])
    points = np.stack([first, 10 - first], axis=1)
    assert spread(points, 9) == [0, 1, 2, 3, 4, 5]
    assert spread(points, 5) == [0, 1, 2, 4, 5]
    assert spread(points, 2) == [0, 5]


def test_the_knee_is_furthest_from_the_chord() -> None:
    points = np.array([[0.0, 100.0], [0.2, 90.0], [0.8, 80.0], [0.9, 30.0], [1.0, 0.0]])
    chord = np.array([1.0, -100.0])
    across = (points - points[0]) / (1, 100)
    away = np.abs(across[:, 0] * chord[1] / 100 - across[:, 1] * chord[0])
    assert knee(points) == int(np.argmax(away)) == 2


def test_a_front_that_bends_inwards_has_its_knee_at_an_end() -> None:
    assert knee(np.array([[0.1, 0.1], [0.0, 1.0], [1.0, 0.0]])) == 1
    assert knee(np.array([[3.0, 4.0]])) == 0
    with pytest.raises(ValueError, match="no knee"):
        knee(np.empty((0, 2)))


@given(GRID, st.integers(1, 5), st.integers(-3, 3))
def test_units_of_an_objective_change_neither_knee_nor_crowding(points: Points, factor: int, shift: int) -> None:
    other = points.copy()
    other[:, 0] = other[:, 0] * factor + shift
    assert knee(other) == knee(points)
    assert np.allclose(crowding(other), crowding(points))
    assert np.allclose(scaled(other), scaled(points))
