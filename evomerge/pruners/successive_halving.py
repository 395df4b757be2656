"""Successive halving: each rung of items is climbed by the best share of those on the rung below.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.pruners.base import Round, Scores, below_complete, below_one, with_defaults


class SuccessiveHalving:
    """Lets the best `keep` of a generation go on from each rung, and those that equal the last of them.

    Options: `items` on the first rung (default 20), each next having 1/`keep` times as many, and `keep` (default 1/3).
    A rung is climbed at the end of the block in which it lies. Without evidence but the mean it stops more than racing
    does, and more of the good.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = with_defaults(options, {"items": 20, "keep": 1 / 3})
        self._items, self._keep = found["items"], below_one("keep", found["keep"])

    def survivors(self, scores: Scores, at: Round) -> NDArray[np.bool_]:
        """The best by mean, as many as the rungs so far leave of the generation."""
        candidates, items = scores.shape
        if items < self._items:
            return np.ones(candidates, dtype=np.bool_)
        # A rung that is met exactly counts, whatever rounding makes of its logarithm.
        rungs = 1 + math.floor(math.log(items / self._items) / -math.log(self._keep) + 1e-9)
        left = max(1, math.ceil(at.candidates * self._keep**rungs - 1e-9))
        # Fewer digits than rounding changes, so that the order of items decides nothing.
        means = np.round(scores.mean(axis=1), 12)
        if candidates <= left:
            return np.ones(candidates, dtype=np.bool_)
        return np.asarray(means >= np.sort(means)[-left])

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)
