"""Intervals of proportions, of one model or of the difference between two on the same items, down to none of either."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from scipy import special


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


def wilson(successes: float, items: int, level: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927)."""
    z = _quantile(level)
    share = successes / items
    centre = (share + z * z / (2 * items)) / (1 + z * z / items)
    half = z / (1 + z * z / items) * math.sqrt(share * (1 - share) / items + z * z / (4 * items * items))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def paired(won: int, lost: int, items: int, level: float = 0.95) -> Interval:
    """Tango's score interval for a difference of two proportions on the same items (Tango 1998).

    It is Wilson's for pairs: the differences that a score test doesn't reject. Without a disagreement it is as wide as
    Wilson's for none of so many items, to both sides.

    Args:
        won: items that only the first model has right.
        lost: items that only the second has right.
        items: all of them.
        level: of confidence.
    """
    z, found = _quantile(level), (won - lost) / items

    def score(difference: float) -> float:
        # The likeliest share of lost items if this were the true difference.
        middle = (2 * items - won + lost) * difference - won - lost
        last = -lost * difference * (1 - difference)
        share = (math.sqrt(max(0.0, middle * middle - 8 * items * last)) - middle) / (4 * items)
        variance = items * max(0.0, 2 * share + difference * (1 - difference))
        distance = won - lost - items * difference
        return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)

    low = -1.0 if found == -1 else _boundary(lambda difference: score(difference) > z, -1.0, found)
    high = 1.0 if found == 1 else _boundary(lambda difference: score(difference) >= -z, found, 1.0)
    return Interval(low, high)


def unseen(items: int, level: float = 0.95) -> float:
    """The largest share of items that may be otherwise if none of so many is (Clopper & Pearson 1934)."""
    return float(1.0 - ((1.0 - level) / 2) ** (1.0 / items))


def _quantile(level: float) -> float:
    return float(special.ndtri(0.5 + level / 2))


def _boundary(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds at the low end ceases to, to the last digits."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (low + high) / 2
