"""Short ways to merge: a recipe is bound and realised in one call."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from evomerge.materialise.merger import Merger
from evomerge.materialise.prepare import Prepared
from evomerge.recipe.recipe import Recipe


def streamed(merger: Merger, recipe: Recipe) -> dict[str, Tensor]:
    """All merged tensors."""
    bound = merger.bind(recipe)
    return dict(merger.stream(bound))


def written(merger: Merger, recipe: Recipe, targets: Mapping[str, Tensor]) -> None:
    """Write the merge in place."""
    bound = merger.bind(recipe)
    merger.write(bound, targets)


def prepared(merger: Merger, recipe: Recipe) -> Prepared:
    """The method of a recipe with its states."""
    bound = merger.bind(recipe)
    return merger.preparer.prepare(bound)
