"""Training data from files: documents and rows, and which of them are held out. Does not know models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.benchmark.rows import FORMATS, read_rows
from evomerge.errors import TuningError, shown, unknown
from evomerge.files.outside import read_text
from evomerge.files.places import local
from evomerge.streams import stream
from evomerge.tuning.settings import TuneData, TuneSettings

TEXTS = (".txt", ".md", ".text")
"""Ends of the names of files that are one document each."""
_MAX_TEXT_BYTES = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """An item's values by column, where they are from, and the folder that file names in them are relative to."""

    values: Mapping[str, Any]
    place: str
    folder: Path


def read(data: TuneData) -> tuple[list[Row], list[Row] | None]:
    """The rows to train on, and those that are given to be held out.

    Raises: TuningError or BenchmarkError for what isn't there, isn't rows, or lacks a column or a value.
    """
    rows = [row for file in data.data for row in _read(local(file), data)]
    held_out = None
    if data.validation_data is not None:
        held_out = _read(local(data.validation_data), data, split="validation")
    return rows, held_out


def hold_out(
    rows: Sequence[Row],
    given: Sequence[Row] | None,
    key: Callable[[Row], Hashable],
    settings: TuneSettings,
    drawn: str,
) -> tuple[Sequence[Row], Sequence[Row], str]:
    """What is trained on, what is held out, and how this was chosen, in words; rows of equal keys stay together.

    Args:
        rows: those read.
        given: those that are given to be held out; None: some of `rows` are drawn.
        key: what two rows have in common that are the same.
        settings: `validation` is the share of the different keys that are drawn, by `seed`; at least one is left to
            train on.
        drawn: how they were chosen if they are drawn.
    """
    if given is not None:
        return rows, given, "data of their own"
    keys = [key(row) for row in rows]
    different = [*dict.fromkeys(keys)]
    count = min(round(settings.validation * len(different)), len(different) - 1)
    order = stream(settings.seed, "validation").permutation(len(different))[:count]
    chosen = {different[place] for place in order}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row, own in zip(rows, keys, strict=True):
        sides[own in chosen].append(row)
    return *sides, drawn


def _read(path: Path, data: TuneData, split: str = "train") -> list[Row]:
    if path.suffix in TEXTS:
        if (column := data.label or data.answer) is not None:
            raise TuningError(f"{path}: is plain text, which has no column {column!r}; give {', '.join(FORMATS)}")
        text = read_text(path, TuningError, limit=_MAX_TEXT_BYTES)
        if not text.strip():
            raise TuningError(f"{path}: holds no text")
        return [Row({data.columns[0]: text}, str(path), path.parent)]
    if not path.is_dir() and path.suffix not in FORMATS:
        there = "" if path.exists() else "isn't there; "
        raise TuningError(
            f"{path}: {there}expected a text file ({', '.join(TEXTS)}), rows ({', '.join(FORMATS)}), or a folder of "
            "datasets.save_to_disk"
        )
    splits = read_rows(str(path), "data")
    if len(splits) > 1 and split not in splits:
        raise TuningError(f"{path}: has no split {split!r}, only {', '.join(splits)}; give the files themselves")
    found = splits[split] if split in splits else next(iter(splits.values()))
    if not found.rows:
        raise TuningError(f"{path}: holds no rows")
    rows = [Row(row, f"{path}: row {number}", found.folder) for number, row in enumerate(found.rows)]
    for row in rows:
        _check(row, data)
    return rows


def _check(row: Row, data: TuneData) -> None:
    for column in data.columns:
        if column not in row.values:
            raise TuningError(f"{row.place}: {unknown('column', column, map(str, row.values))}")
        value = row.values[column]
        if value is None:
            raise TuningError(f"{row.place}: {column} has no value")
        if column in (data.pair, data.answer, data.columns[0]) and data.image is None:
            if not isinstance(value, str):
                raise TuningError(f"{row.place}: {column}: expected text, found {shown(value)}")
            if not value.strip():
                raise TuningError(f"{row.place}: {column} is empty")
