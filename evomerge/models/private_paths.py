"""Paths of a machine in the settings of a model that is passed on, which are nobody's business and open nowhere else.

Tools write where a model was loaded from into its settings. Nothing is computed from that.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from evomerge.files.atomic import json_text

_KEYS = frozenset({"_name_or_path", "name_or_path", "tokenizer_file", "base_model_name_or_path"})
_FILES = ("config.json", "tokenizer_config.json", "generation_config.json")


def without_places(folder: Path) -> list[str]:
    """Keep only the last name of absolute paths in a folder's settings; a sentence on each file that had any."""
    notes = []
    for name in _FILES:
        file = folder / name
        if not file.is_file():
            continue
        settings = json.loads(file.read_text(encoding="utf-8"))
        if found := _shorten(settings):
            file.write_text(json_text(settings), encoding="utf-8")
            notes.append(f"{name}: {', '.join(found)} held a path of another machine or this one; its last name stays")
    return notes


def _shorten(settings: Any) -> list[str]:
    """Change paths in place; the keys that had any."""
    found: list[str] = []
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if isinstance(value, dict):
            found += _shorten(value)
        elif key in _KEYS and isinstance(value, str) and (value.startswith(("/", "~")) or value[1:3] == ":\\"):
            settings[key] = (PureWindowsPath if "\\" in value else PurePosixPath)(value).name
            found.append(key)
    return found
