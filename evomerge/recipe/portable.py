"""A recipe that can be passed on: its local folders are named from the recipe's own folder, and tell nothing of a disk.

Does not know whether the folders are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.files.places import is_folder, local
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference

_MOST_STEPS_UP = 3


def is_local(reference: ModelReference) -> bool:
    """Whether a model is a folder of this machine and not a hub id."""
    path = local(reference.path)
    return path.is_absolute() or reference.path.startswith(".") or is_folder(path)


def portable(recipe: Recipe, folder: Path, named: Mapping[str, str] | None = None) -> Recipe:
    """The recipe with local folders relative to the folder that it is written to, but for those that are `named`.

    A folder that lies far from there, so that the way to it would name parts of the disk that are nobody's business,
    becomes `./NAME`, with the model's name in the recipe: the recipe can be used with the model put there.
    """

    def found(name: str, reference: ModelReference) -> ModelReference:
        if named and reference.path in named:
            return ModelReference(path=named[reference.path])
        return _portable(name, reference, folder)

    return replace(
        recipe,
        base=found("base", recipe.base),
        experts={name: found(name, expert) for name, expert in recipe.experts.items()},
    )


def _portable(name: str, reference: ModelReference, folder: Path) -> ModelReference:
    if not is_local(reference):
        return reference
    path, start = local(reference.path).absolute(), local(folder).absolute()
    way = Path(os.path.relpath(path, start))
    shared = Path(os.path.commonpath([path, start]))
    # Below a folder of all users the next name is somebody's.
    is_near = way.parts.count("..") <= _MOST_STEPS_UP and shared not in {*Path.home().parents, Path("/")}
    near = way.as_posix() if way.parts[:1] == ("..",) else f"./{way.as_posix()}"
    return replace(reference, path=near if is_near else f"./{name}")
