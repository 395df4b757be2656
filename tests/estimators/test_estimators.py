"""Estimates against formulas of sampling and regression, and what each estimator gains where it should."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError, EstimatorError
from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import Responses
from evomerge.estimators.units import units_of
from evomerge.testing.estimator_laws import drawn, simulated

ROWS = range(18, 36)


def misses(name: str, seeds: int = 10, **options: Any) -> float:
    """Root mean squared error over simulated responses."""
    found = []
    for seed in range(100, 100 + seeds):
        responses, truths = simulated(seed)
        found.append(ESTIMATORS.get(name)(options).estimate(responses, ROWS).values - truths[18:])
    return float(np.sqrt(np.mean(np.concatenate(found) ** 2)))


@pytest.mark.parametrize("name", ["difference", "p_irt", "gp_irt", "gmp_irt"])
def test_knowing_the_items_misses_by_less_than_the_plain_mean(name: str) -> None:
    assert misses(name) < 0.96 * misses("mean")


def test_the_plain_mean_has_the_error_of_a_sample_without_replacement() -> None:
    scores = np.full((1, 50), np.nan)
    scores[0, :20] = [1.0] * 12 + [0.0] * 8
    found = ESTIMATORS.get("mean")({}).estimate(Responses(scores=scores), [0])
    variance = 20 * 0.6 * 0.4 / 19
    # The model's own variance is also what is typical, and counts twice more.
    expected = (19 * variance + 2 * variance) / 21
    assert found.values[0] == pytest.approx(0.6)
    assert found.errors[0] == pytest.approx(np.sqrt(expected * (1 / 20 - 1 / 50)))


def test_a_model_that_is_another_moved_by_a_constant_is_known_from_a_few_items() -> None:
    generator = np.random.default_rng(0)
    items = generator.normal(size=200)
    complete = items + generator.normal(size=(6, 200)) * 0.01 + generator.normal(size=(6, 1))
    scores = np.vstack([complete, np.full(200, np.nan)])
    seen = generator.permutation(200)[:20]
    scores[-1, seen] = items[seen] + 3.0
    found = ESTIMATORS.get("difference")({}).estimate(Responses(scores=scores), [6])
    assert found.values[0] == pytest.approx(items.mean() + 3.0, abs=0.02)
    assert found.errors[0] < 0.2
    plain = ESTIMATORS.get("mean")({}).estimate(Responses(scores=scores), [6])
    assert plain.errors[0] > 2 * found.errors[0] or abs(plain.values[0] - items.mean() - 3) > 0.05


def test_a_covariate_that_is_known_of_all_items_makes_up_for_those_not_answered() -> None:
    gains = []
    for seed in range(12):
        responses, truths = simulated(seed)
        generator = np.random.default_rng(seed)
        everything = drawn(np.random.default_rng(seed))
        covariates = 0.6 * everything + 0.4 * generator.random(everything.shape)
        helped = Responses(scores=responses.scores, covariates=covariates, endpoints=responses.endpoints)
        estimator = ESTIMATORS.get("difference")({})
        with_it = estimator.estimate(helped, ROWS).values - truths[18:]
        without = estimator.estimate(responses, ROWS).values - truths[18:]
        gains.append(np.mean(with_it**2) / np.mean(without**2))
    assert np.median(gains) < 0.5


def test_a_covariate_alone_is_the_regression_of_textbooks_shrunk_by_one_observation() -> None:
    """Where complete models differ in nothing but level: mean + b · (difference of the covariate's means)."""
    generator = np.random.default_rng(3)
    covariate = generator.normal(2.0, 5.0, 40)
    seen = generator.permutation(40)[:12]
    scores, covariates = np.full((4, 40), np.nan), np.full((4, 40), np.nan)
    scores[:3] = [[0.2], [0.5], [0.8]]
    scores[3, seen] = generator.integers(0, 2, 12)
    covariates[3] = covariate
    found = ESTIMATORS.get("difference")({}).estimate(Responses(scores=scores, covariates=covariates), [3])
    x = (covariate - covariate.mean()) / covariate.std()
    inner, y = x[seen] - x[seen].mean(), scores[3, seen]
    slope = (inner @ (y - y.mean())) / (inner @ inner + 1)
    assert found.values[0] == pytest.approx(y.mean() - slope * x[seen].mean(), abs=1e-9)


def test_what_a_covariate_is_worth_is_learned_from_complete_models() -> None:
    generator = np.random.default_rng(4)
    covariates = generator.normal(size=(11, 60))
    x = (covariates - covariates.mean(axis=1, keepdims=True)) / covariates.std(axis=1, keepdims=True)
    truths = generator.random((11, 1)) + 0.3 * x
    scores = truths.copy()
    scores[10, 3:] = np.nan
    helped = Responses(scores=scores, covariates=covariates)
    found = ESTIMATORS.get("difference")({}).estimate(helped, [10])
    assert found.values[0] == pytest.approx(truths[10].mean(), abs=1e-6)
    without = ESTIMATORS.get("difference")({}).estimate(Responses(scores=scores), [10])
    assert abs(without.values[0] - truths[10].mean()) > 0.05


def test_a_model_whose_covariate_is_unknown_somewhere_is_estimated_without_it() -> None:
    responses, _ = simulated(2)
    covariates = np.random.default_rng(2).random(responses.scores.shape)
    covariates[20, 7] = np.nan
    helped = Responses(scores=responses.scores, covariates=covariates, endpoints=responses.endpoints)
    with_it, without = (ESTIMATORS.get("difference")({}).estimate(one, [19, 20]) for one in (helped, responses))
    assert with_it.values[0] != without.values[0]
    assert with_it.values[1] == without.values[1]


def test_a_weight_of_one_is_the_plain_mean_and_none_is_p_irt() -> None:
    responses, _ = simulated(0)
    values = {
        (name, *options.values()): ESTIMATORS.get(name)(options).estimate(responses, ROWS).values
        for name, options in [("mean", {}), ("p_irt", {}), ("gp_irt", {"weight": 1.0}), ("gp_irt", {"weight": 0.0})]
    }
    assert np.allclose(values["gp_irt", 1.0], values["mean",], atol=1e-12)
    assert np.allclose(values["gp_irt", 0.0], values["p_irt",], atol=1e-12)


def test_two_tasks_of_unequal_weight_keep_their_shares_in_what_is_expected() -> None:
    responses, _ = simulated(1)
    weights = np.where(np.arange(90) < 45, 1.5, 0.5)
    whole = drawn(np.random.default_rng(1)) * weights
    weighted = Responses(scores=responses.scores * weights, endpoints=responses.endpoints)
    found = ESTIMATORS.get("p_irt")({}).estimate(weighted, ROWS)
    assert np.mean(np.abs(found.values - whole.mean(axis=1)[18:]) < 2 * found.errors) > 0.8


def test_scores_that_are_better_the_nearer_they_are_to_zero_are_shares_as_well() -> None:
    units = units_of(np.array([[-2.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))
    assert units.shares(np.array([[-2.0, 0.0, -0.5]])).tolist() == [[0.0, 1.0, 0.5]]
    assert units_of(np.array([[0.0, 0.5], [0.0, np.nan]])).shares(np.array([[0.0, 0.5]])).tolist() == [[0.0, 1.0]]


def test_too_few_complete_models_are_counted_in_the_refusal() -> None:
    responses, _ = simulated(0)
    few = responses.of([0, 1, *ROWS])
    with pytest.raises(EstimatorError, match="gp_irt needs 8 models that answered every item, and has 2"):
        ESTIMATORS.get("gp_irt")({}).estimate(few, range(2, 20))
    with pytest.raises(EstimatorError, match="difference needs 3 models that answered every item, and has 2"):
        ESTIMATORS.get("difference")({}).estimate(few, range(2, 20))
    alone = Responses(scores=responses.scores, endpoints=(0,))
    with pytest.raises(EstimatorError, match="mp_irt needs the scores of two models or more that"):
        ESTIMATORS.get("mp_irt")({}).estimate(alone, ROWS)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gp_irt", {"weight": 1.5}, "weight: a number from 0 to 1"),
        ("p_irt", {"dimensions": 0}, "dimensions: a whole number of 1 or more"),
        ("p_irt", {"weight": 0.5}, "unknown option 'weight'"),
        ("difference", {"components": True}, "components: a whole number"),
        ("difference", {"models": math.inf}, "models: a whole number of 1 or more"),
        ("gp_irt", {"weight": math.nan}, "weight: a number from 0 to 1"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ESTIMATORS.get(name)(options)
