"""When an estimator is trusted: not one that is wrong, too sure of itself, or worse than the plain mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from evomerge.errors import EstimatorError
from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import Estimate, Responses
from evomerge.estimators.calibration import calibration, trusted
from evomerge.estimators.difference import Difference
from evomerge.estimators.mean import Mean
from evomerge.testing.estimator_laws import drawn, simulated

ROWS = range(18, 36)


class Off:
    """The plain mean, moved and with errors scaled."""

    def __init__(self, by: float = 0.0, sureness: float = 1.0) -> None:
        self._by, self._sureness = by, sureness

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        found = Mean({}).estimate(responses, rows)
        return Estimate(found.values + self._by, found.errors / self._sureness)


class Unable:
    """Needs more than there is."""

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        raise EstimatorError("unable needs 99 models, and has 18")


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_estimator_is_calibrated_on_responses_of_its_own_kind_most_of_the_time(name: str) -> None:
    found = [calibration(ESTIMATORS.get(name)({}), simulated(seed)[0], ROWS) for seed in range(8)]
    assert sum(one.trusted for one in found) >= 5, [one.doubt for one in found]
    assert np.mean([one.coverage for one in found]) > 0.85
    assert abs(np.mean([one.bias for one in found])) < 0.02
    assert np.mean([one.tau for one in found]) > 0.4
    assert {one.models for one in found} == {15}
    assert {one.items for one in found} == {30.0}


def test_the_plain_mean_misses_what_the_formula_of_finite_samples_says() -> None:
    found = [calibration(Mean({}), simulated(seed)[0], ROWS) for seed in range(30)]
    expected = np.sqrt(0.25 * 0.85 * (1 / 30 - 1 / 90))
    assert np.sqrt(np.mean([one.rmse**2 for one in found])) == pytest.approx(expected, rel=0.2)
    assert all(one.rmse == one.rmse_of_mean for one in found)


def test_a_bias_is_seen_as_large_as_it_is_and_ends_the_trust() -> None:
    found = calibration(Off(by=0.3), simulated(0)[0], ROWS)
    unmoved = calibration(Off(), simulated(0)[0], ROWS)
    assert found.bias - unmoved.bias == pytest.approx(0.3)
    assert found.doubt is not None
    assert found.tau == pytest.approx(unmoved.tau)


def test_errors_stated_too_small_end_the_trust() -> None:
    found = calibration(Off(sureness=10), simulated(0)[0], ROWS)
    assert found.coverage < 0.5
    assert "95% intervals" in str(found.doubt)


def test_the_first_estimator_that_is_calibrated_is_used_and_the_others_have_reasons() -> None:
    responses, _ = simulated(0)
    found = trusted({"unable": Unable(), "off": Off(by=0.3), "mean": Mean({})}, responses, ROWS)
    assert found.name == "mean"
    assert set(found.reasons) == {"unable", "off"}
    assert found.reasons["unable"] == "unable needs 99 models, and has 18"
    assert np.array_equal(found.estimate.values, Mean({}).estimate(responses, ROWS).values)
    at_once = trusted({"off": Off(), "mean": Mean({})}, responses, ROWS)
    assert (at_once.name, at_once.reasons) == ("off", {})
    assert at_once.calibration is not None
    assert at_once.calibration.trusted


@pytest.mark.parametrize("seed", range(4))
def test_a_covariate_that_misleads_is_left_out_and_one_that_helps_is_used(seed: int) -> None:
    responses, _ = simulated(seed)
    everything, generator = drawn(np.random.default_rng(seed)), np.random.default_rng(seed)
    helping = 0.6 * everything + 0.4 * generator.random(everything.shape)
    # As it should be on the items that everyone answered, and the wrong way round on the others.
    misleading = np.where(np.isfinite(responses.scores[-1]), helping, 1 - helping)
    estimators = {"difference": Difference({}), "mean": Mean({})}
    told = {
        name: trusted(estimators, replace(responses, covariates=covariates), ROWS)
        for name, covariates in (("helping", helping), ("misleading", misleading), ("none", None))
    }
    assert (told["helping"].name, told["helping"].reasons) == ("difference", {})
    assert told["misleading"].name != "difference"
    assert set(told["misleading"].reasons) >= {"difference"}
    assert set(told["none"].reasons) <= {"difference"}
    assert np.array_equal(told["misleading"].estimate.values, told["none"].estimate.values)


def test_a_covariate_that_says_nothing_is_told_from_its_absence_by_what_is_missed() -> None:
    """It misses by less than the plain mean, so that nothing else speaks against it."""
    reasons = []
    for seed in range(8):
        responses, _ = simulated(seed)
        noise = np.random.default_rng(seed).random(responses.scores.shape)
        estimators = {"difference": Difference({}), "mean": Mean({})}
        found = trusted(estimators, replace(responses, covariates=noise), ROWS)
        reasons += [found.reasons[name] for name in found.reasons if found.name == "difference without covariate"]
    assert reasons
    for reason in reasons:
        said = re.fullmatch(r"it missed by (.+) with the covariate on models .+, and by (.+) without", reason)
        assert said is not None
        assert float(said[1]) >= float(said[2])


def test_with_too_few_complete_models_nothing_is_trusted_and_the_reason_counts_them() -> None:
    responses, _ = simulated(0)
    few = responses.of([*range(8), *ROWS])
    found = calibration(Mean({}), few, range(8, 26))
    assert "only 5 models" in str(found.doubt)
    assert found.models == 0
    assert np.isnan(found.rmse)


def test_without_missing_answers_there_is_nothing_to_judge() -> None:
    responses, _ = simulated(0)
    assert calibration(Mean({}), responses, range(10)).doubt == "no model lacks answers"
