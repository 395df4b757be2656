"""Item response theory: abilities of models and parameters of items, fitted from a table of scores.

The multidimensional two-parameter logistic model P(right) = sigma(a . theta - b), by maximum a posteriori with Newton's
method in turns over models and items. Knows arrays only. Deterministic, and needs no other responses than these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

_LARGEST_LOGIT = 30.0
_LARGEST_STEP = 1.5
_SLOPE_SD, _FURTHER_SLOPE_SD, _DIFFICULTY_SD = 0.5, 0.3, 2.0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ItemBank:
    """What a fit says of items, of the population of models, and of its own uncertainty.

    The first dimension is the one that all items share: its slopes lie around 1, those of the others around 0.
    """

    slopes: Array
    """How much each item asks of each dimension of ability, (items, dimensions)."""
    difficulties: Array
    """Logit at ability 0, negated, (items,)."""
    covariances: Array
    """Of each item's slopes and its negated difficulty, (items, dimensions + 1, dimensions + 1)."""
    spread: Array
    """Standard deviation of the models' abilities, (dimensions,)."""
    abilities: Array
    """Of the models that it was fitted to, (models, dimensions)."""
    dispersion: float
    """Variance of scores about what is expected, by that of right or wrong: about 1 for these, less for others."""


class Abilities(NamedTuple):
    """Abilities, (models, dimensions), and their covariances, (models, dimensions, dimensions)."""

    values: Array
    covariances: Array


class Expected(NamedTuple):
    """Expected sums of scores over some items, (models,), and their standard errors."""

    values: Array
    errors: Array


def fit(scores: Array, *, dimensions: int = 1, rounds: int = 60, tolerance: float = 1e-3) -> ItemBank:
    """Fit abilities and items in turns.

    Args:
        scores: from 0 to 1, (models, items); NaN where an item wasn't answered. One between is an expected share of
            right answers.
        dimensions: of ability, 1 or more. One that the responses don't show comes out with hardly any spread.
        rounds: turns at most.
        tolerance: it ends when expected scores move by less between two turns (root of the mean square).

    Raises: ValueError for scores beyond 0 and 1, or none at all.
    """
    seen = np.isfinite(scores)
    if not seen.any() or scores[seen].min() < 0 or scores[seen].max() > 1:
        raise ValueError("item response theory is fitted to scores from 0 to 1, at least one")
    known = np.where(seen, scores, 0.0)
    weights = seen.astype(np.float64)
    abilities, slopes, difficulties = _start(known, seen, dimensions)
    spread = np.maximum(abilities.std(axis=0), 0.1)
    expected = _expected(abilities, slopes, difficulties)
    prior_slopes = np.zeros(dimensions)
    prior_slopes[0] = 1.0
    precision = np.array([_SLOPE_SD, *[_FURTHER_SLOPE_SD] * (dimensions - 1), _DIFFICULTY_SD]) ** -2.0
    covariances = np.empty(0)
    for _ in range(rounds):
        found = _newton(abilities, slopes, -difficulties, known, weights, np.zeros(dimensions), 1 / spread**2)
        abilities = found.values - found.values.mean(axis=0)
        variance = np.diagonal(found.covariances, axis1=1, axis2=2)
        spread = np.sqrt(np.maximum(np.mean(abilities**2 + variance, axis=0), 1e-4))
        # Slopes and abilities of further dimensions would otherwise grow together to follow chance.
        spread[1:] = np.minimum(spread[1:], 1.0)
        parameters, covariances = _newton(
            np.column_stack([slopes, -difficulties]),
            np.column_stack([abilities, np.ones(len(abilities))]),
            np.zeros(len(abilities)),
            known.T,
            weights.T,
            np.append(prior_slopes, -difficulties.mean()),
            precision,
        )
        slopes, difficulties = parameters[:, :-1], -parameters[:, -1]
        before, expected = expected, _expected(abilities, slopes, difficulties)
        if np.sqrt(np.mean((expected - before) ** 2)) < tolerance:
            break
    residuals = np.sum(weights * (known - expected) ** 2)
    return ItemBank(
        slopes=slopes,
        difficulties=difficulties,
        covariances=covariances,
        spread=spread,
        abilities=abilities,
        # Items whose answers are all but certain say nothing of the dispersion, and are no division by zero.
        dispersion=float((residuals + 1e-3) / (np.sum(weights * expected * (1 - expected)) + 1e-3)),
    )


def abilities_of(bank: ItemBank, scores: Array) -> Abilities:
    """Abilities of models by their scores, (models, items) with NaN, under the population's spread."""
    seen = np.isfinite(scores)
    start = np.zeros((len(scores), bank.slopes.shape[1]))
    known, weights = np.where(seen, scores, 0.0), seen.astype(np.float64)
    return _converged(start, bank.slopes, -bank.difficulties, known, weights, start[:1][0], bank.spread**-2.0, bank)


def merged_abilities_of(bank: ItemBank, scores: Array, endpoints: Array) -> Abilities:
    """Abilities of merges that are sums of their endpoints' (MERGE3, arXiv 2502.10436): theta = sum_j lambda_j theta_j.

    The logit is linear in lambda, so that it is a convex logistic regression, with a ridge towards 1/J.

    Args:
        bank: the items.
        scores: of the merges, (models, items), NaN where an item wasn't answered.
        endpoints: abilities of the base and experts that are merged, (J, dimensions).
    """
    seen = np.isfinite(scores)
    count = len(endpoints)
    known, weights = np.where(seen, scores, 0.0), seen.astype(np.float64)
    start = np.full((len(scores), count), 1 / count)
    features = bank.slopes @ endpoints.T
    prior = np.ones(count)
    found = _converged(start, features, -bank.difficulties, known, weights, start[0], prior, bank)
    return Abilities(found.values @ endpoints, endpoints.T @ found.covariances @ endpoints)


