"""Racing by standard errors: who is plainly behind is out.

Cheaper than tests with a stated error rate, which at hundreds of items stop only what is hopeless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.pruners.base import Round, Scores, among_best, below_complete, with_defaults


class StandardError:
    """Stops a candidate once as many rivals as the search needs are each ahead of it by `errors` standard errors.

    Options: `errors` (default 1.0), standard errors of the mean difference on the same items, and `items` that a
    candidate answers at least (default 10).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = with_defaults(options, {"errors": 1.0, "items": 10})
        self._errors, self._items = found["errors"], found["items"]

    def survivors(self, scores: Scores, at: Round) -> NDArray[np.bool_]:
        """Unless as many as are needed are ahead."""
        candidates, items = scores.shape
        if items < max(2, self._items):
            return np.ones(candidates, dtype=np.bool_)
        return among_best(scores, at.needed, self._behind)

    def _behind(self, ahead: Scores) -> NDArray[np.bool_]:
        """By what a rival is ahead on each item, (candidates, items)."""
        errors = ahead.std(axis=1, ddof=1) / np.sqrt(ahead.shape[1])
        return np.asarray(ahead.mean(axis=1) > self._errors * errors)

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)
