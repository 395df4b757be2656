"""How much of a run is still to come, and how long that takes.

Knows phases, their evaluations and what an evaluation on each split costs. Does not know what is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.config.config import Config

_SPLITS = {"baselines": "search", "search": "search", "validation": "validation", "test": "test"}
"""The phases in order, and the split that they are evaluated on."""


def evaluations_of(config: Config, scan: int, items: int = 0) -> dict[str, int]:
    """The most evaluations of each phase of a search, in order; those of parts of the items count as parts.

    Args:
        config: of the search.
        scan: uniform merges that are tried.
        items: search items, which a budget may be of; 0 where they aren't known.
    """
    search, experts = config.search, len(config.models.experts)
    others, kinds = _other_methods(config)
    found = {
        "baselines": 1 + experts + scan + (search.start is not None) + others,
        # And the distribution's mean.
        "search": search.candidates_worth(items) + 1,
        # The best few merges and the mean, as many uniform merges, those of other methods, the base and the experts.
        "validation": search.shortlist + 1 + min(search.shortlist, scan) + others + 1 + experts,
        # The base and the experts, the best uniform merge, the best of each other method, and the winner.
        "test": 1 + experts + 2 + kinds,
    }
    if search.goals.are_several:
        # As many of the front for each objective; the best in each, the knee and the best worst score; and the others.
        count, baselines = search.goals.count, 1 + experts + 1 + kinds
        found |= {"validation": search.shortlist * count + baselines, "test": count + 2 + baselines}
    return found


def _other_methods(config: Config) -> tuple[int, int]:
    """How many merges of other methods a search is compared with, and of how many methods they are."""
    if not config.search.baselines:
        return 0, 0
    from evomerge.methods.published import kind_of, labels

    found = labels(config.search.baselines, tuple(config.models.experts))
    return len(found), len({*map(kind_of, found)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Evaluations by phase, and by phase what one of them costs."""

    evaluations: Mapping[str, int]
    costs: Mapping[str, float]
    """In any unit: tokens, or items where tokens aren't known."""
    hours: float | None = None
    """Limit of driving, after which no more candidates are proposed."""
    items: int | None = None
    """Limit of search items that candidates answer."""
    most: int = 0
    """Limit of candidates."""

    @classmethod
    def of(cls, config: Config, facts: Mapping[str, Any]) -> Plan:
        """The plan of a run, from its config and the facts in run.json; those of earlier releases know only items."""
        tasks = facts.get("benchmark", {}).get("tasks", [])
        sizes = {
            split: sum(task.get("items", {}).get(split, 0) for task in tasks)
            for split in ("search", "validation", "test")
        }
        costs: Mapping[str, float] = facts.get("costs", sizes)
        return cls(
            evaluations=evaluations_of(config, config.search.scan, sizes["search"]),
            costs={phase: costs[split] or costs["search"] or 1 for phase, split in _SPLITS.items()},
            hours=config.search.hours,
            items=config.search.budget.items,
            most=config.search.evaluations,
        )

    def candidates(self, spent: Mapping[str, Any]) -> int:
        """How many candidates the search will have had, if each goes on answering as many items.

        Args:
            spent: `candidates` so far and the `items` that they answered, as progress.json has them.
        """
        done, items = int(spent.get("candidates", 0)), int(spent.get("items", 0))
        if self.items is None or not done or not items:
            return self.evaluations["search"] - 1
        return min(self.most, done + max(0, self.items - items) * done // items)

    def to_come(self, phase: str, done: Mapping[str, int], *, total: int | None = None) -> dict[str, int]:
        """The most evaluations that are still to come, by phase in order.

        Args:
            phase: the present one; what comes before it is done.
            done: evaluations that are done, by phase; those of later phases may be of other models than will be asked.
            total: evaluations of the present phase, where they are known better.
        """
        names = [*self.costs]
        if phase in names:
            later = {name: self.evaluations[name] for name in names[names.index(phase) :]}
            return {**later, phase: max(0, (later[phase] if total is None else total) - done[phase])}
        counted = {name: done[name] for name in ("baselines", "search")}
        return {name: max(0, count - counted.get(name, 0)) for name, count in self.evaluations.items()}

    def seconds_left(
        self, phase: str, done: int, rate: float | None, *, total: int | None = None, driven_s: float = 0.0
    ) -> float | None:
        """Seconds until the run ends, if every token or item goes on taking as long; None where that isn't known.

        Args:
            phase: the present one.
            done: its evaluations that are done.
            rate: its evaluations a minute.
            total: its evaluations, where they are known better.
            driven_s: seconds of driving so far, for the limit of hours.
        """
        if not rate or phase not in self.costs:
            return None
        unit_s = 60.0 / rate / self.costs[phase]
        later = [*self.costs][[*self.costs].index(phase) :]
        left = 0.0
        for name in later:
            count = self.evaluations[name] if name != phase or total is None else total
            if name == phase:
                count = max(0, count - done)
            seconds = count * self.costs[name] * unit_s
            if name == "search" and self.hours is not None:
                seconds = min(seconds, max(0.0, 3600 * self.hours - driven_s - left))
            left += seconds
        return left
