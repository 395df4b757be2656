"""Fitness: one number from a candidate's item table. Higher is always better.

Arithmetic on plain data; knows neither lm-eval nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.score.table import ItemTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The weighted mean of each task's chosen metric, sign flipped where lower is better."""

    metrics: Mapping[str, str]
    """`metric,filter` by task."""
    weights: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    tie_breaks: bool = True
    by_size: tuple[frozenset[str], ...] = ()
    """Tasks whose weights, taken together, are shared out by their numbers of items: groups as lm-eval adds them up."""
    means: frozenset[str] | None = None
    """Tasks whose metric is a mean of its items, where a tie-break has a meaning; None: all of them."""

    def sign(self, task: str) -> float:
        """1, or -1 where lower values of a task's metric are better."""
        return 1.0 if self.higher_is_better[task] else -1.0

    def weights_for(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Weight of each task, summing to 1.

        Args:
            sizes: number of items by task.
        """
        weights = dict(self.weights)
        for tasks in self.by_size:
            shared, items = sum(self.weights[task] for task in sorted(tasks)), sum(sizes[task] for task in tasks)
            weights |= {task: shared * sizes[task] / items for task in tasks}
        total = sum(weights.values())
        return {task: weight / total for task, weight in weights.items()}

    def score(self, aggregates: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> float:
        """The weighted mean of task scores.

        Args:
            aggregates: by task, each metric's value as lm-eval aggregates it.
            sizes: number of items by task.
        """
        return sum(
            weight * self.sign(task) * float(aggregates[task][self.metrics[task]])
            for task, weight in self.weights_for(sizes).items()
        )

    def tie_break(self, table: ItemTable) -> float:
        """A small addition that orders equal scores by the probability given to the right answers.

        Each task adds at most half of what one of its items is worth, so no single-task difference of
        an item is ever reversed.
        """
        if not self.tie_breaks:
            return 0.0
        added = 0.0
        for task, weight in self.weights_for(table.sizes).items():
            shares = table.tasks[task].tie_break
            if shares and (self.means is None or task in self.means):
                added += weight * float(np.mean(shares)) / (2 * len(shares))
        return added
