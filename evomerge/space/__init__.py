"""Search spaces: from a genome to a recipe. One file each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

from evomerge.methods import METHODS
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.config.space import SpaceConfig
    from evomerge.recipe.recipe import Recipe
    from evomerge.space.base import Space, Unchanged
    from evomerge.space.groups import Place

SPACES: Registry[type] = Registry(
    "search space",
    {
        "coefficients": "evomerge.space.coefficients:CoefficientSpace",
        "layers": "evomerge.space.layers:LayerSpace",
        "methods": "evomerge.space.methods:MethodSpace",
    },
    group="evomerge.spaces",
)


def make_space(
    template: Recipe,
    places: Iterable[Place],
    config: SpaceConfig,
    *,
    where: str = "config",
) -> Space:
    """The space that a config's section asks for; arguments as `Space` takes them.

    Raises: UnknownNameError for a kind of space that there isn't, ConfigError as `Space` does.
    """
    made = cast("Space", SPACES.get(config.kind)(template, METHODS.get(template.method), places, config, where=where))
    if config.steps:
        from evomerge.space.base import with_steps

        made.dimensions = with_steps(made.dimensions, config.steps, where)
    return made


def without_idle(space: Space, unchanged: Unchanged, *, where: str = "config") -> Space:
    """The space without dimensions that change nothing where experts are the base in these places.

    Raises: ConfigError if none is left.
    """
    if not (idle := space.idle(unchanged)):
        return space
    from evomerge.space.idle import ReducedSpace

    return ReducedSpace(space, idle, where=where)


__all__ = ["SPACES", "make_space", "without_idle"]
