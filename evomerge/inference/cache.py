"""Cached keys and values of first tokens, as transformers' models take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, DynamicLayer


class PrefixCache:
    """The keys and values of a prefix in every layer, one row.

    Attributes:
        cache: what a model takes as `past_key_values`, and adds to.
    """

    def __init__(self) -> None:
        self.cache: Any = Cache(layer_class_to_replicate=DynamicLayer)

    def below(self, rows: int) -> PrefixCache:
        """For one pass of rows that continue this prefix: they share its memory, and leave nothing in it."""
        made = PrefixCache()
        made.cache = Cache(layers=[_Passing(layer.keys, layer.values, rows) for layer in self.cache.layers])
        return made

    def copy(self) -> PrefixCache:
        """For a prefix that continues this one."""
        made = PrefixCache()
        for layer in self.cache.layers:
            made.cache.layers.append(_filled(DynamicLayer(), layer.keys, layer.values))
        return made

    @property
    def columns(self) -> int:
        """Tokens of the prefix."""
        columns: int = self.cache.layers[0].keys.shape[2]
        return columns

    @property
    def size_bytes(self) -> int:
        """Memory of the keys and values."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer in self.cache.layers
            for tensor in (layer.keys, layer.values)
        )


class _Passing(DynamicLayer):
    """Keys and values that were computed before; those of this pass aren't kept."""

    keys: Any
    values: Any

    def __init__(self, keys: Tensor, values: Tensor, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        _filled(self, keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1))

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _filled(layer: Any, keys: Tensor, values: Tensor) -> Any:
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


class Columns:
    """Keys and values of rows that are being continued, column by column, with room to grow in place.

    Attributes:
        cache: what a model takes as `past_key_values`, and adds to.
    """

    def __init__(self, prefix: PrefixCache | None, rows: int) -> None:
        self.cache: Any = Cache(layer_class_to_replicate=_Growing)
        if prefix is not None:
            for layer in prefix.cache.layers:
                grown = _Growing()
                grown.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1))
                self.cache.layers.append(grown)

    def select(self, rows: Tensor, first: int) -> None:
        """Keep only these rows, without the first columns."""
        for layer in self.cache.layers:
            here = rows.to(layer.keys.device)
            layer.replace(layer.keys[here, :, first:], layer.values[here, :, first:])

    def join(self, other: Columns) -> None:
        """Add the other's rows below; the shorter ones are padded on the left with zeros."""
        for mine, others in zip(self.cache.layers, other.cache.layers, strict=True):
            columns = max(mine.keys.shape[2], others.keys.shape[2])
            mine.replace(
                *(_stacked(pair, columns) for pair in ((mine.keys, others.keys), (mine.values, others.values)))
            )


class _Growing(DynamicLayer):
    """Columns are written into spare room, which is made anew when it is used up."""

    keys: Any
    values: Any
    _SPARE = 64

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.replace(key_states, value_states)
            return self.keys, self.values
        first, last = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if last > self._buffers[0].shape[2]:
            self.replace(self.keys, self.values, spare=key_states.shape[2] + self._SPARE)
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, first:last] = new
        self.keys, self.values = (buffer[:, :, :last] for buffer in self._buffers)
        return self.keys, self.values

    def replace(self, keys: Tensor, values: Tensor, *, spare: int = _SPARE) -> None:
        """Hold these columns, in memory of their own."""
        columns = keys.shape[2]
        made = []
        for tensor in (keys, values):
            rows, heads, _, size = tensor.shape
            buffer = tensor.new_empty((rows, heads, columns + spare, size))
            buffer[:, :, :columns] = tensor
            made.append(buffer)
        self._buffers = made
        self.keys, self.values = (buffer[:, :, :columns] for buffer in self._buffers)


def _stacked(pair: tuple[Tensor, Tensor], columns: int) -> Tensor:
    return torch.cat([pad(tensor, (0, 0, columns - tensor.shape[2], 0)) for tensor in pair])
