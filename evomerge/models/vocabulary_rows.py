"""Where each row of a merged vocabulary comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.tokenizers import UnionTokenizer

Rows = NDArray[np.int64]
"""For each row of a merge's vocabulary, the row of a model's tensor; -1 if the model hasn't the token."""

_MAX_PADDING = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows of one tensor of one model."""

    model: Checkpoint
    name: str
    rows: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """A tensor with a row per token of the merge: the model's own, and where it has none the mean of the others'."""

    own: Source
    others: tuple[Source, ...]


def rows_of(model: Checkpoint) -> int:
    """Rows of a model's embedding."""
    assert model.embedding is not None
    return model.embedding.shape[0]


def num_rows(base: Checkpoint, old: Mapping[str, int], new: Mapping[str, int]) -> int:
    """Rows for all tokens, padded as the base's embedding is."""
    stored, needed = rows_of(base), max(new.values()) + 1
    if needed <= stored:
        return stored
    is_padded = stored > max(old.values()) + 1
    multiple = min(stored & -stored, _MAX_PADDING) if is_padded else 1
    return -(-needed // multiple) * multiple


def rows_for(own: Mapping[str, int], ids: Mapping[str, int], rows: int) -> Rows:
    """A model's own row for each row of the merge; -1 where it has no such token."""
    found = np.full(rows, -1, dtype=np.int64)
    for token, number in ids.items():
        if number < rows:
            found[number] = own.get(token, -1)
    return found


def base_rows(base: Checkpoint, merged: UnionTokenizer, name: str, rows: int, others: tuple[Source, ...]) -> Rows:
    """The base's row of each of its tokens, and of rows without a token; -1 where experts' rows are to be had."""
    stored = base.tensors[name].shape[0]
    found = np.minimum(np.arange(rows), stored - 1)
    had = np.any([other.rows >= 0 for other in others], axis=0)
    added = {token for tokens in merged.added.values() for token in tokens}
    for token, number in merged.ids.items():
        if token not in added and number < stored:
            continue
        if had[number]:
            found[number] = -1
        elif token in added:
            raise CheckpointError(
                f"{name}: no model has a row for the token {token!r}, which an expert adds: its embedding was resized, "
                "and this tensor wasn't saved. Save an adapter with save_embedding_layers=True"
            )
    return found


def source_of(model: Checkpoint, name: str, rows: Rows) -> Source:
    """Rows of one tensor, which may have fewer than the embedding, in an adapter that resized that alone."""
    return Source(model=model, name=name, rows=np.where(rows < model.tensors[name].shape[0], rows, -1))


def is_in_place(has: Rows, ids: Mapping[str, int]) -> bool:
    """Whether every token has the merge's own row; rows without a token don't count."""
    numbers = np.array([number for number in ids.values() if number < len(has)], dtype=np.int64)
    return bool((has[numbers] == numbers).all())


def copy_rows(source: Source, here: NDArray[np.bool_], out: Tensor) -> None:
    """Put the source's rows where `here` is true."""
    tensor, rows, places = source.model.tensor(source.name), source.rows[here], np.flatnonzero(here)
    if len(rows) and (np.diff(rows) == 1).all() and (np.diff(places) == 1).all():
        # As a rule new tokens are at the end, and one copy of a stretch is several times as fast.
        out[places[0] : places[-1] + 1].copy_(tensor[rows[0] : rows[-1] + 1])
    else:
        out[torch.from_numpy(places)] = tensor[torch.from_numpy(rows)].to(out.dtype)


def fill_rows(others: tuple[Source, ...], here: NDArray[np.bool_], out: Tensor) -> None:
    """Put the mean over the others that have a token, rounded once, where `here` is true."""
    total = torch.zeros((int(here.sum()), *out.shape[1:]), dtype=torch.float64)
    count = torch.zeros(len(total), dtype=torch.float64)
    for other in others:
        rows = other.rows[here]
        has = torch.from_numpy(np.flatnonzero(rows >= 0))
        if len(has):
            total[has] += other.model.tensor(other.name)[torch.from_numpy(rows[rows >= 0])].to(torch.float64)
            count[has] += 1
    count = count.reshape(-1, *(1 for _ in out.shape[1:]))
    out[torch.from_numpy(np.flatnonzero(here))] = (total / count).to(out.dtype)
