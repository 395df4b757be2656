"""Fitness: one number from a candidate's item table. Higher is always better.

Arithmetic on plain data; knows neither lm-eval nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evomerge.score.table import ItemTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The weighted mean of each task's chosen metric, sign flipped where lower is better."""

    metrics: Mapping[str, str]
    """`metric,filter` by task."""
    weights: Mapping[str, float]
    higher_is_better: Mapping[str, bool]
    tie_breaks: bool = True

    def score(self, aggregates: Mapping[str, Mapping[str, float]]) -> float:
        """The weighted mean of task scores.

        Args:
            aggregates: by task, each metric's value as lm-eval aggregates it.
        """
        total = sum(self.weights.values())
        return sum(
            weight / total * self._sign(task) * float(aggregates[task][self.metrics[task]])
            for task, weight in self.weights.items()
        )

    def tie_break(self, table: ItemTable) -> float:
        """A small addition that orders equal scores by the probability given to the right answers.

        Each task adds at most half of what one of its items is worth, so no single-task difference of
        an item is ever reversed.
        """
        if not self.tie_breaks:
            return 0.0
        total = sum(self.weights.values())
        added = 0.0
        for task, weight in self.weights.items():
            shares = table.tasks[task].tie_break
            if shares:
                added += weight / total * float(np.mean(shares)) / (2 * len(shares))
        return added

    def item_values(self, table: ItemTable) -> dict[str, NDArray[np.float64]]:
        """The chosen metric of every item by task, for paired statistics; NaN-free, higher is better.

        Metrics whose items aren't numbers (corpus metrics such as F1 or BLEU keep pairs) have no
        item values, and their tasks are left out.
        """
        found: dict[str, NDArray[np.float64]] = {}
        for task, metric in self.metrics.items():
            values = table.tasks[task].values[metric]
            if all(isinstance(value, int | float) for value in values):
                found[task] = self._sign(task) * np.array(values, dtype=np.float64)
        return found

    def _sign(self, task: str) -> float:
        return 1.0 if self.higher_is_better[task] else -1.0
