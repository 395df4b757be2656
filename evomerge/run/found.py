"""Run directories below a folder, and what each may do without.

Knows names and sizes of files. Opens no ledger.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evomerge.run.directory import PREPARED, left_over
from evomerge.run.merged import MERGED


@dataclass(frozen=True, slots=True, kw_only=True)
class Removable:
    """Something in a run directory that is made again when it is needed, or of no use any more."""

    path: Path
    why: str
    size_bytes: int


def runs_below(folder: Path) -> Iterator[Path]:
    """Run directories in a folder, itself and those inside runs included, by name."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in {MERGED, PREPARED})
        if "run.json" in files:
            yield Path(place)


def removable(run: Path) -> list[Removable]:
    """What a run directory can do without: prepared states, and halves of files that killed drivers left."""
    found = []
    prepared = run / PREPARED
    if prepared.is_dir() and not prepared.is_symlink():
        size = sum(file.stat().st_size for file in prepared.rglob("*") if file.is_file() and not file.is_symlink())
        found.append(Removable(path=prepared, why="computed again when needed", size_bytes=size))
    for path in left_over(run):
        found.append(Removable(path=path, why="left half-made", size_bytes=path.lstat().st_size))
    return found
