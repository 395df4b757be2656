"""The median stopping rule of Google Vizier.

Golovin, Solnik, Moitra, Kochanski, Karro and Sculley, "Google Vizier: A Service for Black-Box Optimization", KDD 2017,
section 3.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.pruners.base import Scores, below_complete, with_defaults


class MedianStopping:
    """Prunes a candidate whose mean so far is strictly below the median of its rivals' means on the same items.

    Options: `items` that a candidate answers at least (default 1, so that its first block is enough), and `rivals`
    there must be at least (default 5). A score of few items is mostly luck: with `items` larger, or larger blocks,
    fewer good candidates are lost.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        found = with_defaults(options, {"items": 1, "rivals": 5})
        self._items, self._rivals = found["items"], found["rivals"]

    def goes_on(self, candidate: Scores, rivals: Scores) -> bool:
        """Unless the candidate's mean is strictly below the rivals' median one."""
        if candidate.size < self._items or len(rivals) < self._rivals:
            return True
        return bool(candidate.mean() >= np.median(rivals.mean(axis=1)))

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`."""
        return below_complete(pruned, complete)
