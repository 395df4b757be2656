"""Item response theory against general-purpose optimisers, simulations, and the parameters that made the responses."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import optimize, special, stats

from evomerge.estimate.irt import ItemBank, abilities_of, expected_sums, fit, information, merged_abilities_of


def responses(models: int, items: int, seed: int, dimensions: int = 1) -> tuple[np.ndarray, ...]:
    """Scores, expected scores, abilities, slopes and difficulties."""
    generator = np.random.default_rng(seed)
    abilities = generator.normal(size=(models, dimensions))
    slopes = generator.normal(0, 0.5, (items, dimensions))
    slopes[:, 0] = np.exp(generator.normal(0, 0.3, items))
    difficulties = generator.normal(0, 1.2, items)
    expected = special.expit(abilities @ slopes.T - difficulties)
    scores = (generator.random(expected.shape) < expected).astype(np.float64)
    return scores, expected, abilities, slopes, difficulties


def bank(items: int = 40, dimensions: int = 2) -> ItemBank:
    _, _, _, slopes, difficulties = responses(5, items, 1, dimensions)
    return ItemBank(
        slopes=slopes,
        difficulties=difficulties,
        covariances=np.tile(0.05 * np.eye(dimensions + 1), (items, 1, 1)),
        spread=np.array([1.0, 0.7][:dimensions]),
        abilities=np.zeros((1, dimensions)),
        dispersion=1.0,
    )


def test_a_fit_finds_the_abilities_and_items_that_made_the_responses() -> None:
    scores, expected, abilities, slopes, difficulties = responses(400, 150, 0)
    found = fit(scores)
    assert stats.pearsonr(found.abilities[:, 0], abilities[:, 0])[0] > 0.95
    assert stats.pearsonr(found.difficulties, difficulties)[0] > 0.98
    assert stats.pearsonr(found.slopes[:, 0], slopes[:, 0])[0] > 0.75
    fitted = special.expit(found.abilities @ found.slopes.T - found.difficulties)
    assert np.sqrt(np.mean((fitted - expected) ** 2)) < 0.05
    assert found.dispersion == pytest.approx(1.0, abs=0.05)


def test_a_second_dimension_is_found_where_there_is_one_and_left_empty_where_there_is_none() -> None:
    scores, expected, *_ = responses(300, 200, 1, dimensions=2)
    off = []
    for dimensions in (1, 2):
        found = fit(scores, dimensions=dimensions)
        fitted = special.expit(found.abilities @ found.slopes.T - found.difficulties)
        off.append(np.sqrt(np.mean((fitted - expected) ** 2)))
    assert off[1] < 0.75 * off[0]


def test_missing_answers_are_left_out_and_cost_little() -> None:
    scores, expected, *_ = responses(300, 150, 2)
    generator = np.random.default_rng(0)
    scores[generator.random(scores.shape) < 0.5] = np.nan
    found = fit(scores)
    fitted = special.expit(found.abilities @ found.slopes.T - found.difficulties)
    assert np.sqrt(np.mean((fitted - expected) ** 2)) < 0.07


def test_an_ability_is_where_a_general_optimiser_finds_the_highest_posterior() -> None:
    items = bank()
    scores = responses(6, 40, 3, 2)[0]
    scores[0] = 1.0
    scores[1, 10:] = np.nan
    scores[2] = 0.3
    found = abilities_of(items, scores)

    def unlikely(theta: np.ndarray, row: np.ndarray) -> float:
        logits = items.slopes @ theta - items.difficulties
        terms = row * special.log_expit(logits) + (1 - row) * special.log_expit(-logits)
        return float(-np.nansum(terms) + np.sum((theta / items.spread) ** 2) / 2)

    for row, theta in zip(scores, found.values, strict=True):
        best = optimize.minimize(unlikely, np.zeros(2), args=(row,), tol=1e-10).x
        assert theta == pytest.approx(best, abs=1e-3)


def test_a_merged_ability_is_the_ridge_regression_of_a_general_optimiser() -> None:
    items = bank()
    endpoints = np.array([[0.5, -0.2], [-0.4, 0.9], [1.2, 0.1]])
    row = responses(1, 40, 4, 2)[0]
    found = merged_abilities_of(items, row, endpoints)

    def unlikely(shares: np.ndarray) -> float:
        logits = items.slopes @ (shares @ endpoints) - items.difficulties
        terms = row[0] * special.log_expit(logits) + (1 - row[0]) * special.log_expit(-logits)
        return float(-terms.sum() + np.sum((shares - 1 / 3) ** 2) / 2)

    best = optimize.minimize(unlikely, np.full(3, 1 / 3), tol=1e-10).x
    assert found.values[0] == pytest.approx(best @ endpoints, abs=1e-3)


def test_a_merge_that_answered_nothing_has_the_mean_of_its_endpoints() -> None:
    endpoints = np.array([[0.5, -0.2], [-0.4, 0.9]])
    found = merged_abilities_of(bank(), np.full((1, 40), np.nan), endpoints)
    assert found.values[0] == pytest.approx(endpoints.mean(axis=0))


def test_the_error_of_a_sum_is_what_simulated_abilities_items_and_answers_give() -> None:
    items = bank()
    found = abilities_of(items, responses(1, 40, 5, 2)[0])
    counted = np.where(np.arange(40) < 30, 1.0, 0.0)[np.newaxis]
    stated = expected_sums(items, found, counted)
    generator = np.random.default_rng(0)
    draws = 4_000
    theta = generator.multivariate_normal(found.values[0], found.covariances[0], draws)
    moved = generator.multivariate_normal(np.zeros(3), 0.05 * np.eye(3), (draws, 40))
    logits = np.einsum("id,rd->ri", items.slopes, theta) + np.einsum("rid,rd->ri", moved[..., :2], theta)
    shares = special.expit(logits - items.difficulties + moved[..., 2])
    sums = (generator.random(shares.shape) < shares)[:, :30].sum(axis=1)
    assert stated.values[0] == pytest.approx(sums.mean(), rel=0.03)
    assert stated.errors[0] == pytest.approx(sums.std(), rel=0.1)


def test_information_is_the_mean_squared_slope_of_an_items_curve_over_its_variance() -> None:
    items, abilities = bank(dimensions=1), np.array([[-0.5], [0.8]])
    step = 1e-5

    def curve(at: np.ndarray) -> np.ndarray:
        return special.expit(at @ items.slopes.T - items.difficulties)

    slope = (curve(abilities + step) - curve(abilities - step)) / (2 * step)
    expected = (slope**2 / (curve(abilities) * (1 - curve(abilities)))).mean(axis=0)
    assert information(items, abilities) == pytest.approx(expected, rel=1e-6)


def test_a_fit_is_the_same_again_and_does_not_depend_on_the_order_of_models_and_items() -> None:
    scores = responses(60, 50, 6, 2)[0]
    found, again = fit(scores, dimensions=2), fit(scores.copy(), dimensions=2)
    assert np.array_equal(found.abilities, again.abilities)
    generator = np.random.default_rng(0)
    models, items = generator.permutation(60), generator.permutation(50)
    turned = fit(scores[models][:, items], dimensions=2)
    assert turned.abilities == pytest.approx(found.abilities[models], abs=1e-6)
    assert turned.difficulties == pytest.approx(found.difficulties[items], abs=1e-6)


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_responses_that_are_all_alike_are_fitted_without_infinities(same: float) -> None:
    found = fit(np.full((5, 8), same))
    assert np.isfinite(found.abilities).all()
    assert np.isfinite(found.difficulties).all()
    assert np.isfinite(found.dispersion)


@pytest.mark.parametrize("wrong", [np.array([[0.5, 1.5]]), np.array([[-0.1]]), np.full((2, 2), np.nan)])
def test_scores_beyond_zero_and_one_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="scores from 0 to 1"):
        fit(wrong)


@pytest.mark.slow
def test_a_thousand_models_and_two_thousand_items_take_seconds() -> None:
    scores = responses(1_000, 2_000, 7, 2)[0]
    start = time.process_time()
    fit(scores, dimensions=2)
    assert time.process_time() - start < 30
