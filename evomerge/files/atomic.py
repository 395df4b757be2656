"""Text and JSON that a crash leaves whole: the old file or the new one.

Both can end with a checksum of what stands before, so that a flipped bit is found. Files of earlier releases, and those
whose checksum somebody took out, are read as they are.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.files.lines import remedy
from evomerge.files.obstacles import obstacle

_KEY = "checksum"
_MARK = "crc32:"


def json_text(data: Any) -> str:
    """JSON as all our files have it: indented, in any script, ending with a newline."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object by atomic rename, its checksum as the last key."""
    write_atomically(path, json_text({**data, _KEY: _checksum(json_text(data))}))


def with_checksum(text: str, words: str) -> str:
    """YAML text with its checksum, and some words about that, in a comment at the end."""
    return f"{text}# {_KEY}: {_checksum(text)} ({words})\n"


def without_checksum(path: Path) -> tuple[str, bool]:
    """The text of a file that `with_checksum` made, and whether it has a checksum. Raises: RunError."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {error}; {remedy(path.parent)}") from error
    content, comment, last = text.rpartition(f"# {_KEY}: ")
    if not comment:
        if _MARK in text.rpartition("\n# ")[2]:
            raise RunError(f"{path}: is damaged (its checksum is wrong); {remedy(path.parent)}")
        return text, False
    if last.partition(" ")[0] != _checksum(content):
        raise RunError(
            f"{path}: isn't as it was written (its checksum is wrong). If you changed it on purpose, delete its last "
            f"line; otherwise {remedy(path.parent)}"
        )
    return content, True


def write_atomically(path: Path, content: str | bytes, *, parents: bool = False) -> None:
    """Write a file, text as UTF-8, so that readers and crashes see the old or the new one; if asked for, with the
    folders that it is in. Raises: RunError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: can't be written: {obstacle(error, path)}. Nothing already recorded is lost"
        ) from error


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object of a file; empty if it is missing and may be. Raises: RunError, also if it is damaged."""
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise RunError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: can't be read: {error}; {remedy(path.parent)}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object; {remedy(path.parent)}")
    if _KEY in data or str(next(reversed(data.values()), "")).startswith(_MARK):
        found = data.pop(_KEY, None)
        if found != _checksum(json_text(data)):
            raise RunError(f"{path}: is damaged (its checksum is wrong); {remedy(path.parent)}")
    return data


def _checksum(text: str) -> str:
    return f"{_MARK}{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
