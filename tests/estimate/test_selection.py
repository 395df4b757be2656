"""The best of several, corrected: against simulations in which the true scores are known."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.estimate.intervals import Mean, Totals, Whole, score_interval
from evomerge.estimate.proportions import Interval
from evomerge.estimate.selection import best_of, corrected_score, difference_of_independent

pytestmark = pytest.mark.slow

ONE = {"t": 1.0}


def right_or_wrong(generator: np.random.Generator, truth: list[float], items: int) -> list[dict[str, Mean]]:
    """Models that are right on each item with their true score as the probability, the items shared in part."""
    shared = generator.random(items)
    own = generator.random((len(truth), items))
    return [
        {"t": Mean(((0.5 * shared + 0.5 * mine) < true).astype(float))} for mine, true in zip(own, truth, strict=True)
    ]


def true_score(threshold: float) -> float:
    """The probability that the mean of two uniform numbers is below the threshold, at most one half."""
    return 2 * threshold * threshold


@pytest.mark.parametrize("truth", [[0.45] * 12, [0.45, 0.44, 0.42, 0.40, 0.38], [0.48, 0.30, 0.30]])
def test_the_corrected_score_is_closer_to_the_truth_and_the_interval_holds_it(truth: list[float]) -> None:
    generator = np.random.default_rng(0)
    naive, corrected, covered, repeats = 0.0, 0.0, 0, 150
    for _ in range(repeats):
        models = right_or_wrong(generator, truth, 120)
        scores = [float(model["t"].values.mean()) for model in models]
        best = int(np.argmax(scores))
        true = true_score(truth[best])
        found = best_of(models, best, ONE)
        assert found.corrected is not None
        naive += (scores[best] - true) / repeats
        corrected += (found.corrected - true) / repeats
        covered += found.interval.low <= true <= found.interval.high
    # Standard error of the mean error: about 0.045 / √150 = 0.004.
    assert abs(corrected) < 0.015
    assert naive > 0.03 or len(set(truth)) > 1
    assert abs(corrected) <= abs(naive) + 0.008
    # At least 95 in 100: two standard errors below that are 91.
    assert covered / repeats >= 0.915


def test_intervals_that_ignore_the_choice_hold_the_truth_too_seldom() -> None:
    generator = np.random.default_rng(1)
    covered, repeats = 0, 150
    for _ in range(repeats):
        models = right_or_wrong(generator, [0.45] * 12, 120)
        best = max(models, key=lambda model: float(model["t"].values.mean()))
        interval = score_interval(best, ONE)
        covered += interval.low <= true_score(0.45) <= interval.high
    assert covered / repeats < 0.88


def test_one_model_alone_keeps_its_score_and_its_interval() -> None:
    values = np.array([1.0] * 30 + [0.0] * 70)
    found = best_of([{"t": Mean(values)}], 0, ONE)
    assert found.corrected == pytest.approx(0.3, abs=0.01)
    assert found.interval == score_interval({"t": Mean(values)}, ONE)


def test_a_metric_of_sums_is_corrected_and_one_of_whole_items_is_not() -> None:
    generator = np.random.default_rng(2)

    def ratio(sums: np.ndarray) -> np.ndarray:
        return sums[:, 0] / sums[:, 1]

    records = [np.stack([generator.random(60), np.ones(60)], axis=1) for _ in range(4)]
    models = [{"t": Totals(each, ratio)} for each in records]
    means = [{"t": Mean(each[:, 0].copy())} for each in records]
    assert corrected_score(models, ONE) == pytest.approx(corrected_score(means, ONE))
    whole = [{"t": Whole([1.0, 0.0], lambda found: sum(found) / len(found))}] * 2
    assert corrected_score(whole, ONE) is None
    assert corrected_score([{"t": Mean(np.array([1.0]))}] * 2, ONE) is None


def test_tasks_count_by_their_weights() -> None:
    same = np.tile([1.0, 0.0], 50)
    models = [{"a": Mean(same), "b": Mean(np.ones(50))}] * 3
    assert corrected_score(models, {"a": 1.0, "b": 3.0}) == pytest.approx(0.875, abs=0.01)


def test_a_difference_of_scores_on_different_items_has_the_usual_interval_where_both_are_symmetric() -> None:
    difference, interval = difference_of_independent(0.7, Interval(0.6, 0.8), 0.5, Interval(0.45, 0.55))
    half = float(np.hypot(0.1, 0.05))
    assert difference == pytest.approx(0.2)
    assert interval == pytest.approx((0.2 - half, 0.2 + half))
