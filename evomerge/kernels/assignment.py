"""The linear assignment: one column for each row, so that the sum of scores is largest.

An auction whose increments shrink (Bertsekas 1988) finds prices of columns, and shortest paths from there (Jonker and
Volgenant 1987) the assignment. The prices prove it: no assignment has a larger sum than profits and prices together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FEW = 192
"""Rows below which SciPy, which starts at once, is as fast."""
_SHRINKS, _FINEST = 5.0, 1e-6
"""How the auction's increment falls, and to which share of the span of the scores."""
_BIDS = 12
"""Bids for each row after which the auction is given up: rows that are alike, as those of dead units, outbid each other
for long, and SciPy's paths are short where so much is alike."""


@dataclass(frozen=True, slots=True, eq=False)
class Assigned:
    """The assignment of the largest sum, and what proves it.

    Attributes:
        order: (n,) int64, the column of each row.
        profits: (n,) float64, of rows.
        prices: (n,) float64, of columns. profits + prices is at least the score of every pair, and is it in the pairs
            that are assigned, up to rounding in float64; so that their sum bounds that of every assignment.
    """

    order: NDArray[np.int64]
    profits: NDArray[np.float64]
    prices: NDArray[np.float64]

    def gap(self, scores: NDArray[np.floating]) -> float:
        """How far the sum of any assignment could lie above this one's, for the scores that it was found for."""
        rows = range(0, len(scores), 256)
        worst = max(
            float((scores[at : at + 256] - self.profits[at : at + 256, None] - self.prices).max()) for at in rows
        )
        found = float(scores[np.arange(len(scores)), self.order].sum(dtype=np.float64))
        return float(self.profits.sum() + self.prices.sum()) + max(worst, 0.0) * len(scores) - found


def best_assignment(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """The column of each row for which the sum is largest; of (n, n) finite scores."""
    found = None if len(scores) < _FEW else by_auction(scores)
    if found is None:
        # Loading it takes as long as a small merge, and most merges assign nothing.
        from scipy.optimize import linear_sum_assignment

        return np.asarray(linear_sum_assignment(scores, maximize=True)[1], dtype=np.int64)
    return found.order


def by_auction(scores: NDArray[np.floating]) -> Assigned | None:
    """The assignment of (n, n) finite scores, n at least 1; None where too many rows are alike.

    Scores are read as they are, and not copied.

    Raises: ValueError for scores that aren't finite.
    """
    # Compiling takes as long as small problems, which are never brought here.
    from evomerge.kernels.loops.assignment import assign, bid

    size, most = len(scores), _BIDS * len(scores)
    # Halves, since the span of numbers near the largest isn't one.
    span = float(scores.max()) / 2 - float(scores.min()) / 2
    if not np.isfinite(span):
        raise ValueError("scores have to be finite numbers")
    order, profits, prices = np.empty(size, dtype=np.int64), np.empty(size), np.zeros(size)
    increment = span / 4
    while increment > span * _FINEST:
        if bid(scores, prices, increment, most) == most:
            return None
        increment /= _SHRINKS
    assign(scores, prices, profits, order)
    return Assigned(order, profits, prices)
