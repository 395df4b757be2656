"""E-values against integrals and factorials, and how often they reject what is true and what isn't."""

from __future__ import annotations

from math import comb, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from evomerge.estimate.sequential_tests import log_e_of_bets, log_e_of_signs, rejects

COUNTS = [(0, 0), (1, 0), (0, 1), (5, 3), (12, 2), (30, 30), (3, 40), (55, 60)]


@pytest.mark.parametrize(("won", "lost"), COUNTS)
def test_the_two_sided_e_value_is_two_to_the_items_over_their_arrangements(won: int, lost: int) -> None:
    exact = 2 ** (won + lost) / ((won + lost + 1) * comb(won + lost, won))
    assert float(log_e_of_signs(won, lost, two_sided=True)) == pytest.approx(log(exact), abs=1e-9)


@pytest.mark.parametrize(("won", "lost"), COUNTS)
def test_the_one_sided_e_value_is_the_mean_likelihood_of_shares_above_a_half(won: int, lost: int) -> None:
    mixed, _ = integrate.quad(lambda share: 2 * (2 * share) ** won * (2 * (1 - share)) ** lost, 0.5, 1, epsabs=1e-13)
    assert float(log_e_of_signs(won, lost)) == pytest.approx(log(mixed), abs=1e-6)


@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=60), st.floats(0.25, 40))
@settings(deadline=None, max_examples=60)
def test_bets_on_right_and_wrong_are_the_test_of_signs_in_any_units_and_order(signs: list[int], reach: float) -> None:
    differences = np.array(signs, dtype=np.float64) * reach
    found = float(log_e_of_bets(differences, reach))
    assert found == pytest.approx(float(log_e_of_signs(signs.count(1), signs.count(-1))), abs=1e-8)
    assert float(log_e_of_bets(differences[::-1], reach)) == pytest.approx(found, abs=1e-9)


def test_far_more_losses_than_wins_are_no_evidence_however_many() -> None:
    found = log_e_of_signs([0, 3, 10], [5_000, 100_000, 2_000])
    assert np.isfinite(found).all()
    assert (found < -5).all()
    assert (log_e_of_signs([5_000, 100_000], [0, 3]) > 3_000).all()


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_true_hypothesis_of_signs_is_ever_rejected_at_most_at_the_rate(share: float) -> None:
    wins = np.random.default_rng(1).random((5_000, 300)) < share
    won = wins.cumsum(axis=1)
    ever = rejects(log_e_of_signs(won, np.arange(1, 301) - won), 0.05).any(axis=1)
    assert ever.mean() < 0.05
    # Looking after each item at a fixed-sample test would reject a third of the true hypotheses of one half.
    fixed = (2 * won - np.arange(1, 301)) / np.sqrt(np.arange(1, 301)) > 1.645
    assert share < 0.5 or fixed[:, 9:].any(axis=1).mean() > 0.2


@pytest.mark.slow
def test_a_true_hypothesis_about_scores_between_zero_and_one_is_ever_rejected_at_most_at_the_rate() -> None:
    generator = np.random.default_rng(2)
    shape = (2_000, 90)
    differences = generator.beta(0.5, 1.5, shape) - generator.beta(0.5, 1.5, shape)
    ever = np.zeros(shape[0], dtype=bool)
    for items in range(1, shape[1] + 1, 3):
        ever |= rejects(log_e_of_bets(differences[:, :items], 1.0), 0.05)
    assert 0.001 < ever.mean() < 0.05


@pytest.mark.slow
def test_items_drawn_without_replacement_reject_at_most_at_the_rate_and_are_certain_in_the_end() -> None:
    generator = np.random.default_rng(3)
    balanced = np.repeat([-1.0, 0.0, 1.0], [20, 60, 20])
    orders = generator.permuted(np.tile(balanced, (2_000, 1)), axis=1)
    ever = np.zeros(len(orders), dtype=bool)
    for items in range(1, 101, 3):
        ever |= rejects(log_e_of_bets(orders[:, :items], 1.0, population=100), 0.05)
    assert ever.mean() < 0.05
    better = generator.permutation(np.repeat([-1.0, 0.0, 1.0], [3, 91, 6]))
    assert float(log_e_of_bets(better, 1.0, population=100)) == np.inf
    assert np.isfinite(log_e_of_bets(better, 1.0))


def test_a_population_makes_the_evidence_stronger_as_it_is_used_up() -> None:
    better = np.random.default_rng(4).permutation(np.repeat([-1.0, 0.0, 1.0], [8, 70, 22]))
    assert log_e_of_bets(better[:90], 1.0, population=100) > log_e_of_bets(better[:90], 1.0)
    assert log_e_of_bets(better[:90], 1.0, population=10**9) == pytest.approx(float(log_e_of_bets(better[:90], 1.0)))


def test_a_real_difference_is_found_after_as_many_items_as_it_needs() -> None:
    generator = np.random.default_rng(5)
    draws = generator.choice([-1.0, 0.0, 1.0], size=(2_000, 500), p=[0.03, 0.84, 0.13])
    won, lost = (draws > 0).cumsum(axis=1), (draws < 0).cumsum(axis=1)
    found = rejects(log_e_of_signs(won, lost), 0.05)
    assert found.any(axis=1).mean() > 0.95
    assert np.median(found.argmax(axis=1)[found.any(axis=1)]) < 150


def test_more_tests_share_one_rate() -> None:
    assert rejects(log(1 / 0.05), 0.05)
    assert not rejects(log(1 / 0.05), 0.05, tests=2)
    assert rejects(log(2 / 0.05), 0.05, tests=2)


def test_no_item_is_no_evidence_and_many_pairs_are_tested_at_once() -> None:
    assert float(log_e_of_bets(np.empty(0), 1.0)) == pytest.approx(0.0, abs=1e-12)
    rivals = np.random.default_rng(6).choice([-1.0, 0.0, 1.0], size=(4, 3, 20))
    found = log_e_of_bets(rivals, 1.0)
    assert found.shape == (4, 3)
    assert found[2, 1] == pytest.approx(float(log_e_of_bets(rivals[2, 1], 1.0)))


@pytest.mark.parametrize("wrong", [np.array([0.2, 1.5]), np.array([np.nan])])
def test_differences_beyond_the_reach_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="reach"):
        log_e_of_bets(wrong, 1.0)
    with pytest.raises(ValueError, match="population of 3"):
        log_e_of_bets(np.zeros(4), 1.0, population=3)
