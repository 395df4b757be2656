"""What a fastText model's file holds, read without fastText: whether it is whole, and its labels.

Knows the format of version 12. Does not know what the labels mean, or how text is classified.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC, _VERSION = 793712314, 12
_ARGUMENTS = struct.Struct("<12id")
_COUNTS = struct.Struct("<3i2q")
_ENTRY = struct.Struct("<qb")
_MATRIX = struct.Struct("<?2q")
_SUPERVISED = 3
_LABEL = 1
_FLOAT = 4


def labels_of(path: Path) -> list[str]:
    """The labels of a classifier, in the file's order.

    Raises: ValueError for a file that isn't one, or isn't whole, or whose numbers are quantised; OSError.
    """
    with path.open("rb") as file:
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ValueError("the file is empty") from error
        with view:
            try:
                return _labels(view)
            except struct.error as error:
                raise ValueError("the file ends too early") from error


def _labels(view: mmap.mmap) -> list[str]:
    magic, version = struct.unpack_from("<2i", view)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError(f"not fastText's format of version {_VERSION}")
    place = 8
    settings = _ARGUMENTS.unpack_from(view, place)
    place += _ARGUMENTS.size
    dimension, model, buckets = settings[0], settings[7], settings[8]
    if model != _SUPERVISED:
        raise ValueError("it holds word vectors, not a classifier")
    size, words, labels, _, pruned = _COUNTS.unpack_from(view, place)
    place += _COUNTS.size
    if min(dimension, labels) < 1 or min(words, buckets) < 0 or size != words + labels:
        raise ValueError("its counts contradict each other")
    if pruned >= 0:
        raise ValueError("its words are pruned, as in a quantised model")
    found = []
    for _ in range(size):
        end = view.find(b"\0", place)
        if end < 0:
            raise ValueError("the file ends too early")
        _, kind = _ENTRY.unpack_from(view, end + 1)
        if kind == _LABEL:
            found.append(view[place:end].decode("utf-8", "replace"))
        place = end + 1 + _ENTRY.size
    if len(found) != labels:
        raise ValueError("its counts contradict each other")
    for rows in (words + buckets, labels):
        quantised, height, width = _MATRIX.unpack_from(view, place)
        if quantised or (height, width) != (rows, dimension):
            raise ValueError("its matrices have another shape than its counts say, or are quantised")
        place += _MATRIX.size + _FLOAT * height * width
    if place != len(view):
        raise ValueError(f"the file has {len(view)} bytes instead of {place}")
    return found
