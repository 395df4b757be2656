"""The Gaussian process that says where it expects the best merge, on functions whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from evomerge.algorithms.surrogate import check_surrogate, expected_best
from evomerge.errors import ConfigError
from evomerge.space.base import Condition, Dimension

BOX = tuple(Dimension(name=f"x{place}", low=-1.0, high=3.0, initial=1.0) for place in range(4))
OPTIMUM = np.array([0.2, 1.6, 0.9, 0.4])


def quadratic(points: NDArray[np.float64], optimum: NDArray[np.float64] = OPTIMUM) -> NDArray[np.float64]:
    """Highest, 0.6, at the optimum."""
    return 0.6 - 0.1 * np.sum((points - optimum) ** 2, axis=-1)


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_averaged_out_where_the_best_of_all_scores_is_lucky(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = generator.uniform(-1, 3, (150, 4))
    scores = quadratic(points) + generator.normal(0.0, 0.15, 150)
    best = expected_best(BOX, list(points), scores, np.full(150, 0.15**2))
    assert best is not None
    assert all(item.contains(value) for item, value in zip(BOX, best, strict=True))
    luckiest = points[np.argmax(scores)]
    assert quadratic(best) > quadratic(luckiest)
    assert quadratic(best) > 0.5


def test_scores_without_noise_tell_the_optimum() -> None:
    points = np.random.default_rng(0).uniform(-1, 3, (80, 4))
    best = expected_best(BOX, list(points), quadratic(points), np.zeros(80))
    np.testing.assert_allclose(best, OPTIMUM, atol=0.1)  # type: ignore[arg-type]


def test_an_optimum_outside_the_bounds_is_told_as_the_nearest_point_inside() -> None:
    points = np.random.default_rng(0).uniform(-1, 3, (80, 4))
    best = expected_best(BOX, list(points), quadratic(points, np.array([5.0, 1.0, -4.0, 1.0])), np.zeros(80))
    assert best is not None
    assert (best[0], best[2]) == (3.0, -1.0)


def test_a_score_that_is_hardly_known_counts_less() -> None:
    line = (Dimension(name="x", low=0.0, high=1.0, initial=0.5),)
    places = np.linspace(0.0, 1.0, 41)
    lucky = 2.0 * np.exp(-(((places - 0.9) / 0.1) ** 2))
    scores, known = 0.5 - (places - 0.3) ** 2 + lucky, np.full(41, 1e-4)
    believed = expected_best(line, [*places[:, None]], scores, known)
    doubted = expected_best(line, [*places[:, None]], scores, np.where(lucky > 1e-3, 100.0, known))
    assert believed is not None
    assert doubted is not None
    assert believed[0] == pytest.approx(0.9, abs=0.05)
    assert doubted[0] == pytest.approx(0.3, abs=0.05)


def test_the_same_scores_tell_the_same_and_units_do_not_matter() -> None:
    generator = np.random.default_rng(1)
    points = generator.uniform(-1, 3, (60, 4))
    scores = quadratic(points) + generator.normal(0.0, 0.1, 60)
    first, again = (expected_best(BOX, list(points), scores, np.full(60, 0.01)) for _ in range(2))
    np.testing.assert_array_equal(first, again)  # type: ignore[arg-type]
    scaled = expected_best(BOX, list(points), 8 * scores + 4, np.full(60, 0.64))
    np.testing.assert_allclose(scaled, first, atol=1e-3)  # type: ignore[arg-type]


def test_equal_scores_tell_nothing() -> None:
    points = np.random.default_rng(0).uniform(-1, 3, (20, 4))
    assert expected_best(BOX, list(points), np.full(20, 0.4), np.full(20, 0.01)) is None


def test_more_dimensions_than_have_lengths_of_their_own_are_searched_too() -> None:
    box = tuple(Dimension(name=f"x{place}", low=-1.0, high=3.0, initial=1.0) for place in range(25))
    optimum = np.full(25, 0.8)
    points = np.random.default_rng(0).uniform(0, 2, (120, 25))
    best = expected_best(box, list(points), quadratic(points, optimum), np.zeros(120))
    assert best is not None
    assert quadratic(best, optimum) > quadratic(points, optimum).max()


def test_choices_and_conditions_are_refused_by_name() -> None:
    method = Dimension.categorical("method", ["ties", "linear"], initial="ties")
    density = Dimension(
        name="density", low=0.0, high=1.0, initial=0.5, condition=Condition(dimension="method", values=("ties",))
    )
    with pytest.raises(
        ConfigError, match=r"search\.surrogate: .*: method is categorical, density .*; leave out surrogate and"
    ):
        check_surrogate([method, density, *BOX])
    check_surrogate(BOX)
