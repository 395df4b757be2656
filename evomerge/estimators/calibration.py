"""Whether an estimator is to be trusted: predicted against seen, on models that answered everything.

Answers of these models are hidden as those of others are missing, estimated and compared. Knows scores only. Covariates
are believed only where estimates with them miss by no more than without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EstimatorError
from evomerge.estimators.base import Estimate, Estimator, Responses, Scores, complete_rows, uses_covariates
from evomerge.estimators.folds import held_out, patterns
from evomerge.estimators.mean import Mean

FEWEST_MODELS = 8
"""Complete models, endpoints aside, that a verdict needs."""
LOWEST_COVERAGE = 0.8
"""Share of 95% intervals that hold the truth, below which errors aren't believed."""
_PATTERNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How estimates compare with what was seen. In the units of the scores; NaN where there was nothing to compare."""

    models: int
    """Models that answered everything and were estimated from some of it."""
    items: float
    """How many items they were estimated from, on average."""
    bias: float
    """Mean of estimated minus seen."""
    rmse: float
    """Root of the mean squared difference."""
    rmse_of_mean: float
    """That of the plain mean of the same answers."""
    coverage: float
    """Share of estimates whose 95% interval holds what was seen."""
    tau: float
    """Kendall's rank correlation of estimated and seen."""
    doubt: str | None
    """Why the estimator isn't to be trusted; None if it is."""

    @property
    def trusted(self) -> bool:
        """Whether a search may go by the estimates."""
        return self.doubt is None

    def to_data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


class Trusted(NamedTuple):
    """Estimates with the name of the estimator that made them, and why no earlier one did."""

    estimate: Estimate
    name: str
    reasons: dict[str, str]
    calibration: Calibration | None
    """Of the estimator asked for first; None where it can't estimate."""


def calibration(estimator: Estimator, responses: Responses, rows: Sequence[int]) -> Calibration:
    """Hide answers of complete models as these rows lack them, estimate, and compare.

    Args:
        estimator: to be judged.
        responses: of these models and others.
        rows: models that lack answers. Where they lack them in many ways, the commonest ones are tried.

    Raises: EstimatorError as the estimator does.
    """
    scores = responses.scores
    answered, which = patterns(scores, [row for row in rows if not np.isfinite(scores[row]).all()])
    common = np.argsort(-np.bincount(which, minlength=len(answered)), kind="stable")[:_PATTERNS]
    return judged(estimator, responses, answered[common])


def judged(estimator: Estimator, responses: Responses, answered: NDArray[np.bool_]) -> Calibration:
    """Hide answers of complete models so that some items are left, estimate, and compare.

    Args:
        estimator: to be judged. One that uses the covariates that there are is also compared with itself without.
        responses: of these models and others.
        answered: items that are left each time, (times, items).

    Raises: EstimatorError as the estimator does.
    """
    found = _judged(estimator, responses, answered)
    if found.doubt is None and responses.covariates is not None and uses_covariates(estimator):
        without = _judged(estimator, replace(responses, covariates=None), answered)
        if found.rmse > without.rmse + 1e-12:
            doubt = (
                f"it missed by {found.rmse:.4f} with the covariate on models that answered every item, and by "
                f"{without.rmse:.4f} without"
            )
            return replace(found, doubt=doubt)
    return found


def _judged(estimator: Estimator, responses: Responses, answered: NDArray[np.bool_]) -> Calibration:
    """As `judged`, by comparison with the plain mean only."""
    scores = responses.scores
    known = set(complete_rows(scores)) - set(responses.endpoints)
    tried = _Tried([], [], [], [])
    taus: list[float] = []
    if len(known) >= FEWEST_MODELS:
        for seen in answered:
            pattern = _Tried([], [], [], [])
            for held, out in held_out(responses, seen):
                found = estimator.estimate(held, out)
                pattern.values.extend(found.values)
                pattern.errors.extend(found.errors)
                pattern.means.extend(Mean({}).estimate(held, out).values)
                pattern.truths.extend(scores[out].mean(axis=1))
            taus.append(_tau(np.array(pattern.values), np.array(pattern.truths)))
            for whole, part in zip(tried, pattern, strict=True):
                whole.extend(part)
    if not tried.values:
        doubt = (
            f"only {len(known)} models beside those that are merged have answered every item, and a comparison needs "
            f"{FEWEST_MODELS}"
            if len(known) < FEWEST_MODELS
            else "no model lacks answers"
        )
        nan = float("nan")
        return Calibration(
            models=0, items=nan, bias=nan, rmse=nan, rmse_of_mean=nan, coverage=nan, tau=nan, doubt=doubt
        )
    values, errors, means, truths = (np.array(column) for column in tried)
    missed = values - truths
    coverage = float(np.mean(np.abs(missed) <= 1.96 * errors + 1e-12))
    rmse, plain = _rms(missed), _rms(means - truths)
    return Calibration(
        models=len(known),
        items=float(answered.sum(axis=1).mean()),
        bias=float(missed.mean()),
        rmse=rmse,
        rmse_of_mean=plain,
        coverage=coverage,
        tau=float(np.mean(taus)),
        doubt=_doubt(coverage, rmse, plain),
    )


def ways(estimators: Mapping[str, Estimator], responses: Responses) -> Iterator[tuple[str, Estimator, Responses]]:
    """Each estimator by name with what it goes by, in order; one that uses covariates comes again without them."""
    without = replace(responses, covariates=None)
    for name, estimator in estimators.items():
        if responses.covariates is not None and uses_covariates(estimator):
            yield name, estimator, responses
            yield f"{name} without covariate", estimator, without
        else:
            yield name, estimator, without


def trusted(estimators: Mapping[str, Estimator], responses: Responses, rows: Sequence[int]) -> Trusted:
    """The estimates of the first estimator that can estimate and is calibrated.

    Args:
        estimators: by name, in the order in which they are tried, with covariates and without; the last is believed
            without a comparison.
        responses: of the rows and others.
        rows: models wanted.

    Raises: EstimatorError if the last of them can't estimate either.
    """
    reasons: dict[str, str] = {}
    first: Calibration | None = None
    *compared, (last, plain, known) = ways(estimators, responses)
    for place, (name, estimator, given) in enumerate(compared):
        try:
            found = calibration(estimator, given, rows)
            first = found if place == 0 else first
            if found.doubt is None:
                return Trusted(estimator.estimate(given, rows), name, reasons, first)
            reasons[name] = found.doubt
        except EstimatorError as error:
            reasons[name] = str(error)
    return Trusted(plain.estimate(known, rows), last, reasons, first)


def _doubt(coverage: float, rmse: float, plain: float) -> str | None:
    if coverage < LOWEST_COVERAGE:
        return (
            f"only {coverage:.0%} of its 95% intervals held what was seen on models that answered every item "
            f"({LOWEST_COVERAGE:.0%} are asked for)"
        )
    if rmse > 1.05 * plain + 1e-12:
        return f"it missed by {rmse:.4f} on models that answered every item, and their plain mean by {plain:.4f}"
    return None


def _tau(values: Scores, truths: Scores) -> float:
    if np.ptp(values) == 0 or np.ptp(truths) == 0:
        return 0.0
    # Takes a second to load, which a search that estimates nothing needn't wait for.
    from scipy import stats

    return float(stats.kendalltau(values, truths).statistic)


def _rms(differences: Scores) -> float:
    return float(np.sqrt(np.mean(differences**2)))


class _Tried(NamedTuple):
    """Of models held out: estimates and their errors, plain means, and what was seen."""

    values: list[float]
    errors: list[float]
    means: list[float]
    truths: list[float]
