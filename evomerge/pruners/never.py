"""No pruning: every candidate answers all items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.pruners.base import Scores, below_complete, with_defaults


class Never:
    """Lets every candidate go on."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        with_defaults(options, {})

    def goes_on(self, candidate: Scores, rivals: Scores) -> bool:
        """Always."""
        return True

    def told(self, pruned: Sequence[Scores], complete: Scores) -> Scores:
        """See `below_complete`; it prunes none itself."""
        return below_complete(pruned, complete)
