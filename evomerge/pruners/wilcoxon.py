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
            for number in np.flatnonzero(going & (means < means.max())):
                # In the same order for all, since sums of ranks are rounded.
                differences = np.sort(np.round(scores[number] - best, 12))
                test = stats.wilcoxon(differences, alternative="less", zero_method="zsplit")
                going[number] = test.pvalue >= self._p
        return going

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)
