"""What a shell proposes on Tab for arguments: run directories, YAML files and merge methods.

Looks at names on disk alone, a few levels deep and a bounded number of them; opens no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from evomerge.files.places import YAML_ENDS

_DEPTH = 3
_MOST_ENTRIES = 5000


def runs(incomplete: str) -> list[str]:
    """Run directories whose path begins so."""
    return _below(incomplete, _is_run)


def configs(incomplete: str) -> list[str]:
    """YAML files whose path begins so."""
    return _below(incomplete, _is_yaml)


def configs_and_runs(incomplete: str) -> list[str]:
    """YAML files and run directories whose path begins so."""
    return _below(incomplete, lambda entry: _is_run(entry) or _is_yaml(entry))


def methods(incomplete: str) -> list[str]:
    """Merge methods whose name begins so."""
    from evomerge.methods import METHODS

    return [name for name in METHODS.names() if name.startswith(incomplete)]


def _is_run(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and os.path.exists(os.path.join(entry.path, "run.json"))


def _is_yaml(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(YAML_ENDS) and entry.is_file()


def _below(incomplete: str, is_wanted: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Paths that begin with a text, written as the text is; nearer ones first.

    They are named whole, because a shell ends a word after what a command proposes, so a folder would be no step.
    """
    start = incomplete[: incomplete.rfind("/") + 1]
    found: list[str] = []
    level, seen = [start], 0
    for _ in range(_DEPTH):
        deeper: list[str] = []
        for folder in level:
            try:
                entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
            except OSError:
                continue
            for entry in entries:
                seen += 1
                if seen > _MOST_ENTRIES:
                    return found
                path = f"{folder}{entry.name}"
                if entry.name.startswith(".") or not path.startswith(incomplete):
                    continue
                if is_wanted(entry):
                    found.append(path)
                if entry.is_dir() and not _is_run(entry):
                    deeper.append(f"{path}/")
        level = deeper
    return found
