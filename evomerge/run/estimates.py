"""What a run says of estimated scores: tables of item scores, and the file of what was told of stopped candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.files.lines import Lines
from evomerge.score.objective import Objective
from evomerge.score.table import ItemTable

ESTIMATES = "estimates.jsonl"


def scores_of(
    objective: Objective, table: ItemTable, tasks: Sequence[str], asked: Sequence[int]
) -> NDArray[np.float64]:
    """Each item's share in the score, (items,), NaN where it wasn't asked; without gaps their mean is the score.

    Args:
        objective: by which tasks are weighted; each task's metric is a mean of its items'.
        table: scores of the items asked.
        tasks: of every item of the split, in order.
        asked: places of the items that the table is of.
    """
    values = {
        task: scores.values[objective.metrics[task]]
        for task, scores in table.tasks.items()
        if task in objective.metrics
    }
    return _weighted(objective, values, tasks, asked)


def covariates_of(
    objective: Objective, covariates: Mapping[str, Sequence[float]], tasks: Sequence[str]
) -> NDArray[np.float64]:
    """Each item's covariate, (items,), with its task's share in the score, as `scores_of` has scores; NaN if unknown.

    Args:
        objective: by which tasks are weighted.
        covariates: of all of a task's items, by task.
        tasks: of every item of the split, in order.
    """
    return _weighted(objective, covariates, tasks, range(len(tasks)))


def _weighted(
    objective: Objective, values: Mapping[str, Sequence[float]], tasks: Sequence[str], asked: Sequence[int]
) -> NDArray[np.float64]:
    """Values of the items asked, by task, times what each item has in the score; NaN elsewhere."""
    names = np.array(tasks)
    sizes = {name: int(np.sum(names == name)) for name in dict.fromkeys(tasks)}
    row = np.full(len(tasks), np.nan)
    wanted = np.zeros(len(tasks), dtype=bool)
    wanted[list(asked)] = True
    for task, weight in objective.weights_for(sizes).items():
        if task in values:
            own = np.array(values[task], dtype=np.float64)
            row[wanted & (names == task)] = objective.sign(task) * own * weight * len(tasks) / sizes[task]
    return row


def told_of(directory: Path, study: str) -> Iterator[Mapping[str, Any]]:
    """What the search algorithm was told of each generation's stopped candidates, in order; nothing without estimates.

    Args:
        directory: the run's.
        study: the name of its study.

    Raises: RunError naming a damaged line.
    """
    lines = Lines(directory / ESTIMATES, of=study)
    if lines.path.exists():
        yield from lines.read(lambda data, _: data)
