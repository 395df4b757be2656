"""Ways to spend item evaluations, by name: keys of a config's `search` section for so many items and such a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Spending = Callable[[int, int], dict[str, Any]]
"""Called with the number of search items, and the item evaluations that candidates may cost."""


def plain(items: int, budget: int) -> dict[str, Any]:
    """Every candidate answers every item."""
    return {"evaluations": budget // items}


SPENDING: dict[str, Spending] = {"plain": plain}
