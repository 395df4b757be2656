"""Labelled texts and images as a classifier's inputs, as the `labels` benchmark makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.benchmark.images import ImageEncoder, image_key
from evomerge.errors import BenchmarkError, TuningError, listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning.rows import Row, hold_out
from evomerge.tuning.settings import TuneData, TuneSettings

_KEPT_BYTES = 2**30
"""Of images as pixel values; those for which there is no room are made anew each time."""
_CLASS = {"text": "ForSequenceClassification", "image": "ForImageClassification"}


@dataclass(frozen=True, slots=True)
class Labelled:
    """An item's inputs, which an image's are made from each time that they are asked for, and its label's number."""

    inputs: Mapping[str, NDArray[np.generic]]
    label: int


def label_names(rows: Sequence[Row], data: TuneData, base: Checkpoint) -> tuple[str, ...]:
    """Names of the labels in the model's order: the base's own, or those of the data for a new head.

    Raises: TuningError if the base has no head for them, or the data have one class only.
    """
    assert data.label is not None
    found = [str(row.values[data.label]) for row in rows]
    kind = "image" if data.image is not None else "text"
    if data.new_head:
        numbers = all(name.isdecimal() for name in found)
        names = tuple(sorted(set(found), key=int if numbers else None))
    else:
        if not (base.architecture or "").endswith(_CLASS[kind]):
            raise TuningError(
                f"{base.folder}: is a {base.architecture or 'model without a class'}, which has no head for labels of "
                f"{kind}s; tune a {_CLASS[kind]}, or give it a new head (--new-head)"
            )
        if (problem := base.config.get("problem_type")) not in {None, "single_label_classification"}:
            raise TuningError(f"{base.folder}: is made for {problem}; labels are one for each item")
        named = base.config.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}
        names = tuple(str(named[number]) for number in sorted(named, key=int))
    if len({_number(name, names) for name in found}) < 2:
        raise TuningError(
            f"label: all {len(found)} items have the label {found[0]!r}; a classifier needs at least two classes"
        )
    return names


def encoded(
    rows: Sequence[Row],
    given: Sequence[Row] | None,
    data: TuneData,
    settings: TuneSettings,
    base: Checkpoint,
    names: Sequence[str],
) -> tuple[list[Labelled], list[Labelled], str]:
    """Items to train on, items that are held out, and how these were chosen, in words.

    Raises: TuningError for labels that the model hasn't, texts that are too long, and what is no image.
    """
    encoder = _Images(base) if data.image is not None else _Texts(base, settings.length)
    strange = {name: row.place for row in (*rows, *(given or ())) if _number(name := _label(row, data), names) is None}
    if strange:
        raise TuningError(
            f"{next(iter(strange.values()))}: label: the model has no label {listed(map(repr, strange))}; its labels "
            f"are {listed(map(repr, names), 20)} (id2label in its config.json)"
        )

    def make(chosen: Sequence[Row]) -> list[Labelled]:
        return [Labelled(encoder.encode(row, data), _number(_label(row, data), names) or 0) for row in chosen]

    train, held, how = hold_out(rows, given, lambda row: encoder.key(row, data), settings, "items drawn at random")
    return make(train), make(held), how


class LabelledBatch:
    """Puts items into a batch, shorter texts padded on the right.

    Args:
        padding: id of the token that fills up; None where none is needed.
        dtype: of the pixels.
    """

    def __init__(self, padding: int | None, dtype: torch.dtype) -> None:
        self._padding, self._dtype = padding, dtype

    def __call__(self, items: Sequence[Labelled]) -> dict[str, Tensor]:
        """The model's arguments."""
        made = {}
        inputs = [dict(item.inputs) for item in items]
        for name in inputs[0]:
            columns = [given[name] for given in inputs]
            if columns[0].ndim == 1:
                width, fill = max(map(len, columns)), (self._padding or 0) if name == "input_ids" else 0
                columns = [np.pad(row, (0, width - len(row)), constant_values=fill) for row in columns]
            stacked = torch.from_numpy(np.stack(columns))
            made[name] = stacked.to(self._dtype) if stacked.is_floating_point() else stacked
        return {**made, "labels": torch.tensor([item.label for item in items])}


class _Texts:
    def __init__(self, base: Checkpoint, length: int | None) -> None:
        self._tokenizer, self._length = base.tokenizer(), length
        positions = base.config.get("max_position_embeddings")
        limits = [positions, self._tokenizer.model_max_length]
        self._limit = min(limit for limit in limits if isinstance(limit, int))

    def key(self, row: Row, data: TuneData) -> Hashable:
        return tuple(row.values[column] for column in data.columns[:-1])

    def encode(self, row: Row, data: TuneData) -> dict[str, NDArray[np.generic]]:
        texts = [row.values[column] for column in data.columns[:-1]]
        cut = {"truncation": True, "max_length": self._length} if self._length is not None else {}
        made = self._tokenizer(*texts, verbose=False, **cut)
        if (count := len(made["input_ids"])) > self._limit:
            raise TuningError(
                f"{row.place}: has {count} tokens, and the model takes {self._limit}; shorten it, or have all texts "
                f"cut (--length {self._limit})"
            )
        if not count:
            raise TuningError(f"{row.place}: makes no token")
        return {name: np.array(column, dtype=np.int64) for name, column in made.items()}


class _Images:
    def __init__(self, base: Checkpoint) -> None:
        self._encoder, self._room = ImageEncoder(base, "data"), _KEPT_BYTES

    def key(self, row: Row, data: TuneData) -> Hashable:
        try:
            return hashlib.sha256(repr(image_key(row.values[data.columns[0]], row.folder)).encode()).digest()
        except (OSError, ValueError) as error:
            raise TuningError(f"{row.place}: {error}") from error

    def encode(self, row: Row, data: TuneData) -> Mapping[str, NDArray[np.generic]]:
        try:
            made = self._encoder.encode([row.values[data.columns[0]]], row.folder)
            # Read before training, so that what is no image is found now; few or small ones are kept.
            pixels = dict(made)
            size = sum(column.nbytes for column in pixels.values())
            if size > self._room:
                return made
            self._room -= size
            return pixels
        except BenchmarkError:
            raise
        except (OSError, ValueError, TypeError) as error:
            raise TuningError(f"{row.place}: {error}") from error


def _label(row: Row, data: TuneData) -> str:
    return str(row.values[data.columns[-1]])


def _number(label: str, names: Sequence[str]) -> int | None:
    if label in names:
        return [*names].index(label)
    return int(label) if label.isdecimal() and int(label) < len(names) else None
