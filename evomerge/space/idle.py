"""A space without the dimensions that change nothing in the models at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Genome, Space, settled


class ReducedSpace(Space):
    """Another space as far as it changes merges.

    A dimension that changes nothing follows another, so that what is uniform stays so, or keeps its initial value.

    Args:
        whole: the space.
        idle: places of its dimensions that change nothing, each with that of the one that it follows, or None.
        where: the config's file, for messages.
    Raises: ConfigError if none is left.
    """

    def __init__(self, whole: Space, idle: Mapping[int, int | None], *, where: str = "config") -> None:
        if len(idle) == len(whole.dimensions):
            raise ConfigError(
                f"{where}: space: nothing to search: wherever coefficients are searched, the experts' tensors are the "
                "base's; look whether models.experts names the right folders"
            )
        self._whole = whole
        self._idle = dict(idle)
        self._columns = [column for column in range(len(whole.dimensions)) if column not in idle]
        self.dimensions = tuple(whole.dimensions[column] for column in self._columns)
        self.groups = whole.groups
        self.left_out = tuple(whole.dimensions[column].name for column in sorted(idle))
        self.shares_layers = whole.shares_layers  # type: ignore[misc]
        self.adds_task_vectors = whole.adds_task_vectors

    def _completed(self, genome: Genome) -> Genome:
        """The whole space's genome."""
        dimensions = self._whole.dimensions
        full = np.array([float(dimension.initial) for dimension in dimensions])
        full[self._columns] = genome
        for column, leader in self._idle.items():
            if leader is not None:
                full[column] = full[leader]
        return settled(dimensions, full)

    def _own(self, full: Genome) -> Genome:
        return settled(self.dimensions, full[self._columns])

    def decode(self, genome: Genome) -> Recipe:
        """The complete recipe that a genome stands for."""
        return self._whole.decode(self._completed(genome))

    def nearest(self, recipe: Recipe) -> Genome | None:
        """The whole space's, without what changes nothing."""
        found = self._whole.nearest(recipe)
        return None if found is None else self._own(found)

    def encode(self, recipe: Recipe) -> Genome | None:
        """The whole space's, without what changes nothing: the merge is the same."""
        found = self._whole.encode(recipe)
        return None if found is None else self._own(found)

    def starting_points(self, count: int) -> list[Genome]:
        """Those of the whole space that differ in what changes merges."""
        points = {point.tobytes(): point for point in map(self._own, self._whole.starting_points(count))}
        return [*points.values()]

    def groups_of(self, genome: Genome) -> tuple[str, ...]:
        """Names of the parameter groups of a genome's recipe, in its order."""
        return self._whole.groups_of(self._completed(genome))

    def variants(self) -> list[Genome]:
        """One genome for each method and set of options that candidates can have."""
        return [self._own(genome) for genome in self._whole.variants()]

    def describe(self) -> dict[str, Any]:
        """Groups and dimensions as plain data, and the names of those that are left out."""
        return {**super().describe(), "left_out": list(self.left_out)}
