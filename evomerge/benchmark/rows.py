"""Rows of a data set from local files, by split. Knows formats; does not know what the columns mean."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.config.benchmark import Files, SplitConfig
from evomerge.errors import BenchmarkError, unknown
from evomerge.files.outside import decode, parse_json
from evomerge.files.places import is_folder, local

FORMATS = (".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one split, and the folder that file names in them are relative to."""

    rows: Sequence[Any]
    """Mappings from columns to values; plain data of any form where a function makes them."""
    folder: Path


def read_rows(data: Files, place: str) -> dict[str, Rows]:
    """Every split of a data set; a single file is the split "all".

    Args:
        data: a file, a folder that `datasets.save_to_disk` wrote, or a file for each split.
        place: in the config, for messages.

    Raises: BenchmarkError if something isn't there, or isn't rows.
    """
    if isinstance(data, dict):
        return {split: _read_file(local(file), f"{place}.{split}") for split, file in data.items()}
    path = local(data)
    return _read_folder(path, place) if is_folder(path) else {"all": _read_file(path, place)}


def source_of(settings: SplitConfig, splits: Mapping[str, Any], place: str) -> str:
    """Name of the data-set split that a role draws on: the one that it names, else "test" or the only one.

    Raises: BenchmarkError if there is none, or it isn't clear which.
    """
    if settings.split is not None:
        if settings.split not in splits:
            raise BenchmarkError(f"{place}: {unknown('split', settings.split, splits)}")
        return settings.split
    if "test" in splits:
        return "test"
    if len(splits) == 1:
        return next(iter(splits))
    raise BenchmarkError(f"{place}: name the split that it draws on: {', '.join(splits)}")


def _read_file(path: Path, place: str) -> Rows:
    try:
        rows = _parse(path, place)
    except OSError as error:
        raise BenchmarkError(f"{place}: {path}: can't be read: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        if isinstance(error, BenchmarkError):
            raise
        raise BenchmarkError(f"{place}: {path}: isn't valid {path.suffix[1:]}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BenchmarkError(f"{place}: {path}: expected a list of rows, each with columns by name")
    return Rows(rows, path.absolute().parent)


def _parse(path: Path, place: str) -> Any:
    if path.suffix == ".json":
        return parse_json(path.read_bytes(), f"{place}: {path}", BenchmarkError)
    if path.suffix == ".jsonl":
        lines = decode(path.read_bytes(), f"{place}: {path}", BenchmarkError).split("\n")
        return [
            parse_json(line, f"{place}: {path}: line {number}", BenchmarkError)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        from pyarrow import parquet

        with path.open("rb") as file:
            try:
                return parquet.read_table(file).to_pylist()
            except Exception as error:
                raise BenchmarkError(f"{place}: {path}: isn't valid parquet: {error}") from error
    raise BenchmarkError(f"{place}: {path}: expected a file that ends in {', '.join(FORMATS)}, or a folder")


def _read_folder(path: Path, place: str) -> dict[str, Rows]:
    from datasets import Dataset, DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:
        raise BenchmarkError(
            f"{place}: {path}: isn't a folder that datasets.save_to_disk wrote ({type(error).__name__}: {error})"
        ) from error
    splits = found if isinstance(found, DatasetDict) else {"all": found}
    return {name: Rows(_named(split), path.absolute()) for name, split in splits.items() if isinstance(split, Dataset)}


def _named(dataset: Any) -> list[dict[str, Any]]:
    """Rows of a data set, numbers of a named class replaced by the name, images as they are stored."""
    from datasets import ClassLabel, Image

    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    classes = {column: kind for column, kind in dataset.features.items() if isinstance(kind, ClassLabel)}
    return [
        {**row, **{column: kind.int2str(row[column]) for column, kind in classes.items() if row[column] is not None}}
        for row in dataset
    ]
