"""Keys and values of many rows in memory that is allocated once and written by index.

A row's columns are its positions, from 0 on and without padding, so that rows of all lengths lie side by side, and one
that ends or begins moves no other. Every pass takes a corner of the memory: the first rows and the first columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from evomerge.inference.batch import Batch
from evomerge.inference.decoding import PADDING


class Arena:
    """Slots for rows, and what each is to be fed with next.

    Attributes:
        rows: slots.
        columns: most positions of a row.
        tokens: the next input of each slot, shape (rows, 1).
        positions: where it stands, shape (rows, 1); 0 in a vacant slot.
        seen: tokens of each slot by position, shape (rows, columns), with `PADDING` after the last.
    """

    def __init__(self, like: Any, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self._layers = [
            [
                tensor.new_empty((rows, tensor.shape[1], columns, tensor.shape[3]))
                for tensor in (layer.keys, layer.values)
            ]
            for layer in like.layers
        ]
        self._layout = _layout(like)
        device = like.layers[0].keys.device
        self.tokens = torch.zeros((rows, 1), dtype=torch.long, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.seen = torch.full((rows, columns), PADDING, device=device)
        self._going = torch.zeros_like(self.tokens)

    def holds(self, like: Any) -> bool:
        """Whether these are layers of such a cache."""
        return self._layout == _layout(like)

    @property
    def buffers(self) -> list[Tensor]:
        """Keys and values of every layer, shape (rows, heads, columns, size)."""
        return [buffer for layer in self._layers for buffer in layer]

    def corner(self, rows: int, columns: int) -> Any:
        """The cache for a pass of one token of each of the first rows, of which no position is beyond the columns."""
        positions = self.positions[:rows]
        return Cache(
            layers=[
                _Corner(keys[:rows, :, :columns], values[:rows, :, :columns], positions)
                for keys, values in self._layers
            ]
        )

    def put(self, batch: Batch, rows: Sequence[int], slots: Sequence[int], lengths: Sequence[int]) -> None:
        """Give slots the rows of a batch whose contexts were run; their next inputs are the batch's tokens.

        Args:
            batch: padded anyhow.
            rows: of the batch.
            slots: where each goes.
            lengths: tokens of each context.
        """
        device = self.tokens.device
        source, slot, length = (torch.tensor(numbers, device=device) for numbers in (rows, slots, lengths))
        width = max(lengths)
        # A row's tokens in their order come first, what is padding last.
        order = batch.mask[source].argsort(dim=1, descending=True, stable=True)[:, :width]
        outside = torch.arange(width, device=device) >= length[:, None]
        for layer, new in zip(self._layers, batch.columns.cache.layers, strict=True):
            for buffer, tensor in zip(layer, (new.keys, new.values), strict=True):
                picked = tensor.transpose(1, 2)[source[:, None], order]
                buffer[slot, :, :width] = picked.masked_fill_(outside[:, :, None, None], 0).transpose(1, 2)
                # A number that isn't finite would spoil sums in which its weight is 0.
                buffer[slot, :, width:] = 0
        self.seen[slot] = PADDING
        self.seen[slot, :width] = batch.seen[source[:, None], order].masked_fill_(outside, PADDING)
        self.seen[slot, length] = batch.tokens[source, 0]
        self.tokens[slot] = batch.tokens[source]
        self.positions[slot] = length[:, None]
        self._going[slot] = 1

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows into other slots."""
        old, new = (torch.tensor(numbers, device=self.tokens.device) for numbers in (sources, targets))
        for buffer in (*self.buffers, self.tokens, self.positions, self._going, self.seen):
            buffer[new] = buffer[old]

    def vacate(self, slots: Sequence[int] | None = None) -> None:
        """Let slots stand still until they are put to use again; None: all."""
        chosen: Any = slice(None) if slots is None else torch.tensor(slots, device=self.tokens.device)
        for buffer in (self.tokens, self.positions, self._going):
            buffer[chosen] = 0

    def advance(self, rows: int, tokens: Tensor, *, note: bool) -> None:
        """Feed the first rows with these tokens next.

        Args:
            rows: how many.
            tokens: shape (rows,).
            note: whether to write down what was seen.
        """
        self.tokens[:rows, 0] = tokens
        self.positions[:rows] += self._going[:rows]
        if note:
            self.seen[:rows].scatter_(1, self.positions[:rows], self.tokens[:rows])


class _Corner(DynamicLayer):
    """The keys and values of one layer; each row's new ones are written at its position."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._at = positions[:, :, None, None]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        for buffer, new in ((self.keys, key_states), (self.values, value_states)):
            buffer.scatter_(2, self._at.expand(new.shape), new)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) - 1


def _layout(cache: Any) -> list[Any]:
    return [
        (tensor.shape[1], tensor.shape[3], tensor.dtype, tensor.device)
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    ]
