"""Racing by sequential tests: who can't be among the best any more is out.

Maron and Moore, "Hoeffding Races", NIPS 1993, with anytime-valid e-values in the place of Hoeffding's bounds, which are
useless at hundreds of items: Waudby-Smith and Ramdas, arXiv 2010.09686.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.estimate.sequential_tests import log_e_of_bets, log_e_of_signs, rejects
from evomerge.pruners.base import Round, Scores, among_best, below_complete, below_one, with_defaults

_SAME = 1e-9
"""Differences of items within this share of the largest are the same but for rounding."""


class Racing:
    """Stops a candidate once as many rivals as the search needs are each shown to be better, on the same items.

    A candidate that truly belongs among the best is stopped with a probability of at most `delta` (default 0.05), over
    all blocks together: rivals share it (Bonferroni), and each pair's evidence may be looked at at any time. Items that
    are right or wrong, and weigh the same, are compared by a sign test; others by bets on their differences, which
    take the largest difference seen for the largest there is.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._delta = below_one("delta", with_defaults(options, {"delta": 0.05})["delta"])

    def survivors(self, scores: Scores, at: Round) -> NDArray[np.bool_]:
        """Unless as many as are needed are better than a candidate beyond its share of doubt."""
        tests = max(1, at.candidates - 1)
        return among_best(scores, at.needed, lambda ahead: rejects(_evidence(ahead), self._delta, tests=tests))

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)


def _evidence(differences: Scores) -> NDArray[np.float64]:
    """Logarithms of e-values that mean differences are above zero.

    Args:
        differences: (pairs, items).

    Returns: (pairs,).
    """
    sizes = np.abs(differences)
    largest = float(sizes.max())
    if largest == 0.0:
        return np.zeros(len(differences))
    if ((sizes <= _SAME * largest) | (sizes >= (1 - _SAME) * largest)).all():
        least = largest / 2
        return log_e_of_signs((differences > least).sum(axis=1), (differences < -least).sum(axis=1))
    return log_e_of_bets(differences, largest)
