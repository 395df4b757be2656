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
    unchanged: Unchanged | None = None,
    where: str = "config",
) -> Space:
    """The space that a config's section asks for; arguments as `Space` takes them.

    With the `unchanged` places of the models, in which experts are the base, dimensions that change nothing are left
    out.

    Raises: UnknownNameError for a kind of space that there isn't, ConfigError as `Space` does.
    """
    made = cast("Space", SPACES.get(config.kind)(template, METHODS.get(template.method), places, config, where=where))
    if config.steps:
        from evomerge.space.base import with_steps

        made.dimensions = with_steps(made.dimensions, config.steps, where)
    if idle := made.idle(unchanged or {}):
        from evomerge.space.idle import ReducedSpace

        return ReducedSpace(made, idle, where=where)
    return made


__all__ = ["SPACES", "make_space"]
