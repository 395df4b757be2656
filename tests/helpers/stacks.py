"""Recipes of stacks over a family of small models."""

from __future__ import annotations

from pathlib import Path

from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Slice

DEPTH = 4
"""Layers of the models, as in the fixture `family`."""

PARTS: tuple[Slice, ...] = ({"base": (0, 2)}, {"a": (1, 3)}, {"b": (3, 3)}, {"a": (0, 1), "b": (2, 3)})


def recipe(family: dict[str, Path], slices: tuple[Slice, ...], method: str = "task_arithmetic") -> Recipe:
    coefficients = {"weight": {"a": 0.5, "b": 0.25}} if method == "task_arithmetic" else {}
    return Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={name: ModelReference(path=str(family[name])) for name in ("a", "b")},
        method=method,
        groups=(Group(name="all", coefficients=coefficients),) if coefficients else (),
        slices=slices,
    )


def opened(family: dict[str, Path]) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    return Checkpoint.open(family["base"]), {name: Checkpoint.open(family[name]) for name in ("a", "b")}


def weighted(folders: dict[str, Path], slices: tuple[Slice, ...], **weights: float) -> Recipe:
    """A linear merge of the experts, whose base only gives what isn't merged."""
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folder)) for name, folder in folders.items() if name != "base"},
        method="linear",
        groups=(Group(name="all", coefficients={"weight": weights}),),
        slices=slices,
    )
