"""Two runs beside each other: how their configs differ, and their winners on the test items that both have.

Scores are compared in pairs only where items and models have the same content, by the hashes that runs keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from evomerge.estimate.clusters import clustered_comparison
from evomerge.estimate.comparisons import Comparison
from evomerge.estimate.intervals import Mean, Samples
from evomerge.report.rescore import objective_of
from evomerge.run.directory import Run

_ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One key that two configs have differently."""

    key: str
    first: Any
    second: Any


def config_changes(first: Run, second: Run) -> list[Change]:
    """The keys of the configs that differ, each with both values."""
    return [*_changes(first.config.model_dump(mode="json"), second.config.model_dump(mode="json"), "")]


def _changes(old: Any, new: Any, key: str) -> Iterator[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for part in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(part, _ABSENT), new.get(part, _ABSENT), f"{key}.{part}" if key else str(part))
    elif old != new:
        yield Change(key=key, first=old, second=new)


def why_not_paired(first: Run, second: Run) -> str | None:
    """Why the winners can't be compared item by item; None if they can."""
    for run in (first, second):
        result = run.result()
        if result is None:
            return f"{run.directory} has no result yet"
        if "picks" in result:
            return f"{run.directory} is a search for several objectives"
        if not run.knows_clusters:
            return f"{run.directory}, of an earlier release, hasn't kept which items belong together"
    if first.facts["items"]["test"] != second.facts["items"]["test"]:
        return "their test items differ"
    if first.clusters != second.clusters:
        return "test items that belong together in one of them don't in the other (benchmark.cluster)"
    tasks = [{task["task"]: task["metric"] for task in run.facts["benchmark"]["tasks"]} for run in (first, second)]
    if tasks[0] != tasks[1] or objective_of(first).weights != objective_of(second).weights:
        return "their tasks are scored by other metrics or weights"
    bases = [_contents(run, "base/") for run in (first, second)]
    if not bases[0] or not bases[1]:
        return "a run of an earlier release doesn't know the content of its models"
    if bases[0] != bases[1]:
        return "their bases differ in content, so prompts and merges have little in common"
    if any(_samples(run) is None for run in (first, second)):
        return "a winner has no test score, or a metric that is no mean over items"
    return None


def _contents(run: Run, place: str) -> dict[str, Any]:
    """The hashes of the files below a place, by name."""
    return {
        PurePath(name).name: kept[-1] for name, kept in run.facts.get("files", {}).items() if name.startswith(place)
    }


def winners(first: Run, second: Run) -> Comparison:
    """The second run's winner against the first's, paired on the test items; where `why_not_paired` has no reason."""
    ours, theirs = _samples(first), _samples(second)
    assert ours is not None
    assert theirs is not None
    return clustered_comparison(theirs, ours, objective_of(first).weights_for(_sizes(first)), first.clusters)


def _table(run: Run) -> Any:
    result = run.result()
    assert result is not None
    found = run.ledger().evaluation(int(result["winner"]["trial"]), "test")
    return None if found is None else found.table


def _sizes(run: Run) -> dict[str, int]:
    return dict(_table(run).sizes)


def _samples(run: Run) -> Samples | None:
    """The winner's values of the test items by task, higher being better."""
    table, objective = _table(run), objective_of(run)
    if table is None or set(objective.metrics) - (objective.means or frozenset()):
        return None
    return {
        task: Mean(objective.sign(task) * np.array(table.tasks[task].values[metric], dtype=np.float64))
        for task, metric in objective.metrics.items()
    }
