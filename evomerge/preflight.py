"""Everything that can be checked before a worker starts, and what a search will need.

Opens headers and tokenizers only: no weights are read, no device is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from evomerge.architecture import Layout
from evomerge.checkpoint import Checkpoint, check_compatible
from evomerge.config import Config
from evomerge.errors import CheckpointError, ConfigError, RecipeError, unknown
from evomerge.merge import METHODS
from evomerge.propose import PROPOSERS
from evomerge.recipe import Kind, Recipe
from evomerge.run import template_recipe
from evomerge.space import SearchSpace


@dataclass(frozen=True)
class Experiment:
    """A config with its models' headers, found to fit each other."""

    config: Config
    where: str
    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    dtype: str
    options: Mapping[str, Any]

    @cached_property
    def places(self) -> list[tuple[int, Kind]]:
        """(layer, kind) of the base's tensors, each once, in order."""
        layout = Layout.of(self.base)
        return sorted({(place.layer, place.kind) for place in map(layout.place, self.base.tensors)})

    @cached_property
    def template(self) -> Recipe:
        """The recipe that every candidate completes with its groups."""
        return template_recipe(self.config, dtype=self.dtype, options=self.options)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space over these models."""
        method = METHODS.get(self.config.merge.method)
        return SearchSpace(self.template, method, self.places, self.config.space, where=self.where)
