"""Fitness: one number from a candidate's item table. Higher is always better.

Arithmetic on plain data; knows neither lm-eval nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from evomerge.score.table import ItemTable

INFEASIBLE = 1e9
"""Fitness below minus this is that of a candidate which misses a requirement."""

LANGUAGE = "language,none"
"""The metric that is the share of a task's items whose text is in the asked language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageRule:
    """What the share of items in the asked language does to fitness: see `LanguageConfig`."""

    at_least: float | None = None
    penalty: float | None = None


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
    languages: Mapping[str, LanguageRule] = field(default_factory=dict)
    """Of the tasks whose text is to be in a language."""

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

    def item_scores(self, table: ItemTable, sizes: Mapping[str, int]) -> NDArray[np.float64]:
        """Each item's share in the score, (items,), higher being better: their mean is the score of these items.

        Without tie-breaks and what is asked of languages. Only where every task's metric is a mean of its items.

        Args:
            table: of any of a split's items.
            sizes: number of items by task in the whole split, by which tasks of a group share their weight.
        """
        weights = {task: weight for task, weight in self.weights_for(sizes).items() if task in table.tasks}
        total = sum(weights.values())
        items = sum(len(table.tasks[task].items) for task in weights)
        columns = []
        for task, weight in weights.items():
            values = np.array(table.tasks[task].values[self.metrics[task]], dtype=np.float64)
            columns.append(self.sign(task) * values * (weight / total) * (items / len(values)))
        return np.concatenate(columns)

    def penalty(self, aggregates: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> float:
        """What is taken off the score for text in other languages: each task's penalty, weighted as the task.

        Args:
            aggregates: by task, each metric's value.
            sizes: number of items by task.
        """
        weights = self.weights_for(sizes)
        return sum(
            weights[task] * rule.penalty * (1.0 - float(aggregates[task][LANGUAGE]))
            for task, rule in self.languages.items()
            if rule.penalty is not None
        )

    def shortfall(self, aggregates: Mapping[str, Mapping[str, float]]) -> float:
        """How far the shares of items in the asked languages stay below those required, summed over tasks."""
        return sum(
            max(0.0, rule.at_least - float(aggregates[task][LANGUAGE]))
            for task, rule in self.languages.items()
            if rule.at_least is not None
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
