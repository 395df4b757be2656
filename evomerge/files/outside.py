"""Files that somebody else wrote: text, JSON and plain data, read so that none of them can crash or stall the reader.

Knows encodings, sizes and nesting. Doesn't know what a file means: whoever reads it says which error a wrong one is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import EvomergeError, shown

Problem = type[EvomergeError]
"""The class of the error that a wrong file is, such as ConfigError."""

MAX_TEXT_BYTES = 16_000_000
"""Of files that people write, which YAML is read from."""
MAX_JSON_BYTES = 1_000_000_000
"""Of JSON that programs write, such as a tokenizer with all its merges."""

_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000
_MAX_DIGITS = 300
"""Of whole numbers; the largest float has 309, so that each of them has a float beside it."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path, problem: Problem, *, limit: int = MAX_TEXT_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Args:
        path: the file.
        problem: what to raise.
        limit: most bytes that it may have.

    Raises: `problem`, naming the file, and the line of a byte that isn't UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise problem(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    except MemoryError as error:
        raise problem(f"{path}: is too large for this machine's memory") from error
    if len(data) > limit:
        raise problem(f"{path}: is larger than {limit // 1_000_000:,} MB, so it is hardly what it should be")
    return decode(data, str(path), problem)


def decode(data: bytes, where: str, problem: Problem) -> str:
    """UTF-8 as text, without a byte order mark. Raises: `problem`, naming the line of a byte that isn't."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise problem(f"{where}: is UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise problem(
            f"{where}: line {line}: isn't UTF-8 text (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error


def read_json(path: Path, problem: Problem, *, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises: `problem`, as `read_text` and `parse_json`, and if it is no object."""
    data = parse_json(read_text(path, problem, limit=limit), str(path), problem)
    if not isinstance(data, dict):
        raise problem(f"{path}: expected a JSON object, got {shown(data)}")
    return data


def parse_json(text: str | bytes, where: str, problem: Problem) -> Any:
    """JSON as plain data. Raises: `problem` for what is no JSON, is nested too deeply or can't be written again."""
    text = decode(text, where, problem) if isinstance(text, bytes) else text
    try:
        data = json.loads(text, parse_int=_whole)
    except RecursionError as error:
        raise problem(f"{where}: not valid JSON: nested too deeply") from error
    except ValueError as error:
        raise problem(f"{where}: not valid JSON: {error}") from error
    _measure(data, where, problem, most=None)
    if _ESCAPED_SURROGATE.search(text) and _SURROGATE.search(json.dumps(data, ensure_ascii=False)):
        raise problem(f"{where}: holds half a character (a lone surrogate such as \\ud83d), which is no text")
    return data


def check_plain(data: Any, where: str, problem: Problem) -> None:
    """Check that data consists of mappings, lists, texts, numbers, true, false and null, within reasonable limits.

    Raises: `problem` for anything else, and for mappings or lists that hold themselves or are too many.
    """
    _measure(data, where, problem, most=_MAX_VALUES)
    level = [data]
    while level:
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                for key in value:
                    _check_scalar(key, where, problem)
                deeper.extend(value.values())
            elif isinstance(value, list | tuple):
                deeper.extend(value)
            else:
                _check_scalar(value, where, problem)
        level = deeper


def _check_scalar(value: Any, where: str, problem: Problem) -> None:
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise problem(f"{where}: {shown(value)} holds half a character (a lone surrogate), which is no text")
    elif isinstance(value, int):
        if abs(value) >= 10**_MAX_DIGITS:
            raise problem(f"{where}: a whole number of more than {_MAX_DIGITS} digits")
    elif not isinstance(value, float | None):
        raise problem(f"{where}: expected text, numbers, lists and mappings, got {shown(value)}")


def _measure(data: Any, where: str, problem: Problem, *, most: int | None) -> None:
    """Refuse what is nested too deeply, as all that holds itself is, and what has more than `most` values in all."""
    level = [data] if isinstance(data, Mapping | list | tuple) else []
    depth = values = 0
    while level:
        depth += 1
        values += sum(map(len, level))
        if depth > _MAX_DEPTH:
            raise problem(f"{where}: is nested more than {_MAX_DEPTH} levels deep, or holds itself")
        if most is not None and values > most:
            raise problem(f"{where}: holds more than {most:,} values")
        level = [
            value
            for part in level
            for value in (part.values() if isinstance(part, Mapping) else part)
            if isinstance(value, Mapping | list | tuple)
        ]


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits")
    return int(digits)