def expected_sums(bank: ItemBank, abilities: Abilities, items: Array) -> Expected:
    """Expected sums of scores with standard errors: of abilities and items (delta method), and of the answers.

    Args:
        bank: the items.
        abilities: of the models.
        items: what each item counts in each model's sum, (models, items), such as 1 where it is unseen.
    """
    expected = _expected(abilities.values, bank.slopes, bank.difficulties)
    moves = items * expected * (1 - expected)
    gradient = moves @ bank.slopes
    of_ability = np.einsum("md,mde,me->m", gradient, abilities.covariances, gradient)
    x = np.column_stack([abilities.values, np.ones(len(expected))])
    pairs = np.einsum("md,me->mde", x, x).reshape(len(x), -1)
    of_items = np.sum(moves**2 * (pairs @ bank.covariances.reshape(len(bank.covariances), -1).T), axis=1)
    of_answers = bank.dispersion * np.sum(items**2 * expected * (1 - expected), axis=1)
    return Expected((items * expected).sum(axis=1), np.sqrt(of_ability + of_items + of_answers))


def information(bank: ItemBank, abilities: Array) -> Array:
    """Fisher information of each item about the abilities given, (items,): the mean of |a|^2 P (1 - P).

    Args:
        bank: the items.
        abilities: (models, dimensions).
    """
    expected = _expected(abilities, bank.slopes, bank.difficulties)
    # A dimension in which models hardly differ is worth little to know.
    strength = np.sum((bank.slopes * bank.spread) ** 2, axis=1)
    return np.asarray(strength * np.mean(expected * (1 - expected), axis=0))


def _expected(abilities: Array, slopes: Array, difficulties: Array) -> Array:
    logits = abilities @ slopes.T - difficulties
    return np.asarray(special.expit(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)))


def _start(known: Array, seen: NDArray[np.bool_], dimensions: int) -> tuple[Array, Array, Array]:
    """Abilities from rows' and difficulties from columns' shares of right answers, more from the largest residuals."""
    counts = seen.sum(axis=0), seen.sum(axis=1)
    share = float(known.sum() / seen.sum())
    rows = special.logit((known.sum(axis=1) + 2 * share + 0.01) / (counts[1] + 2.02))
    columns = special.logit((known.sum(axis=0) + 2 * share + 0.01) / (counts[0] + 2.02))
    abilities = np.zeros((len(known), dimensions))
    abilities[:, 0] = rows - rows.mean()
    slopes = np.zeros((known.shape[1], dimensions))
    slopes[:, 0] = 1.0
    if dimensions > 1:
        residuals = np.where(seen, known - _expected(abilities, slopes, -columns), 0.0)
        left, values, right = np.linalg.svd(residuals, full_matrices=False)
        for place in range(min(dimensions - 1, len(values))):
            # A singular vector has no sign of its own; this one's doesn't depend on the order of the models.
            sign = 1.0 if np.sum(left[:, place] ** 3) >= 0 else -1.0
            abilities[:, place + 1] = sign * left[:, place] * np.sqrt(len(known))
            slopes[:, place + 1] = sign * right[place] * np.sqrt(known.shape[1]) * _FURTHER_SLOPE_SD
    return abilities, slopes, -columns


def _newton(
    values: Array, features: Array, offset: Array, known: Array, weights: Array, prior: Array, precision: Array
) -> Abilities:
    """One damped Newton step of as many penalised logistic regressions as there are rows.

    Args:
        values: where they are, (rows, k).
        features: of the columns, (columns, k).
        offset: of the logits, (columns,).
        known: responses, (rows, columns); whatever they are where they have no weight.
        weights: 1 or 0, (rows, columns).
        prior: mean of the values, (k,).
        precision: of the values, (k,).
    """
    logits = np.clip(values @ features.T + offset, -_LARGEST_LOGIT, _LARGEST_LOGIT)
    expected = special.expit(logits)
    gradient = (weights * (known - expected)) @ features - precision * (values - prior)
    pairs = np.einsum("ca,cb->cab", features, features).reshape(len(features), -1)
    k = features.shape[1]
    curvature = ((weights * expected * (1 - expected)) @ pairs).reshape(-1, k, k) + np.diag(precision)
    covariances = np.linalg.inv(curvature)
    step = np.einsum("rab,rb->ra", covariances, gradient)
    length = np.linalg.norm(step, axis=1, keepdims=True)
    return Abilities(values + step * np.minimum(1.0, _LARGEST_STEP / np.maximum(length, 1e-12)), covariances)


def _converged(
    start: Array,
    features: Array,
    offset: Array,
    known: Array,
    weights: Array,
    prior: Array,
    precision: Array,
    bank: ItemBank,
) -> Abilities:
    """Newton's method to the end; scores that vary less than right and wrong leave less uncertainty."""
    found = Abilities(start, np.empty(0))
    for _ in range(50):
        before = found.values
        found = _newton(before, features, offset, known, weights, prior, precision)
        if np.abs(found.values - before).max() < 1e-8:
            break
    return Abilities(found.values, found.covariances * bank.dispersion)
