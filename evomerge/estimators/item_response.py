"""Item response theory: what a model's ability says of the items that it hasn't answered.

The performance estimators of tinyBenchmarks (Polo et al. 2024, arXiv 2402.14992: p-IRT and gp-IRT) and of MERGE3
(Mencattini et al. 2025, arXiv 2502.10436: mp-IRT and gmp-IRT), with items and abilities fitted from the responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EstimatorError
from evomerge.estimate.irt import Abilities, ItemBank, abilities_of, expected_sums, fit, merged_abilities_of
from evomerge.estimators.base import (
    Estimate,
    Responses,
    Scores,
    complete_rows,
    error_of_mean,
    typical_variance,
    with_defaults,
)
from evomerge.estimators.folds import held_out, patterns
from evomerge.estimators.units import units_of

_PRIOR_MODELS = 4
"""How many models held out, with errors as stated, the stated error itself counts for."""


class PIrt:
    """p-IRT: the answers seen, and for the others what is expected of the model's ability.

    Options: `dimensions` of ability (default 1), and `models` that must have answered every item (default 8), endpoints
    among them. Standard errors are scaled by what was missed on complete models held out with as many answers.
    """

    merged = False
    """Whether ability is a sum of the endpoints'."""
    blended = False
    """Whether the mean of the answers seen has a weight of its own."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        blend: dict[str, float | None] = {"weight": None} if self.blended else {}
        found = with_defaults(options, {"dimensions": 1, "models": 8, **blend})
        self._dimensions, self._models = int(found["dimensions"]), int(found["models"])
        self._weight: float | None = found.get("weight")

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        """The expected means; items and abilities are fitted to all of the responses."""
        scores, rows = responses.scores, list(rows)
        complete = len(complete_rows(scores))
        name = self._name()
        if complete < self._models:
            raise EstimatorError(f"{name} needs {self._models} models that answered every item, and has {complete}")
        if self.merged and len(responses.endpoints) < 2:
            raise EstimatorError(f"{name} needs the scores of two models or more that the others are merges of")
        answered, which = patterns(scores, rows)
        values = scores[rows].mean(axis=1)
        errors = np.zeros(len(rows))
        if answered.all():
            return Estimate(values, errors)
        expected = self._expected(responses, rows)
        typical = typical_variance(scores)
        for pattern, seen in enumerate(answered):
            places = np.flatnonzero(which == pattern)
            if seen.all():
                continue
            tried = self._tried(responses, seen)
            plain = error_of_mean(typical, int(seen.sum()), len(seen))
            weight = self._weight_of_mean(tried, plain)
            means = np.array([scores[rows[place], seen].mean() for place in places])
            values[places] = weight * means + (1 - weight) * expected.values[places]
            stated = weight * plain + (1 - weight) * expected.errors[places]
            missed = weight * tried.means + (1 - weight) * tried.values - tried.truths
            told = np.maximum(weight * plain + (1 - weight) * tried.errors, 1e-12)
            scale = (float(np.sum((missed / told) ** 2)) + _PRIOR_MODELS) / (missed.size + _PRIOR_MODELS)
            errors[places] = stated * np.sqrt(scale)
        return Estimate(values, errors)

    def _weight_of_mean(self, tried: _Tried, plain: float) -> float:
        """The heuristic of gp-IRT: the squared error of p-IRT, by that and the variance of the mean together."""
        if not self.blended:
            return 0.0
        if self._weight is not None:
            return self._weight
        squared = float(np.mean((tried.values - tried.truths) ** 2)) if tried.values.size else plain**2
        return squared / (squared + plain**2) if plain > 0 else 0.0

    def _tried(self, responses: Responses, seen: NDArray[np.bool_]) -> _Tried:
        """What would be estimated of complete models that had answered these items only."""
        parts = []
        for held, out in held_out(responses, seen):
            expected = self._expected(held, out)
            truths = responses.scores[out]
            parts.append(_Tried(expected.values, expected.errors, truths[:, seen].mean(axis=1), truths.mean(axis=1)))
        if not parts:
            return _Tried(np.empty(0), np.empty(0), np.empty(0), np.empty(0))
        return _Tried(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _expected(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        """p-IRT as it is, with errors by the delta method."""
        units, scores = units_of(responses.scores), responses.scores
        shares = units.shares(scores)
        bank = fit(shares, dimensions=self._dimensions)
        taken = scores[list(rows)]
        abilities = self._abilities(bank, shares, rows, responses.endpoints)
        items = taken.shape[1]
        unseen = np.isnan(taken)
        sums = expected_sums(bank, abilities, unseen * units.span)
        values = (np.where(unseen, units.low, taken).sum(axis=1) + sums.values) / items
        return Estimate(values, sums.errors / items)

    def _abilities(self, bank: ItemBank, shares: Scores, rows: Sequence[int], endpoints: Sequence[int]) -> Abilities:
        if not self.merged:
            return abilities_of(bank, shares[list(rows)])
        return merged_abilities_of(bank, shares[list(rows)], bank.abilities[list(endpoints)])

    def _name(self) -> str:
        return ("g" if self.blended else "") + ("m" if self.merged else "") + "p_irt"


class GpIrt(PIrt):
    """gp-IRT: p-IRT and the mean of the answers seen, weighted by the errors that both have on complete models.

    Options: those of p-IRT, and `weight` of the mean from 0 to 1 instead of the one from the data.
    """

    blended = True


class MpIrt(PIrt):
    """mp-IRT: p-IRT with an ability that is a weighted sum of those of the models that are merged."""

    merged = True


class GmpIrt(PIrt):
    """gmp-IRT: mp-IRT blended as gp-IRT is. MERGE3's own weight is 0.5."""

    merged = blended = True


class _Tried(NamedTuple):
    """Of complete models held out: estimates, their errors, means of the answers seen, and true means, (models,)."""

    values: Scores
    errors: Scores
    means: Scores
    truths: Scores
