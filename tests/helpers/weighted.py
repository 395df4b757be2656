"""Merges of tiny families by the stand-in methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference


def merger_of(folders: Mapping[str, Path]) -> Merger:
    models = {name: Checkpoint.open(folder) for name, folder in folders.items()}
    return Merger(Models(models.pop("base"), models))


def recipe_of(folders: Mapping[str, Path], *groups: Group, method: str = "weighted", **settings: Any) -> Recipe:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return Recipe(base=references.pop("base"), experts=references, method=method, groups=groups, **settings)


def everywhere(**coefficients: Any) -> Group:
    return Group(name="all", coefficients=coefficients)


BY_LAYER_AND_KIND = (
    Group(name="first mlp", layers=(0, 0), kinds=("mlp",), coefficients={"weight": {"a": 0.9, "b": 0.1}}),
    Group(name="first", layers=(0, 0), coefficients={"weight": {"a": -0.5, "b": 0.25}, "scale": 0.5}),
    Group(name="rest", coefficients={"weight": 0.75}),
)
