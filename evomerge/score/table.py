"""The item table: a candidate's score on every item that it saw, as plain data.

Everything later (fitness, weights, paired tests, intervals) is arithmetic on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """One task's items with their scores.

    `items` are identities (a hash of document and prompt), in benchmark order. `values` maps each
    metric, written `metric,filter` as lm-eval does, to one value per item. `tie_break` is a number in
    [0, 1] per item where the task gives one (the right answer's share of probability), else None.
    """

    items: tuple[str, ...]
    values: Mapping[str, tuple[Any, ...]]
    tie_break: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemTable:
    """Scores of one candidate on one split, by task."""

    tasks: Mapping[str, TaskScores]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of items by task."""
        return {name: len(task.items) for name, task in self.tasks.items()}

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            name: {
                "items": list(task.items),
                "values": {metric: list(values) for metric, values in task.values.items()},
                **({"tie_break": list(task.tie_break)} if task.tie_break is not None else {}),
            }
            for name, task in self.tasks.items()
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ItemTable:
        """The inverse of `to_data`."""
        return cls(
            tasks={
                name: TaskScores(
                    items=tuple(task["items"]),
                    values={metric: tuple(values) for metric, values in task["values"].items()},
                    tie_break=tuple(task["tie_break"]) if "tie_break" in task else None,
                )
                for name, task in data.items()
            }
        )
