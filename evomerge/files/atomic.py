"""Text and JSON that a crash leaves whole: the old file or the new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from evomerge.errors import RunError


def json_text(data: Any) -> str:
    """JSON as all our files have it: indented, in any script, ending with a newline."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write JSON by atomic rename."""
    write_atomically(path, json_text(data))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that readers and crashes see the old or the new one. Raises: RunError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path}: can't be written: {error.strerror or error}. Nothing already recorded is lost: "
            "make room or restore access, then run the same command again"
        ) from error


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object of a file; empty if it is missing and may be. Raises: RunError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise RunError(f"{path}: missing") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected a JSON object")
    return data
