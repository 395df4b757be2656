"""The seam of benchmarks: items in splits, requests out, answers to scores.

A benchmark is built once, in the driver. Workers see its requests only, and their answers come back to it.
Knows neither tasks nor data sets nor models as code.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from evomerge.config.benchmark import BenchmarkConfig
from evomerge.errors import BenchmarkError
from evomerge.estimate.intervals import Sample
from evomerge.score.objective import Objective
from evomerge.score.requests import Reference, Request, Response
from evomerge.score.table import ItemTable
from evomerge.streams import stream

SPLITS = ("search", "validation", "test")
"""The roles of items: seen by the search, choosing the winner, testing it."""


class Item(Protocol):
    """One thing that is scored."""

    @property
    def id(self) -> str:
        """Its identity: a hash of all that decides its score but the model."""

    @property
    def task(self) -> str:
        """The task that it belongs to."""


class BaseModel(Protocol):
    """What a benchmark may know of the base: its folder, the contents of its config.json, and its tokenizer."""

    @property
    def folder(self) -> Path:
        """Where its files lie."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json."""

    def tokenizer(self) -> Any:
        """Its tokenizer, through transformers. Raises: CheckpointError if it has none."""


class Benchmark(Protocol):
    """What a search, a check and a report ask of a benchmark."""

    @property
    def splits(self) -> Mapping[str, Sequence[Item]]:
        """Items by split, in a fixed order; no item is in two splits."""

    @property
    def objective(self) -> Objective:
        """How scores of tasks become one number."""

    def requests(self, split: str) -> tuple[Request, ...]:
        """Everything that a model is asked of a split, in item order."""

    def references(self, split: str) -> Mapping[str, Sequence[Reference]]:
        """The right answers of a split's items by task, in item order, from which a loss can be worked out.

        Raises: BenchmarkError if there are none that a model's probabilities say something of.
        """

    def item(self, split: str, request: int) -> Item:
        """The item that makes a request, by the request's place in `requests(split)`. Raises: IndexError."""

    def blocks(self, split: str, size: int) -> list[list[int]]:
        """Positions of the items in a fixed random order, in blocks of `size`, so that a part speaks for all."""

    def places(self, split: str, items: Sequence[int]) -> list[int]:
        """Positions of some items' requests in `requests(split)`, ascending."""

    def score(self, split: str, responses: Sequence[Response], *, items: Sequence[int] | None = None) -> ItemTable:
        """Scores of every metric for each item.

        Args:
            split: the split that was answered.
            responses: in the order of `requests(split)`.
            items: positions of the items that were answered, if not all; responses then are those of `places`.

        Raises: BenchmarkError if the answers can't be scored.
        """

    def aggregate(self, table: ItemTable) -> dict[str, dict[str, float]]:
        """Each task's and group's metrics over the items.

        Raises: BenchmarkError if a chosen metric can't be computed over these items.
        """

    def samples(self, tables: Sequence[ItemTable], *, signed: bool = True) -> list[dict[str, Sample]]:
        """The chosen metric of several models on the same items, by task, for intervals and comparisons.

        Args:
            tables: one per model.
            signed: whether higher is better in all of them, or values are as the benchmark prints them.
        """

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Tasks that have metrics together, by the name of their group."""

    @property
    def languages(self) -> Mapping[str, Mapping[str, Any]]:
        """What is asked of the language of tasks' text, as plain data; tasks of which nothing is left out."""

    @property
    def truncated(self) -> list[str]:
        """A sentence for whatever a model won't see of its input."""

    @property
    def notes(self) -> list[str]:
        """What a person should know before the search starts, a sentence each."""

    @property
    def searched_publicly(self) -> list[str]:
        """A sentence for each task that is searched on a split whose scores others report."""

    @property
    def fingerprint(self) -> dict[str, str]:
        """A hash of the items of each split; it changes with whatever decides their scores but the model."""

    def describe(self) -> dict[str, Any]:
        """What is scored, as plain data for the run directory: `tasks`, and `by_size` where groups add up by size."""


