"""Intervals of proportions against the likelihood itself, and the share of times that they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from evomerge.estimate.proportions import Interval, paired, unseen, wilson


def score_statistic(won: int, lost: int, items: int, difference: float) -> float:
    """Of a difference, with the share of lost items that makes the counts most likely, found by search."""

    def unlikely(share: float) -> float:
        parts = np.array([share + difference, share, 1 - 2 * share - difference])
        counts = np.array([won, lost, items - won - lost])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(parts[counts > 0], 1e-300))))

    bounds = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return float((won - lost - items * difference) / np.sqrt(items * (2 * share + difference * (1 - difference))))


@pytest.mark.parametrize(("won", "lost", "items"), [(12, 4, 100), (12, 2, 50), (1, 1, 30), (3, 20, 60), (40, 39, 200)])
def test_the_ends_of_a_paired_interval_are_the_differences_that_a_score_test_just_rejects(
    won: int, lost: int, items: int
) -> None:
    low, high = paired(won, lost, items)
    assert score_statistic(won, lost, items, low) == pytest.approx(1.959964, abs=1e-3)
    assert score_statistic(won, lost, items, high) == pytest.approx(-1.959964, abs=1e-3)


@pytest.mark.parametrize("items", [1, 7, 100, 5000])
def test_without_a_disagreement_it_is_as_wide_as_wilsons_for_none(items: int) -> None:
    low, high = paired(0, 0, items)
    assert high == pytest.approx(wilson(0, items).high, abs=1e-9)
    assert low == pytest.approx(-high, abs=1e-9)
    # Of items that aren't won, each may as well be lost, which counts twice.
    assert paired(items, 0, items) == pytest.approx((1 - 2 * wilson(0, items).high, 1.0), abs=1e-9)


@given(st.integers(1, 120).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
@settings(deadline=None, max_examples=80)
def test_a_paired_interval_holds_what_was_found_is_never_empty_and_turns_with_the_models(
    counts: tuple[int, int, int],
) -> None:
    won, items = counts[0], counts[2]
    lost = min(counts[1], items - won)
    low, high = paired(won, lost, items)
    assert -1 <= low <= (won - lost) / items <= high <= 1
    assert high - low > 1 / items / 2
    assert paired(lost, won, items) == pytest.approx((-high, -low), abs=1e-9)


def coverage(intervals: dict[tuple[int, int], Interval], items: int, won: float, lost: float) -> float:
    """How often an interval holds the true difference, summed over all outcomes."""
    counts = [(a, b) for (a, b), found in intervals.items() if found.low - 1e-9 <= won - lost <= found.high + 1e-9]
    table = np.array([[a, b, items - a - b] for a, b in counts])
    return float(stats.multinomial.pmf(table, items, [won, lost, 1 - won - lost]).sum())


@pytest.mark.parametrize("items", [20, 50])
def test_a_paired_interval_holds_the_truth_as_often_as_it_says_however_rarely_the_models_disagree(items: int) -> None:
    every = [(won, lost) for won in range(items + 1) for lost in range(items + 1 - won)]
    intervals = {counts: paired(*counts, items) for counts in every}
    shares = (0.0, 0.001, 0.01, 0.03, 0.1, 0.2, 0.4)
    found = [coverage(intervals, items, won, lost) for won in shares for lost in shares if won + lost > 0]
    assert min(found) > 0.93
    assert np.mean(found) > 0.95

    def textbook(won: int, lost: int) -> Interval:
        centre, half = (won - lost) / items, 1.96 * np.sqrt(won + lost - (won - lost) ** 2 / items) / items
        return Interval(centre - half, centre + half)

    # What this replaces, to show that the bound above can be missed: nearly always of zero width there.
    assert coverage({counts: textbook(*counts) for counts in every}, items, 0.01, 0.0) < 0.5


@pytest.mark.parametrize("items", [1, 10, 250])
def test_the_unseen_share_is_the_exact_bound_of_none_in_so_many(items: int) -> None:
    exact = stats.binomtest(0, items).proportion_ci(method="exact").high
    assert unseen(items) == pytest.approx(exact, rel=1e-6)
