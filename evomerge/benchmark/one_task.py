"""What benchmarks of a single task share whose items have one request each."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from evomerge.benchmark.base import FixedItems
from evomerge.benchmark.rows import Rows, source_of
from evomerge.benchmark.splits import choose_items
from evomerge.config.benchmark import SplitConfig, SplitsConfig
from evomerge.score.objective import Objective
from evomerge.score.requests import Request
from evomerge.score.table import ItemTable

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneRequest(Generic[R]):
    """An item with its only request."""

    id: str
    task: str
    request: R = field(repr=False)
    label: int = -1
    """Number of the right label, where there is one."""


class OneTask(FixedItems[OneRequest[R]], Generic[R]):
    """A benchmark of one task.

    Args:
        name: of the task.
        splits: items by split, in their order.
        metric: the chosen one, `metric,filter`.
        higher_is_better: every metric, and whether higher is better.
        means: the metrics that are means of their items' values.
        tie_break: whether the right answer's probability decides between equal scores.
        seed: of the order of blocks.
    """

    def __init__(
        self,
        name: str,
        splits: Mapping[str, tuple[OneRequest[R], ...]],
        *,
        metric: str,
        higher_is_better: Mapping[str, bool],
        means: Sequence[str],
        tie_break: bool,
        seed: int,
    ) -> None:
        super().__init__(splits, seed=seed)
        self.task = name
        self.metric = metric
        self._metrics = dict(higher_is_better)
        self._means = tuple(means)
        self.objective = Objective(
            metrics={name: metric},
            weights={name: 1.0},
            higher_is_better={name: self._metrics[metric]},
            tie_breaks=tie_break,
            means=frozenset({name} if metric in means else ()),
        )

    def requests_of(self, item: OneRequest[R]) -> tuple[Request, ...]:
        """The item's request."""
        return (item.request,)

    def chosen(self, split: str, items: Sequence[int] | None) -> list[OneRequest[R]]:
        """Items that were answered, in item order; all of the split if `items` is None."""
        return [
            self.splits[split][place] for place in (range(len(self.splits[split])) if items is None else sorted(items))
        ]

    def aggregate(self, table: ItemTable) -> dict[str, dict[str, float]]:
        """Each metric over the task's items."""
        values = table.tasks[self.task].values
        return {self.task: {metric: self.over(metric, values[metric]) for metric in self._metrics}}

    @abstractmethod
    def over(self, metric: str, values: Sequence[Any]) -> float:
        """A metric over items, from their values."""

    def describe(self) -> dict[str, Any]:
        """What is scored, as plain data for the run directory."""
        task = {
            "task": self.task,
            "metric": self.metric,
            "higher_is_better": self._metrics[self.metric],
            "weight": 1.0,
            "metrics": dict(self._metrics),
            "means": list(self._means),
            "items": {split: len(items) for split, items in self.splits.items()},
        }
        return {"by_size": [], "tasks": [task]}


def roles_of(splits: SplitsConfig, wanted: Sequence[str]) -> dict[str, SplitConfig]:
    """How much each of the wanted roles takes."""
    return {role: getattr(splits, role) for role in wanted}


def choose_rows(
    data: Mapping[str, Rows],
    roles: Mapping[str, SplitConfig],
    columns: Sequence[str] | None,
    *,
    name: str,
    place: str,
    seed: int,
    drop: bool,
    every: bool,
) -> dict[str, list[tuple[str, int]]]:
    """The data-set split and position of each row that a role takes: see `choose_items`.

    Args:
        data: rows by data-set split.
        roles: how much each role takes, the most precious last.
        columns: those that make two rows the same; None: all of them.
        name: of the task, for messages.
        place: in the config, for messages.
        seed: draws the rows of roles that take a part.
        drop: whether a row with two roles keeps the more precious one or is refused.
        every: whether roles whose fractions add up to one take every row.
    """
    sources = {role: source_of(settings, data, f"benchmark.splits.{role}") for role, settings in roles.items()}
    contents = {
        source: [
            content(row if columns is None else {key: row.get(key) for key in columns}) for row in data[source].rows
        ]
        for source in dict.fromkeys(sources.values())
    }
    found = choose_items(roles, sources, contents, name=name, place=place, seed=seed, drop=drop, every=every)
    return {role: [(sources[role], index) for index in indices] for role, indices in found.items()}


def content(value: Any) -> str:
    """Plain data as text that is the same for the same data; bytes as their hash."""

    def plain(part: Any) -> Any:
        return hashlib.sha256(part).hexdigest() if isinstance(part, bytes) else str(part)

    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain)


def identity(*parts: Any) -> str:
    """A hash of plain data, as an item's identity."""
    return hashlib.sha256(content(parts).encode()).hexdigest()[:12]