class Build(Protocol):
    """How an entry of `BENCHMARKS` makes a benchmark."""

    def __call__(
        self,
        config: BenchmarkConfig,
        model: BaseModel,
        *,
        max_length: int | None = None,
        where: str = "config",
        splits: Sequence[str] = SPLITS,
    ) -> Benchmark:
        """Choose the items of each split and make their requests.

        Args:
            config: the `benchmark` section.
            model: the base.
            max_length: context window in tokens; None takes the model's own.
            where: the config's file, for messages.
            splits: the splits to make, if not all are wanted.

        Raises: BenchmarkError naming the place in the config and what would be right.
        """


I = TypeVar("I", bound=Item)  # noqa: E741


class FixedItems(ABC, Generic[I]):
    """What all benchmarks of a fixed list of items share: their requests, blocks and identity.

    Args:
        splits: items by split, in their order.
        seed: of the order in which blocks go through them.
    """

    def __init__(self, splits: Mapping[str, tuple[I, ...]], *, seed: int) -> None:
        self.splits = dict(splits)
        self._seed = seed

    @abstractmethod
    def requests_of(self, item: I) -> tuple[Request, ...]:
        """What a model is asked of one item."""

    def requests(self, split: str) -> tuple[Request, ...]:
        """Everything that a model is asked of a split, in item order."""
        return tuple(request for item in self.splits[split] for request in self.requests_of(item))

    def references(self, split: str) -> Mapping[str, Sequence[Reference]]:
        """None, unless a benchmark has right answers. Raises: BenchmarkError."""
        raise BenchmarkError(
            "the benchmark has no right answers that a loss could be worked out from; give a text (--text FILE) instead"
        )

    def item(self, split: str, request: int) -> I:
        """The item that makes a request, by the request's place in `requests(split)`. Raises: IndexError."""
        position = int(np.searchsorted(self._ends[split], request, side="right")) - 1
        if not 0 <= position < len(self.splits[split]):
            raise IndexError(f"{split} has no request of this number")
        return self.splits[split][position]

    def blocks(self, split: str, size: int) -> list[list[int]]:
        """Items in a fixed random order, in blocks, so that a part of them speaks for all.

        Args:
            split: whose items.
            size: items of a block; the last may have fewer.

        Returns: positions of the items, block by block.
        """
        count = len(self.splits[split])
        order = stream(self._seed, "blocks", split).permutation(count).tolist()
        return [order[start : start + size] for start in range(0, count, size)]

    def places(self, split: str, items: Sequence[int]) -> list[int]:
        """Positions of some items' requests in `requests(split)`, ascending."""
        ends = self._ends[split]
        return [place for item in sorted(items) for place in range(ends[item], ends[item + 1])]

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """None, unless a benchmark has tasks that have metrics together."""
        return {}

    @property
    def languages(self) -> dict[str, dict[str, Any]]:
        """None, unless a benchmark asks something of the language of text."""
        return {}

    @property
    def truncated(self) -> list[str]:
        """Nothing, unless a benchmark cuts what a model sees."""
        return []

    @property
    def notes(self) -> list[str]:
        """Nothing, unless a benchmark has something to say."""
        return []

    @property
    def searched_publicly(self) -> list[str]:
        """Nothing, unless a benchmark's splits are others' too."""
        return []

    @property
    def fingerprint(self) -> dict[str, str]:
        """A hash of every item's identity by split; it changes with documents, prompts and their order."""
        return {
            split: hashlib.sha256("\n".join(item.id for item in items).encode()).hexdigest()[:16]
            for split, items in self.splits.items()
        }

    @cached_property
    def _ends(self) -> dict[str, list[int]]:
        """By split, 0 and the number of requests up to and with each item."""
        return {
            split: np.cumsum([0, *(len(self.requests_of(item)) for item in items)]).tolist()
            for split, items in self.splits.items()
        }
