"""Search spaces over a model of six layers: what the tests of spaces share, and one with every kind of dimension."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from evomerge.config.space import SpaceConfig
from evomerge.methods.base import MergeMethod
from evomerge.recipe.group import Group, Kind
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.space import make_space
from evomerge.space.base import Condition, Dimension, Genome, Space, check_dimensions, settled
from evomerge.space.groups import Place

LAYERS = 6
PLACES: list[tuple[int, Kind]] = [
    (0, "embedding"),
    *((layer, kind) for layer in range(LAYERS) for kind in ("attention", "mlp", "norm")),  # type: ignore[misc]
    (LAYERS - 1, "head"),
]
TEMPLATE = Recipe(
    base=ModelReference(path="base"),
    experts={"maths": ModelReference(path="maths"), "swahili": ModelReference(path="swahili")},
    method="ties",
    dtype="float32",
)


def space_of(kind: str = "coefficients", method: str = "ties", **settings: Any) -> Space:
    return make_space(replace(TEMPLATE, method=method), PLACES, SpaceConfig(kind=kind, **settings))


def scaled_stacks(**stack: Any) -> Space:
    """Stacks of layers with a factor each, of a model whose branches end in o_proj and down_proj."""
    places: list[Place] = [(0, "embedding", ""), (LAYERS - 1, "head", "")]
    for layer in range(LAYERS):
        places += [(layer, "attention", "o_proj"), (layer, "mlp", "down_proj")]
    config = SpaceConfig.model_validate({"kind": "layers", "stack": {"scales": [0.5, 1.5], **stack}})
    return make_space(TEMPLATE, places, config)


def genomes(dimensions: Iterable[Dimension]) -> st.SearchStrategy[Genome]:
    """Genomes inside the bounds, their ends included."""
    dimensions = tuple(dimensions)
    numbers = [
        st.floats(item.low, item.high)
        if item.kind == "continuous"
        else st.integers(int(item.low), int(item.high)).map(float)
        for item in dimensions
    ]
    return st.tuples(*numbers).map(lambda drawn: settled(dimensions, np.array(drawn, dtype=np.float64)))


class Mixed(Space):
    """The method as a gene, its density where it has one, a coefficient for two runs of layers, and where they meet."""

    def __init__(
        self,
        template: Recipe,
        method: type[MergeMethod],
        places: Iterable[tuple[int, Kind]],
        config: SpaceConfig,
        *,
        where: str = "config",
    ) -> None:
        self.template = template
        self.depth = 1 + max(layer for layer, _ in places)
        self.groups = ("lower", "upper")
        self.dimensions = (
            Dimension.categorical("method", ("task_arithmetic", "ties"), initial="ties"),
            Dimension(name="weight.lower", low=0.0, high=1.5, initial=0.5),
            Dimension(name="weight.upper", low=0.0, high=1.5, initial=0.5),
            Dimension(name="first", kind="integer", low=1, high=self.depth - 1, initial=2),
            Dimension(
                name="density",
                low=0.1,
                high=1.0,
                initial=0.5,
                condition=Condition(dimension="method", values=("ties",)),
            ),
        )
        check_dimensions(self.dimensions)

    def decode(self, genome: Genome) -> Recipe:
        values = self.parameters(genome)
        density = {"density": values["density"], "scale": 1.0} if "density" in values else {}
        first = values["first"]
        groups = tuple(
            Group(name=name, layers=layers, coefficients={"weight": values[f"weight.{name}"], **density})
            for name, layers in (("lower", (0, first - 1)), ("upper", (first, self.depth - 1)))
        )
        return replace(self.template, method=values["method"], options={}, groups=groups)
