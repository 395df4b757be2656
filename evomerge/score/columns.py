"""Columns of a table as compact JSON data: numbers in the smallest exact type, everything else as it is."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

_TYPES = ("|u1", "<i4", "<f4", "<f8")


def encode(values: Sequence[Any]) -> Any:
    """A column of numbers as its type and bytes in base64; any other column as a list of JSON data."""
    if not values or not all(isinstance(value, int | float) for value in values):
        return list(values)
    exact = np.array(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        name = next(name for name in _TYPES if np.array_equal(exact.astype(name), exact, equal_nan=name[1] == "f"))
    return {"type": name, "data": base64.b64encode(exact.astype(name).tobytes()).decode()}


def decode(column: Any) -> tuple[Any, ...]:
    """The inverse of `encode`; numbers come back as floats. Raises: ValueError for an unknown type."""
    if not isinstance(column, dict):
        return tuple(column)
    if column["type"] not in _TYPES:
        raise ValueError(f"unknown column type {column['type']!r}")
    return tuple(np.frombuffer(base64.b64decode(column["data"]), dtype=column["type"]).astype(np.float64).tolist())


def pack(data: Any) -> bytes:
    """JSON data, compressed."""
    return zlib.compress(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode(), 6)


def unpack(packed: bytes) -> Any:
    """The inverse of `pack`. Raises: ValueError if it is damaged."""
    try:
        return json.loads(zlib.decompress(packed))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def to_text(packed: bytes) -> str:
    """Bytes as text that fits in JSON."""
    return base64.b64encode(packed).decode()


def from_text(text: str) -> bytes:
    """The inverse of `to_text`. Raises: ValueError if it is damaged."""
    return base64.b64decode(text, validate=True)
