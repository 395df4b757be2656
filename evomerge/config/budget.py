"""`search.budget:`, what ends a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from evomerge.config.section import Positive, Section


class BudgetConfig(Section):
    """Limits of a search; whichever is reached first ends it."""

    candidates: Positive | None = None
    """Another name of `search.evaluations`, where it is kept."""
    items: Positive | None = None
    """Search items that candidates answer, summed over all of them; never exceeded."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Another name of `search.hours`, where it is kept."""
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    """Hours of driving times the GPUs that the workers use, summed over resumes."""


_ELSEWHERE = {"candidates": "evaluations", "hours": "hours"}
"""Keys of the budget that are kept in the section around it, by name there."""


def in_one_place(data: Mapping[str, Any]) -> dict[str, Any]:
    """The search section with each limit in the place where it is kept.

    Without a word on candidates, a budget of items limits them only as far as each answers one item at least.

    Args:
        data: the section as it was written; what is of a wrong kind is left to those who check it.

    Raises: ValueError if a limit is given twice.
    """
    given = data.get("budget")
    budget = given.model_dump() if isinstance(given, BudgetConfig) else given
    if not isinstance(budget, Mapping):
        return dict(data)
    found: dict[str, Any] = {**data, "budget": {**budget}}
    for own, key in _ELSEWHERE.items():
        value = budget.get(own)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            continue
        if data.get(key, value) not in {value, None}:
            raise ValueError(f"budget.{own} is {value} and {key} is {data[key]}, which are the same; leave out one")
        found[key] = value
        found["budget"][own] = None
    items = budget.get("items")
    if isinstance(items, int) and items > 0:
        found.setdefault("evaluations", items)
    return found
