"""Tables of item scores over all of a split's items: their mean is the score, whatever the tasks weigh."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.run.estimates import scores_of
from evomerge.score.objective import Objective
from evomerge.score.table import ItemTable, TaskScores

TASKS = ["a", "b", "a", "a", "b", "c", "c"]
VALUES = {"a": (1.0, 0.0, 1.0), "b": (0.5, 2.0), "c": (1.0, 1.0)}


def table(values: dict[str, tuple[float, ...]]) -> ItemTable:
    return ItemTable(
        tasks={
            task: TaskScores(items=tuple(map(str, range(len(found)))), values={"m,none": found})
            for task, found in values.items()
        }
    )


def objective(by_size: tuple[frozenset[str], ...] = ()) -> Objective:
    return Objective(
        metrics=dict.fromkeys("abc", "m,none"),
        weights={"a": 2.0, "b": 1.0, "c": 0.5},
        higher_is_better={"a": True, "b": False, "c": True},
        by_size=by_size,
    )


@pytest.mark.parametrize("by_size", [(), (frozenset({"a", "c"}),)])
def test_the_mean_over_all_items_is_the_objectives_score(by_size: tuple[frozenset[str], ...]) -> None:
    one = objective(by_size)
    aggregates = {task: {"m,none": float(np.mean(found))} for task, found in VALUES.items()}
    row = scores_of(one, table(VALUES), TASKS, range(7))
    assert row.mean() == pytest.approx(one.score(aggregates, {"a": 3, "b": 2, "c": 2}))


def test_items_that_were_not_asked_are_gaps_and_the_others_are_where_they_belong() -> None:
    whole = scores_of(objective(), table(VALUES), TASKS, range(7))
    part = scores_of(objective(), table({"a": (0.0, 1.0), "b": (0.5,)}), TASKS, [3, 1, 2])
    assert np.isfinite(part).tolist() == [False, True, True, True, False, False, False]
    assert part[1] == whole[1]
    assert part[2:4].tolist() == whole[2:4].tolist()
