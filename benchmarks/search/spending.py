"""Ways to spend item evaluations, by name: keys of a config's `search` section for so many items and such a budget.

All of them end by the same limit, `budget.items`, which counts what the algorithm's candidates answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

Spending = Callable[[int], dict[str, Any]]
"""Called with the item evaluations that candidates may cost."""


def plain(budget: int, **more: Any) -> dict[str, Any]:
    """Every candidate answers every item."""
    return {"budget": {"items": budget}, **more}


def pruned(budget: int, *, pruner: str, block: int = 20, **options: float) -> dict[str, Any]:
    """A pruner stops candidates after blocks of items."""
    return {**plain(budget), "block": block, "pruner": pruner, "pruner_options": options}


def reference(budget: int) -> dict[str, Any]:
    """Every candidate answers every item, since nobody is that far behind, and is asked for reference answers, too."""
    settings = pruned(budget, pruner="standard_error", block=60, errors=1e6)
    return {**settings, "estimator": "difference", "covariate": "reference"}


def fresh(budget: int, *, items: int, **more: Any) -> dict[str, Any]:
    """Each generation answers so many items, others each time."""
    return {**plain(budget), "block": 10, "items": "fresh", "items_per_candidate": items, **more}


SPENDING: dict[str, Spending] = {
    "plain": plain,
    "within": partial(plain, surrogate=3, surrogate_every=1),
    "reference": reference,
    "standard_error": partial(pruned, pruner="standard_error"),
    "racing": partial(pruned, pruner="racing"),
    "halving": partial(pruned, pruner="successive_halving"),
    "wilcoxon": partial(pruned, pruner="wilcoxon"),
    "fresh_20": partial(fresh, items=20),
    "fresh_50": partial(fresh, items=50),
    "fresh_100": partial(fresh, items=100),
    "fresh_50_surrogate": partial(fresh, items=50, surrogate=3),
    "fresh_50_within": partial(fresh, items=50, surrogate=3, surrogate_every=1),
}
