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


def not_begun_below(folder: Path) -> Iterator[Path]:
    """Folders in a folder, itself included, that hold nothing but what was merged first for a search to come."""
    for place, folders, files in os.walk(folder):
        if MERGED in folders and not {*files} - {"lock"} and len(folders) == 1 and _is_ours(Path(place) / MERGED):
            yield Path(place)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in {MERGED, PREPARED})


def removable(run: Path) -> list[Removable]:
    """What a run directory can do without: prepared states, and halves of files that killed drivers left.

    All, of one whose search hasn't begun.
    """
    found = []
    reasons = {PREPARED: "computed again when needed"}
    if not (run / "run.json").exists():
        reasons[MERGED] = "merged for a search that hasn't begun, and merged again when it does"
    for name, why in reasons.items():
        path = run / name
        if path.is_dir() and not path.is_symlink():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
            found.append(Removable(path=path, why=why, size_bytes=size))
    for path in left_over(run):
        found.append(Removable(path=path, why="left half-made", size_bytes=path.lstat().st_size))
    return found


def _is_ours(merged: Path) -> bool:
    """Whether each folder is one of a model that was merged first: then its record is beside it."""
    names = [path.name for path in merged.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return not merged.is_symlink() and all((merged / f"{name.removesuffix('.steps')}.json").is_file() for name in names)
