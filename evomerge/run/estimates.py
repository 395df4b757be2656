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
    names = np.array(tasks)
    sizes = {name: int(np.sum(names == name)) for name in dict.fromkeys(tasks)}
    row = np.full(len(tasks), np.nan)
    wanted = np.zeros(len(tasks), dtype=bool)
    wanted[list(asked)] = True
    for task, weight in objective.weights_for(sizes).items():
        if task in table.tasks:
            values = np.array(table.tasks[task].values[objective.metrics[task]], dtype=np.float64)
            row[wanted & (names == task)] = objective.sign(task) * values * weight * len(tasks) / sizes[task]
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
