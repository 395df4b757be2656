"""Wilcoxon's signed-rank test against the best, as Optuna's `WilcoxonPruner` does it, item by item.

Akiba, Sano, Yanase, Ohta and Koyama, "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019, has
the framework; the pruner is of its release 3.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evomerge.pruners.base import Round, Scores, below_complete, below_one, with_defaults

_ENUMERATED = 13
"""Items up to which SciPy permutes signs where there are ties; beyond, it goes by the normal distribution."""


class Wilcoxon:
    """Stops a candidate that is worse on the same items than the best of its generation so far.

    Options: `p` below which it is stopped (default 0.1), one-sided, and `items` that a candidate answers at least
    (default 2). The test is made anew after each block and for each candidate, so `p` is no error rate of the search.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = with_defaults(options, {"p": 0.1, "items": 2})
        self._p, self._items = below_one("p", found["p"]), found["items"]

    def survivors(self, scores: Scores, at: Round) -> NDArray[np.bool_]:
        """Unless the best by mean, any of them where several are, is better by the test."""
        candidates, items = scores.shape
        means = np.round(scores.mean(axis=1), 12)
        going = np.ones(candidates, dtype=np.bool_)
        if items < self._items:
            return going
        for best in scores[means == means.max()]:
            worse = np.flatnonzero(going & (means < means.max()))
            # In the same order for all, since sums of ranks are rounded.
            differences = np.sort(np.round(scores[worse] - best, 12), axis=1)
            going[worse] = _p_values(differences) >= self._p
        return going

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)


def _p_values(differences: Scores) -> Scores:
    """One-sided, of each row, as SciPy finds it for the row alone, which for few items with ties takes it a second."""
    ranks = stats.rankdata(np.abs(differences), axis=1)
    tied = (differences == 0).any(axis=1) | (np.diff(np.sort(ranks, axis=1), axis=1) == 0).any(axis=1)
    found = np.empty(len(differences))
    if differences.shape[1] <= _ENUMERATED:
        found[tied] = [_enumerated(*row) for row in zip(differences[tied], ranks[tied], strict=True)]
        rest = [~tied]
    else:
        # One way is chosen for all that are given at once.
        rest = [tied, ~tied]
    for alike in rest:
        if alike.any():
            test = stats.wilcoxon(differences[alike], alternative="less", zero_method="zsplit", axis=1)
            found[alike] = test.pvalue
    return found


def _enumerated(differences: Scores, ranks: Scores) -> float:
    """The share of all choices of signs whose sum of positive ranks is no larger; zeros are halved for all alike."""
    moved = ranks[differences != 0]
    choices = np.arange(2 ** len(moved))[:, np.newaxis] >> np.arange(len(moved)) & 1
    # Sums of ranks are multiples of a half.
    return float((choices @ moved <= ranks[differences > 0].sum() + 0.25).mean())
