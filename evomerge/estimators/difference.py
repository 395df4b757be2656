"""Control variates: a model's difference to what models that answered everything lead one to expect.

The mean of the answered items, plus what the other items promise beyond them: a regression of the model's scores on
scores that are known for all items, with coefficients shrunk to what they are for those models. So is that of a
covariate, which each model has of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.errors import EstimatorError
from evomerge.estimators.base import (
    TYPICAL_ITEMS,
    Estimate,
    Responses,
    Scores,
    complete_rows,
    error_of_mean,
    typical_variance,
    with_defaults,
)

LEAST_MODELS = 8
"""Complete models with a covariate, from which its coefficient is learned; from fewer it isn't known beforehand."""


class Difference:
    """Regression on the mean of complete models, on the ways in which these differ most, and on a covariate.

    Options: `models` that must have answered every item (default 3), and `components`, ways in which they differ
    (default 2). A covariate is used for a model of which it is known on every item.
    """

    uses_covariates = True
    """Whether covariates are looked at."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = with_defaults(options, {"models": 3, "components": 2})
        self._models, self._components = int(found["models"]), int(found["components"])

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        """The regression's mean over all items, and its error by what it misses on each answered item left out."""
        scores, covariates = responses.scores, responses.covariates
        complete = complete_rows(scores)
        if len(complete) < self._models:
            raise EstimatorError(
                f"difference needs {self._models} models that answered every item, and has {len(complete)}"
            )
        features, expected, spread = _features(scores[complete], self._components)
        typical = typical_variance(scores)
        # Without others to learn from, as much spread as a model's own scores have.
        helped = np.append(expected, 0.0), np.append(spread, np.sqrt(typical))
        if covariates is not None:
            helped = _learned(scores, features, covariates, complete) or helped
        values, errors = [], []
        for row in rows:
            own = None if covariates is None else _standardised(covariates[row])
            if own is None:
                value, error = _regress(scores[row], features, expected, spread, typical)
            else:
                value, error = _regress(scores[row], np.column_stack([features, own]), *helped, typical)
            values.append(value)
            errors.append(error)
        return Estimate(np.array(values, dtype=np.float64), np.array(errors, dtype=np.float64))


def _standardised(covariate: Scores) -> Scores | None:
    """A model's covariate with mean 0 and variance 1 over the items; None if it isn't known of all, or says nothing."""
    if not np.isfinite(covariate).all() or np.ptp(covariate) == 0:
        return None
    return np.asarray((covariate - covariate.mean()) / covariate.std())


def _learned(
    scores: Scores, features: Scores, covariates: Scores, complete: Sequence[int]
) -> tuple[Scores, Scores] | None:
    """Prior means and standard deviations of all coefficients, (k + 1,), the covariate's last: those that complete
    models have; None with too few of them.
    """
    found = []
    for row in complete:
        if (own := _standardised(covariates[row])) is not None:
            design = np.column_stack([features, own])
            found.append(np.linalg.lstsq(design, scores[row] - scores[row].mean(), rcond=None)[0])
    if len(found) < LEAST_MODELS:
        return None
    coefficients = np.array(found)
    return coefficients.mean(axis=0), coefficients.std(axis=0)


def _features(complete: Scores, components: int) -> tuple[Scores, Scores, Scores]:
    """What is known of all items, (items, k), centred; and coefficients' prior means and standard deviations, (k,)."""
    models = len(complete)
    shared = complete.mean(axis=0)
    centred = complete - complete.mean(axis=1, keepdims=True)
    difficulty = shared - shared.mean()
    weight = float(difficulty @ difficulty)
    # How much each model goes with the mean of the others, of which the mean of all is a bit too fond.
    slopes = np.array([_slope(row, (difficulty * models - row) / (models - 1)) for row in centred])
    columns, prior, spread = [difficulty], [float(slopes.mean())], [float(max(slopes.std(), 0.1))]
    if weight > 0:
        residuals = centred - np.outer(centred @ difficulty / weight, difficulty)
        _, values, right = np.linalg.svd(residuals, full_matrices=False)
        for value, direction in zip(values[:components], right[:components], strict=True):
            if value > 1e-9:
                columns.append(direction * np.sqrt(len(direction)))
                prior.append(0.0)
                spread.append(float(value / np.sqrt(models * len(direction))))
    return np.column_stack(columns), np.array(prior), np.array(spread)


def _slope(row: Scores, other: Scores) -> float:
    weight = float(other @ other)
    return float(row @ other) / weight if weight > 0 else 0.0


def _regress(scores: Scores, features: Scores, prior: Scores, spread: Scores, typical: float) -> tuple[float, float]:
    """A model's mean over all items, and its standard error, by a ridge regression with a free intercept."""
    seen = np.isfinite(scores)
    count, items = int(seen.sum()), len(scores)
    y, x = scores[seen], features[seen]
    noise = max(typical, 1e-12)
    middle = x.mean(axis=0)
    inner = x - middle
    precision = inner.T @ inner / noise + np.diag(np.maximum(spread, 1e-6) ** -2.0)
    covariance = np.linalg.inv(precision)
    coefficients = prior + covariance @ (inner.T @ (y - y.mean() - inner @ prior)) / noise
    value = float(y.mean() + (features.mean(axis=0) - middle) @ coefficients)
    # What the regression says of an item that it wasn't fitted to.
    leverage = np.einsum("ik,kl,il->i", inner, covariance, inner) / noise + 1 / count
    missed = (y - y.mean() - inner @ coefficients) / np.maximum(1 - leverage, 0.1)
    explained = float(np.mean((features @ prior) ** 2))
    usual = max(typical - explained, typical / 4)
    variance = (float(missed @ missed) + TYPICAL_ITEMS * usual) / (count + TYPICAL_ITEMS)
    shift = features.mean(axis=0) - middle
    of_coefficients = float(shift @ covariance @ shift) if count < items else 0.0
    return value, float(np.hypot(error_of_mean(variance, count, items), np.sqrt(of_coefficients)))
