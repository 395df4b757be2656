"""Sequential tests of paired scores: evidence that may be looked at after every item, and stopped at any.

Each function returns the logarithm of an e-value, of the hypothesis that the mean difference is zero or less: under it
an e-value ever reaches 1/rate with a probability of at most `rate`, whenever one looks and for whatever reason one
stops (Ville's inequality). Knows numbers only: not which models they are of.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_STAKES: Array = (_NODES + 1) / 2
"""Shares of the wealth that are bet, from 0 to 1: exact for mixtures of up to 127 items that differ."""
_PRIOR: Array = _WEIGHTS / 2


def log_e_of_signs(won: ArrayLike, lost: ArrayLike, *, two_sided: bool = False) -> Array:
    """Evidence that one of two models wins more of the items on which they differ, from the counts alone.

    The likelihood of the counts under a win's probability p, uniform from 1/2 to 1, over that under p = 1/2; two-sided
    uniform from 0 to 1, which is B(won + 1, lost + 1) 2^(won + lost).

    Args:
        won: items on which it was better, any shape.
        lost: items on which it was worse, of a shape that fits.
        two_sided: whether fewer wins are evidence too, against the hypothesis of p = 1/2.

    Returns: natural logarithms of e-values, in the arguments' common shape; 0 without an item that differs.
    """
    won, lost = np.broadcast_arrays(np.asarray(won, dtype=np.float64), np.asarray(lost, dtype=np.float64))
    found = special.betaln(won + 1, lost + 1) + (won + lost) * math.log(2)
    if two_sided:
        return np.asarray(found)
    # P(p > 1/2) of the Beta distribution is P(p < 1/2) of its mirror image.
    above = special.betainc(lost + 1, won + 1, 0.5)
    with np.errstate(divide="ignore"):
        exact = np.asarray(found + np.log(2 * above))
    # Far more losses than wins leave a share that no double holds; a mixture of bets is as valid.
    tiny = above < 1e-280
    if tiny.any():
        bets = np.multiply.outer(won[tiny], np.log1p(_STAKES)) + np.multiply.outer(lost[tiny], np.log1p(-_STAKES))
        exact = np.array(exact)
        exact[tiny] = special.logsumexp(bets, axis=-1, b=_PRIOR)
    return exact


def log_e_of_bets(differences: ArrayLike, reach: float, *, population: int | None = None) -> Array:
    """Evidence that a mean difference is above zero, by the wealth of a gambler who bets on it.

    Waudby-Smith & Ramdas 2020 (arXiv 2010.09686): each item multiplies the wealth by 1 + stake * difference / reach.
    The stake is mixed uniformly from 0 to 1, so that the order of the items doesn't matter; with right and wrong it is
    the one-sided `log_e_of_signs`.

    Args:
        differences: one model's scores minus another's, (..., items), in the order in which they were seen.
        reach: the largest absolute difference that an item can have: b - a for scores from a to b.
        population: number of all items, if these were drawn from them at random and without replacement and the mean
            is meant over all of them (section 5 there); the order then matters. None: the mean of what they're drawn
            from.

    Returns: natural logarithms of e-values, (...); 0 without items, and infinite once no values of the items unseen
        could bring the mean to zero.
    Raises: ValueError for a difference beyond the reach, or more items than the population has.
    """
    found = np.asarray(differences, dtype=np.float64)
    items = found.shape[-1]
    if not reach > 0 or (found.size and not np.abs(found).max() <= reach * (1 + 1e-12)):
        raise ValueError(f"differences reach from {-reach} to {reach}; these go beyond, or aren't numbers")
    scaled = np.clip(found / reach, -1.0, 1.0)
    expected = np.zeros_like(scaled)
    certain: NDArray[np.bool_] = np.zeros(scaled.shape[:-1], dtype=bool)
    if population is not None:
        if items > population:
            raise ValueError(f"{items} items of a population of {population}")
        seen = np.cumsum(scaled, axis=-1)
        expected[..., 1:] = -seen[..., :-1] / (population - np.arange(1, items))
        certain = np.asarray((seen > population - np.arange(1, items + 1) + 1e-9).any(axis=-1))
        expected = np.clip(expected, -1.0, 1.0)
    # Under the hypothesis no gain is expected, and the stake is such that the wealth never falls below zero.
    gains = (scaled - expected) / (1 + np.abs(expected))
    wealth = np.stack([np.log1p(stake * gains).sum(axis=-1) for stake in _STAKES], axis=-1)
    mixed = special.logsumexp(wealth, axis=-1, b=_PRIOR)
    return np.asarray(np.where(certain, np.inf, mixed))


def rejects(log_e: ArrayLike, rate: float, *, tests: int = 1) -> NDArray[np.bool_]:
    """Whether the evidence is enough at an error rate, which so many tests share (Bonferroni).

    Args:
        log_e: natural logarithms of e-values, any shape.
        rate: probability with which any true hypothesis may be rejected, above 0 and at most 1.
        tests: hypotheses that are tested together.
    """
    return np.asarray(np.asarray(log_e, dtype=np.float64) >= math.log(tests / rate))
