"""Recipes of tiny families for writing folders."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference


def recipe_of(folders: Mapping[str, Path], **settings: Any) -> Recipe:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    groups = (
        Group(name="mlp", kinds=("mlp",), coefficients={"weight": {"a": 0.3, "b": 0.9}}),
        Group(name="rest", coefficients={"weight": {"a": 0.6, "b": -0.2}, "scale": 0.5}),
    )
    return Recipe(
        **{"base": references.pop("base"), "experts": references, "method": "weighted", "groups": groups, **settings}
    )


def weight_bytes(folder: Path) -> int:
    return sum(tensor.nbytes for file in folder.glob("*.safetensors") for tensor in load_file(file).values())


def copy_with(folder: Path, target: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A copy of a model in one file, with some tensors replaced."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    save_file({**load_file(file), **tensors}, file, metadata={"format": "pt"})
    return target
