"""Intervals and paired comparisons against scipy, closed forms and simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evomerge.estimate.comparisons import compare, holm, interval_of_mean, mcnemar, weighted_mean
from evomerge.estimate.proportions import paired, unseen, wilson


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=50)
def test_wilson_is_scipys(counts: tuple[int, int]) -> None:
    successes, items = counts
    reference = stats.binomtest(successes, items).proportion_ci(method="wilson")
    assert wilson(successes, items) == pytest.approx((reference.low, reference.high), abs=1e-12)


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=50)
def test_mcnemar_is_the_exact_binomial_test(won: int, lost: int) -> None:
    reference = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("copies", [1, 100])
def test_a_paired_difference_of_proportions_has_the_score_interval_and_with_many_items_the_textbooks(
    copies: int,
) -> None:
    first = np.array(([1.0] * 30 + [1.0] * 12 + [0.0] * 4 + [0.0] * 54) * copies)
    second = np.array(([1.0] * 30 + [0.0] * 12 + [1.0] * 4 + [0.0] * 54) * copies)
    found = compare({"t": first}, {"t": second}, {"t": 1.0})
    half = 1.959963984540054 * np.sqrt((12 + 4 - 64 / 100) * copies) / 100 / copies
    assert found.difference == pytest.approx(0.08)
    assert found.interval == paired(12 * copies, 4 * copies, 100 * copies)
    assert found.interval == pytest.approx((0.08 - half, 0.08 + half), abs=0.01 / copies)
    assert found.p == pytest.approx(stats.binomtest(4 * copies, 16 * copies).pvalue, abs=1e-9)


def test_a_bootstrap_interval_of_one_continuous_task_is_close_to_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = interval_of_mean(values, 0.95)
    reference = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(reference, abs=0.03)


def test_sign_flips_agree_with_the_exact_binomial_test_on_binary_tasks() -> None:
    generator = np.random.default_rng(1)
    first = {name: generator.integers(0, 2, 80).astype(float) for name in ("a", "b")}
    second = {name: np.where(generator.random(80) < 0.3, 0.0, values) for name, values in first.items()}
    found = compare(first, second, {"a": 1.0, "b": 1.0})
    lost = sum(int((first[name] > second[name]).sum()) for name in first)
    assert found.p == pytest.approx(max(stats.binomtest(lost, lost).pvalue, 1e-4), abs=2e-4)
    assert found.difference > 0
    assert found.interval.low > 0


def test_weights_decide_how_tasks_are_averaged() -> None:
    scores = {"a": np.ones(10), "b": np.zeros(1000)}
    assert weighted_mean(scores, {"a": 3.0, "b": 1.0}) == pytest.approx(0.75)


def test_a_model_against_itself_is_no_difference() -> None:
    scores = {"t": np.array([0.0, 1.0, 1.0]), "u": np.array([0.2, 0.4])}
    found = compare(scores, scores, {"t": 1.0, "u": 1.0})
    assert found.difference == 0
    assert found.p == 1.0


def test_no_interval_is_of_zero_width_where_no_item_differs() -> None:
    ones, graded = np.ones(40), np.random.default_rng(0).random(40)
    logs = -3.0 * graded
    for scores in ({"t": ones}, {"t": graded}, {"t": logs}, {"t": ones, "u": graded}):
        weights = dict.fromkeys(scores, 1.0)
        low, high = compare(scores, scores, weights).interval
        assert low < 0 < high
        assert high - low > 0.05
        assert all(np.ptp(interval_of_mean(values, 0.95)) > 0 for values in scores.values())
    assert compare({"t": graded}, {"t": graded}, {"t": 1.0}).interval.high == pytest.approx(unseen(40))
    bound = unseen(40) * np.ptp(logs)
    assert compare({"t": logs}, {"t": logs}, {"t": 1.0}).interval.high == pytest.approx(bound)


def test_tasks_of_right_or_wrong_are_combined_from_each_ones_own_interval() -> None:
    first = {"a": np.array([1.0] * 30), "b": np.array([1.0] * 12 + [0.0] * 38)}
    second = {"a": np.array([1.0] * 30), "b": np.array([1.0] * 9 + [0.0] * 3 + [1.0] + [0.0] * 37)}
    one, other = paired(0, 0, 30), paired(3, 1, 50)
    low, high = compare(first, second, {"a": 1.0, "b": 3.0}).interval
    assert low == pytest.approx(0.03 - np.hypot(0.25 * one.low, 0.75 * (0.04 - other.low)))
    assert high == pytest.approx(0.03 + np.hypot(0.25 * one.high, 0.75 * (other.high - 0.04)))
    assert interval_of_mean(first["a"], 0.95) == wilson(30, 30)


@pytest.mark.slow
def test_two_graded_tasks_with_rare_disagreements_have_intervals_that_hold_the_truth() -> None:
    generator = np.random.default_rng(3)

    def holds() -> bool:
        second = {task: generator.random(60) * 0.5 for task in ("a", "b")}
        first = {
            task: values + np.where(generator.random(60) < 0.03, generator.choice([-0.4, 0.4], 60), 0.0)
            for task, values in second.items()
        }
        low, high = compare(first, second, {"a": 1.0, "b": 2.0}).interval
        return low <= 0 <= high

    assert np.mean([holds() for _ in range(80)]) > 0.9


@pytest.mark.slow
def test_graded_scores_that_rarely_differ_and_to_one_side_have_intervals_that_hold_the_truth() -> None:
    generator, none = np.random.default_rng(4), np.zeros(60)

    def holds() -> bool:
        better = np.where(generator.random(60) < 0.02, generator.uniform(0.0, 1.0, 60), 0.0)
        low, high = compare({"t": better}, {"t": none}, {"t": 1.0}).interval
        return low <= 0.02 * 0.5 <= high

    # Resampling the differences alone has it six times of ten.
    assert np.mean([holds() for _ in range(150)]) > 0.88


def test_models_with_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same items"):
        compare({"t": np.ones(3)}, {"t": np.ones(4)}, {"t": 1.0})


def test_holm_gives_the_worked_example_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_equal_models_are_told_apart_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(2)
    found = [
        compare(
            {"t": generator.integers(0, 2, 150).astype(float)},
            {"t": generator.integers(0, 2, 150).astype(float)},
            {"t": 1.0},
        ).p
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.075
