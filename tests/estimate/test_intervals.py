"""Intervals and comparisons of corpus metrics: closed forms, the tests for means, and agreement between kinds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from evomerge.estimate.comparisons import RESAMPLES, compare, interval_of_mean
from evomerge.estimate.intervals import (
    SLOW_RESAMPLES,
    Mean,
    Sample,
    Totals,
    Whole,
    compare_scores,
    resamples,
    score_interval,
    size,
    value,
)
from evomerge.estimate.proportions import unseen


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[:, 0] / sums[:, 1])


def as_totals(values: NDArray[np.float64], sign: float = 1.0) -> Totals:
    return Totals(np.stack([values, np.ones_like(values)], axis=1), ratio, sign)


def as_whole(values: NDArray[np.float64], sign: float = 1.0) -> Whole:
    return Whole(list(values), lambda items: float(np.mean(items)), sign)


GENERATOR = np.random.default_rng(5)
FIRST = GENERATOR.normal(0.3, 1.0, size=80)
SECOND = FIRST - GENERATOR.normal(0.1, 0.5, size=80)


def test_means_keep_their_own_tests() -> None:
    one, other = {"t": Mean(FIRST)}, {"t": Mean(SECOND)}
    assert score_interval(one, {"t": 2.0}) == pytest.approx(interval_of_mean(FIRST, 0.95))
    assert compare_scores(one, other, {"t": 2.0}) == compare({"t": FIRST}, {"t": SECOND}, {"t": 2.0})


def test_a_bootstrap_of_sums_has_the_normal_interval_of_a_mean() -> None:
    low, high = score_interval({"t": as_totals(FIRST)}, {"t": 1.0})
    half = 1.96 * FIRST.std() / np.sqrt(len(FIRST))
    assert low == pytest.approx(FIRST.mean() - half, abs=0.02)
    assert high == pytest.approx(FIRST.mean() + half, abs=0.02)


def test_randomisation_finds_the_exact_p_of_every_exchange() -> None:
    differences = np.array([0.9, 0.4, 0.7, -0.3, 0.2, 0.6, 0.5, -0.1])
    one, other = np.arange(8.0) + differences, np.arange(8.0)
    every = [abs(np.dot(signs, differences)) for signs in product([1, -1], repeat=8)]
    exact = np.mean([found >= abs(differences.sum()) - 1e-12 for found in every])
    found = compare_scores({"t": as_totals(one)}, {"t": as_totals(other)}, {"t": 1.0})
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.difference == pytest.approx(differences.mean())


def test_p_agrees_with_the_permutation_test_of_scipy() -> None:
    expected = stats.permutation_test(
        (FIRST, SECOND),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue
    found = compare_scores({"t": as_totals(FIRST)}, {"t": as_totals(SECOND)}, {"t": 1.0})
    assert found.p == pytest.approx(expected, abs=0.02)


def test_a_metric_known_only_as_a_function_agrees_with_the_same_metric_from_sums() -> None:
    fast = compare_scores({"t": as_totals(FIRST)}, {"t": as_totals(SECOND)}, {"t": 1.0})
    slow = compare_scores({"t": as_whole(FIRST)}, {"t": as_whole(SECOND)}, {"t": 1.0})
    assert slow.difference == pytest.approx(fast.difference)
    assert slow.p == pytest.approx(fast.p, abs=0.03)
    assert slow.interval == pytest.approx(fast.interval, abs=0.03)
    assert resamples({"t": as_whole(FIRST)}) == SLOW_RESAMPLES < resamples({"t": as_totals(FIRST)}) == RESAMPLES


def test_where_lower_is_better_the_lower_model_wins() -> None:
    low, high = as_totals(np.full(40, 1.0) + 0.01 * FIRST[:40], -1.0), as_totals(np.full(40, 2.0), -1.0)
    found = compare_scores({"t": low}, {"t": high}, {"t": 1.0})
    assert found.difference > 0.9
    assert found.interval.low > 0
    assert value(low) > value(high)


def test_two_models_with_the_same_answers_do_not_differ() -> None:
    found = compare_scores({"t": as_totals(FIRST)}, {"t": as_totals(FIRST)}, {"t": 1.0})
    assert (found.difference, found.p) == (0.0, 1.0)


@pytest.mark.parametrize("kind", [as_totals, as_whole])
def test_the_same_answers_of_a_corpus_metric_may_hide_a_difference_on_others(
    kind: Callable[[NDArray[np.float64]], Sample],
) -> None:
    def largest(values: NDArray[np.float64]) -> float:
        low, high = compare_scores({"t": kind(values)}, {"t": kind(values)}, {"t": 1.0}).interval
        assert low == pytest.approx(-high)
        return high

    # Scores in some unit of their own, up to ten.
    assert largest(FIRST - FIRST.min()) == pytest.approx(unseen(80) * (FIRST - FIRST.min()).mean())
    assert largest(np.zeros(80)) == pytest.approx(unseen(80))
    low, high = score_interval({"t": kind(np.zeros(80))}, {"t": 1.0})
    assert low < 0 < high


def test_tasks_are_combined_by_weight_and_kinds_may_be_mixed() -> None:
    samples = {"mean": Mean(FIRST), "sums": as_totals(SECOND), "whole": as_whole(FIRST[:10])}
    weights = {"mean": 1.0, "sums": 2.0, "whole": 1.0}
    low, high = score_interval(samples, weights)
    centre = (FIRST.mean() + 2 * SECOND.mean() + FIRST[:10].mean()) / 4
    assert low < centre < high
    found = compare_scores(samples, {**samples, "sums": as_totals(SECOND - 1.0)}, weights)
    assert found.difference == pytest.approx(0.5)
    assert found.p < 0.01


def test_results_are_the_same_on_every_run() -> None:
    one, other = {"t": as_totals(FIRST)}, {"t": as_totals(SECOND)}
    assert compare_scores(one, other, {"t": 1.0}) == compare_scores(one, other, {"t": 1.0})
    assert score_interval(one, {"t": 1.0}) == score_interval(one, {"t": 1.0})


def test_different_numbers_of_items_are_refused() -> None:
    assert size(Mean(FIRST)) == 80
    with pytest.raises(ValueError, match="same items"):
        compare_scores({"t": as_totals(FIRST)}, {"t": as_totals(SECOND[:5])}, {"t": 1.0})
