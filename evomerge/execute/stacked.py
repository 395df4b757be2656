"""The models of a search over stacks of layers, loaded: every candidate's live model shares their layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from evomerge.errors import RecipeError
from evomerge.execute.base import WorkerSettings
from evomerge.execute.loaded import LoadedModels
from evomerge.inference.restack import LayerPool
from evomerge.materialise.bind import Bound
from evomerge.materialise.merger import Merger
from evomerge.models.open import as_family
from evomerge.models.stack import StackedCheckpoint
from evomerge.recipe.recipe import Recipe

METHODS = ("passthrough", "scaled")
"""Merge methods whose merge is the base's tensors, but for a factor."""


class StackedModels(LoadedModels):
    """All models whose layers may be stacked, and a live model that has some of them, in the order of a recipe.

    Args:
        settings: of the worker.
        devices: where the live models are.

    Raises: CheckpointError if a model can't be opened, or its layers can't be shared.
    """

    def __init__(self, settings: WorkerSettings, *, devices: Sequence[torch.device]) -> None:
        sources = replace(settings.sources, slices=())
        super().__init__(sources, settings, devices=devices)
        self._sources = sources
        self._pool = LayerPool(
            self.live, self._models.by_name, dtype=getattr(torch, settings.live_dtype), devices=devices
        )

    def bind(self, recipe: Recipe) -> Bound:
        """Show the models as the recipe's stack, and check the recipe against that.

        Raises: RecipeError, CheckpointError; RecipeError for a stack that merges layers.
        """
        plain = recipe.method in METHODS and recipe.options.get("model", "base") == "base"
        if not plain or any(len(part) > 1 for part in recipe.slices):
            raise RecipeError(
                "recipe: models.slices: a search over layers takes each layer from one model, by the method "
                f"{' or '.join(METHODS)} of the base"
            )
        models = as_family(self._models, replace(self._sources, slices=recipe.slices))
        self.merger = Merger(models, device=self._device)
        return self.merger.bind(recipe)

    def write(self, bound: Bound) -> None:
        """Give the live model the stack's layers, shared, with copies of those tensors alone that have a factor."""
        stacked = cast("StackedCheckpoint", self.merger.base)
        scaled = [name for name, values in bound.coefficients.items() if np.any(values.get("scale", 1.0) != 1.0)]
        self.merger.write(bound, self._pool.restack(stacked, scaled))

    def measure_distances(self) -> None:
        """Nothing, unless distances are asked for. Raises: RecipeError, since stacks have other layers than models."""
        if self._settings.distances:
            raise RecipeError("recipe: the distance of a stack from a model isn't known: its layers are others")
