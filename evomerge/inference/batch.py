"""What is being generated: requests that wait, rows that run, and a batch of them whose places are refilled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from evomerge.inference.cache import Columns, PrefixCache
from evomerge.inference.decoding import PADDING, Decoding
from evomerge.score.requests import GenerationRequest, GenerationResponse

Task = tuple[int, GenerationRequest, int | None]
"""Position in the request list, the request, and the number of the prefix that it continues."""


@dataclass(slots=True, eq=False, kw_only=True)
class Work:
    """Requests that are decoded alike, and what their answers are made with.

    Attributes:
        waiting: not begun yet, in the order in which to begin.
        decoding: how their tokens are chosen.
        prefix: gives a prefix's keys and values by number.
        found: the answers by position.
        deadline: `time.monotonic()` value after which to give up.
        rows: most rows at a time.
        tokens: most padded tokens in a pass over contexts.
    """

    waiting: deque[Task]
    decoding: Decoding
    prefix: Callable[[int | None], PrefixCache | None]
    found: dict[int, GenerationResponse]
    deadline: float | None
    rows: int
    tokens: int

    def check_time(self) -> None:
        """Raises: TimeoutError after the deadline."""
        check_time(self.deadline)


@dataclass(slots=True, eq=False, kw_only=True)
class Running:
    """One row: where its answer goes, its tokens so far, what changes the scores of its next one, and what draws it."""

    place: int
    request: GenerationRequest
    made: list[int]
    processors: LogitsProcessorList
    generator: torch.Generator | None
    is_finished: bool = False


class Batch:
    """Rows that are continued together.

    `seen` is (rows, columns), all tokens with `PADDING` where there is none; `mask`, of the same shape, is 0 there;
    `tokens` and `positions` are the next inputs.
    """

    def __init__(self, columns: Columns, seen: Tensor, mask: Tensor, positions: Tensor, tokens: Tensor) -> None:
        self.columns = columns
        self.seen = seen
        self.mask = mask
        self.positions = positions
        self.tokens = tokens
        self.logits = tokens
        self.rows: list[Running] = []
        self.is_padded = not bool(mask.all())

    @property
    def num_going(self) -> int:
        """How many rows haven't ended."""
        return sum(not row.is_finished for row in self.rows)

    def drop_finished(self) -> None:
        """Leave out rows that have ended, and columns that are then padding in every row."""
        going = [number for number, row in enumerate(self.rows) if not row.is_finished]
        if len(going) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in going]
        chosen = torch.tensor(going, dtype=torch.long, device=self.mask.device)
        self.mask, self.tokens, self.positions = self.mask[chosen], self.tokens[chosen], self.positions[chosen]
        first = int(self.mask.any(dim=0).int().argmax()) if going else 0
        self.mask, self.seen = self.mask[:, first:], self.seen[chosen, first:]
        self.columns.select(chosen, first)
        self.is_padded = not bool(self.mask.all())

    def joined(self, other: Batch) -> Batch:
        """This batch with another's rows added."""
        if not self.rows or not other.rows:
            return other if not self.rows else self
        columns = max(self.mask.shape[1], other.mask.shape[1])
        for batch in (self, other):
            missing = (columns - batch.mask.shape[1], 0)
            batch.mask = torch.nn.functional.pad(batch.mask, missing)
            batch.seen = torch.nn.functional.pad(batch.seen, missing, value=PADDING)
        self.columns.join(other.columns)
        self.mask = torch.cat([self.mask, other.mask])
        self.seen = torch.cat([self.seen, other.seen])
        self.tokens = torch.cat([self.tokens, other.tokens])
        self.positions = torch.cat([self.positions[:, -1:], other.positions[:, -1:]])
        self.rows += other.rows
        self.is_padded = not bool(self.mask.all())
        return self


def cache_kinds(config: Any) -> set[str]:
    """The kinds of layers in the cache that transformers would make for a model."""
    from transformers import DynamicCache

    layers = DynamicCache(config=config).layers
    return {type(layer).__name__ for layer in layers} or {"DynamicLayer"}


def check_time(deadline: float | None) -> None:
    """Raises: TimeoutError after a deadline, a `time.monotonic()` value."""
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("the time for one candidate is over")
