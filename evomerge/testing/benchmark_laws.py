"""Laws that every benchmark keeps, whatever it asks. Each takes what it needs and asserts one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evomerge.benchmark.base import Benchmark
from evomerge.estimate.intervals import value
from evomerge.score.requests import Response

Answer = Callable[[str], Sequence[Response]]
"""A model's answers to all requests of a split, in their order."""


def splits_are_disjoint_and_not_empty(benchmark: Benchmark) -> None:
    """No item has two roles, and every role has items of known tasks."""
    identities = {split: {item.id for item in items} for split, items in benchmark.splits.items()}
    assert all(identities.values())
    assert len(set.union(*identities.values())) == sum(map(len, identities.values()))
    tasks = set(benchmark.objective.metrics)
    assert {item.task for items in benchmark.splits.values() for item in items} <= tasks


def splits_hold_every_item_once(benchmark: Benchmark, whole: Benchmark) -> None:
    """Together the splits are all items, each exactly once.

    Args:
        benchmark: whose splits share out all items.
        whole: the same with all items in each of its splits.
    """
    together = sorted(item.id for items in benchmark.splits.values() for item in items)
    for items in whole.splits.values():
        assert together == sorted(item.id for item in items)


def building_again_gives_the_same_items(build: Callable[[], Benchmark]) -> None:
    """Order, identity and description are the same each time."""
    one, other = build(), build()
    for split, items in one.splits.items():
        assert [item.id for item in items] == [item.id for item in other.splits[split]]
    assert one.fingerprint == other.fingerprint
    assert one.describe() == other.describe()


def blocks_hold_every_item_and_request_once(benchmark: Benchmark, size: int) -> None:
    """Blocks are a partition of the items, their places one of the requests, and each request knows its item."""
    for split, items in benchmark.splits.items():
        blocks = benchmark.blocks(split, size)
        assert sorted(item for block in blocks for item in block) == list(range(len(items)))
        assert all(len(block) == size for block in blocks[:-1])
        places = [benchmark.places(split, block) for block in blocks]
        assert all(found == sorted(found) for found in places)
        total = len(benchmark.requests(split))
        assert sorted(place for found in places for place in found) == list(range(total))
        for block in blocks:
            owners = {benchmark.item(split, place).id for place in benchmark.places(split, block)}
            assert owners == {items[item].id for item in block}


def scores_do_not_depend_on_blocks(benchmark: Benchmark, answer: Answer, size: int) -> None:
    """An item's scores are the same whether it is scored with all others or with those of its block."""
    for split in benchmark.splits:
        responses = answer(split)
        whole = benchmark.score(split, responses)
        known = {
            (task, item): {metric: values[place] for metric, values in scores.values.items()}
            for task, scores in whole.tasks.items()
            for place, item in enumerate(scores.items)
        }
        for block in benchmark.blocks(split, size):
            given = [responses[place] for place in benchmark.places(split, block)]
            part = benchmark.score(split, given, items=block)
            assert sum(part.sizes.values()) == len(block)
            for task, scores in part.tasks.items():
                for place, item in enumerate(scores.items):
                    found = {metric: values[place] for metric, values in scores.values.items()}
                    assert found == known[task, item]


def table_survives_being_stored(benchmark: Benchmark, answer: Answer) -> None:
    """Aggregates of a table that was written and read again are the same."""
    for split in benchmark.splits:
        table = benchmark.score(split, answer(split))
        again = type(table).from_data(table.to_data(), table.item_lists)
        assert again.item_lists == table.item_lists
        assert benchmark.aggregate(again) == benchmark.aggregate(table)


def samples_have_the_value_of_the_aggregate(benchmark: Benchmark, answer: Answer) -> None:
    """Intervals and comparisons rest on the metric that is printed."""
    for split in benchmark.splits:
        table = benchmark.score(split, answer(split))
        aggregates, objective = benchmark.aggregate(table), benchmark.objective
        for signed in (True, False):
            (samples,) = benchmark.samples([table], signed=signed)
            for task, metric in objective.metrics.items():
                sign = objective.sign(task) if signed else 1.0
                np.testing.assert_allclose(value(samples[task]), sign * aggregates[task][metric], rtol=1e-9)


def description_names_what_is_searched_by(benchmark: Benchmark) -> None:
    """The run directory can tell metrics, weights and directions without the benchmark."""
    described = {task["task"]: task for task in benchmark.describe()["tasks"]}
    objective = benchmark.objective
    assert {name: task["metric"] for name, task in described.items()} == dict(objective.metrics)
    assert {name: task["weight"] for name, task in described.items()} == dict(objective.weights)
    assert {name: task["higher_is_better"] for name, task in described.items()} == dict(objective.higher_is_better)
    for name, task in described.items():
        counts = {split: sum(item.task == name for item in items) for split, items in benchmark.splits.items()}
        assert task["items"] == counts
        assert task["metric"] in task["metrics"]
