"""The seam of estimators: scores of some items in, expected means over all items out.

An estimator knows arrays only: no recipes, trials or files. It is deterministic and remembers nothing, so that a search
which was interrupted is told what one that wasn't is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.options import SHARE
from evomerge.options import with_defaults as options_or_defaults

Scores = NDArray[np.float64]

TYPICAL_ITEMS = 2
"""How many items the spread of other models' scores counts for in a model's own."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Responses:
    """What models answered so far."""

    scores: Scores
    """(models, items), higher being better; NaN where a model hasn't answered an item. A row's mean is its score."""
    covariates: Scores | None = None
    """A number that says something about an item's score, such as the probability that the model gives to the reference
    answer: of the same shape, NaN where unknown. Useful where it is known of items that weren't answered."""
    endpoints: tuple[int, ...] = ()
    """Rows of the models that the others are merges of."""

    def of(self, rows: Sequence[int], scores: Scores | None = None) -> Responses:
        """The same of some models, in this order and with other scores if given; others are no endpoints any more."""
        taken = list(rows)
        places = {row: place for place, row in enumerate(taken)}
        return Responses(
            scores=(self.scores if scores is None else scores)[taken],
            covariates=None if self.covariates is None else self.covariates[taken],
            endpoints=tuple(places[row] for row in self.endpoints if row in places),
        )


class Estimate(NamedTuple):
    """Expected mean scores over all items, (rows,), and the standard error of each."""

    values: Scores
    errors: Scores


class Estimator(Protocol):
    """Estimates what a model would score on all items from those that it answered.

    Built with its options by name. Raises: ConfigError for options that it doesn't have, or can't use. A class that
    makes use of covariates says so by `uses_covariates = True`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None: ...

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        """Estimate the means of some models over all items.

        Args:
            responses: of these models and others, on the same items.
            rows: the models wanted, each with an answer at least. One that answered every item has its mean, and an
                error of 0.

        Raises: EstimatorError if too few models or items have answered for an estimate; the message says how many are
            needed.
        """


def uses_covariates(estimator: Estimator | type[Estimator]) -> bool:
    """Whether an estimator makes use of covariates."""
    return bool(getattr(estimator, "uses_covariates", False))


def complete_rows(scores: Scores) -> list[int]:
    """Models that answered every item."""
    return [int(row) for row in np.flatnonzero(np.isfinite(scores).all(axis=1))]


def typical_variance(scores: Scores) -> float:
    """Mean variance of a model's scores over items, of models that answered two or more."""
    counts = np.isfinite(scores).sum(axis=1)
    several = scores[counts > 1]
    return float(np.nanvar(several, axis=1, ddof=1).mean()) if len(several) else 0.0


def error_of_mean(variance: float, seen: int, items: int) -> float:
    """Standard error of a mean of items drawn without replacement, by their variance."""
    return float(np.sqrt(variance * (1 / seen - 1 / items)))


def with_defaults(options: Mapping[str, Any], defaults: Mapping[str, float | None]) -> dict[str, Any]:
    """An estimator's options, those not given at their defaults.

    A default that is a whole number stands for options of 1 or more, any other for a number from 0 to 1.

    Raises: ConfigError for a name that isn't among the defaults, or another value.
    """
    return options_or_defaults("search.estimator_options", options, defaults, others=SHARE)
