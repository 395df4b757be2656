"""Every registered space keeps every law of spaces, at any genome; so does one with every kind of dimension."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.config.space import SpaceConfig
from evomerge.errors import RecipeError
from evomerge.methods import METHODS
from evomerge.recipe.recipe import Recipe
from evomerge.space import SPACES
from evomerge.space.base import Genome, Space, settled
from evomerge.testing import space_laws
from evomerge.testing.space_laws import GENOME_LAWS, LAWS, GenomeLaw, Law
from helpers.spaces import PLACES, TEMPLATE, Mixed, genomes, scaled_stacks, space_of

COEFFICIENTS: tuple[dict[str, Any], ...] = (
    {"granularity": "all"},
    {"granularity": "layer", "method": "task_arithmetic"},
    {"granularity": "blocks", "blocks": 3, "kinds": ["attention", "head"]},
    {"granularity": "layer", "kinds": True, "smooth": 3},
    {"method": "karcher", "granularity": "layer", "smooth": 2},
    {"parameters": {"density": 0.4, "weight": {"low": -0.3, "high": 0.1, "shared": True}}},
    {"granularity": "layer", "kinds": ["attention", "mlp"], "smooth": 4, "curve": "cubic"},
    {"granularity": "layer", "kinds": True, "parameters": {"weight": {"tied": "kinds"}, "density": {"tied": "all"}}},
    {"kinds": True, "parameters": {"weight": {"tied": [["attention", "mlp"]]}, "density": {"tied": "layers"}}},
    {"blocks": 3, "parameters": {"weight": {"value": {"maths": 0.3}, "tied": [["layers_0-1", "layers_4-5"]]}}},
    {"granularity": "layer", "parameters": {"weight": {"sum": 1.0}, "density": {"tied": "layers"}}},
    {"granularity": "layer", "smooth": 4, "curve": "cubic", "parameters": {"weight": {"sum": 2.0}, "density": 0.5}},
)

METHODS_SEARCHED: tuple[dict[str, Any], ...] = (
    {"methods": ["task_arithmetic", "ties", "model_stock"], "granularity": "layer"},
    {
        "methods": {
            "ties": {
                "options": {"election": ["weighted", "unweighted"]},
                "parameters": {"density": {"shared": True}, "scale": 1.0},
            },
            "tsv_merge": None,
            "slerp": None,
        },
        "subsets": True,
        "kinds": True,
    },
    {"methods": {"ties": {"options": {"normalize": [True, False]}}}, "parameters": {"weight": 0.4}},
    {"methods": ["ties"], "subsets": [["maths", "swahili"], ["swahili"]], "granularity": "all"},
)

STACKS: tuple[dict[str, Any], ...] = ({}, {"stack": {"models": ["maths", "base"], "repeats": 2}})

SETTINGS = {"coefficients": ({}, *COEFFICIENTS), "methods": METHODS_SEARCHED, "layers": STACKS}

with SPACES.extended({"mixed": "helpers.spaces:Mixed"}):
    EXAMPLES: list[Any] = [
        pytest.param(space_of(kind, **changes), id=f"{kind}-{number}")
        for kind in SPACES
        for number, changes in enumerate(SETTINGS.get(kind, ({},)))
    ]
    EXAMPLES.append(pytest.param(scaled_stacks(), id="layers-scaled"))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("space", EXAMPLES)
def test_every_space_keeps_every_law(space: Space, law: Law) -> None:
    law(space)


@pytest.mark.slow
@pytest.mark.parametrize("law", GENOME_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("space", EXAMPLES)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_every_space_keeps_every_law_at_any_genome(space: Space, law: GenomeLaw, data: st.DataObject) -> None:
    law(space, data.draw(genomes(space.dimensions)))


@pytest.mark.parametrize("law", GENOME_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("space", EXAMPLES)
def test_starting_points_keep_the_laws_of_genomes(space: Space, law: GenomeLaw) -> None:
    for genome in space.starting_points(5):
        law(space, genome)


class Forgetful(Mixed):
    def decode(self, genome: Genome) -> Recipe:
        return super().decode(np.array([*genome[:2], 0.25, *genome[3:]]))


class Overwriting(Mixed):
    def decode(self, genome: Genome) -> Recipe:
        genome[1] = 0.25
        return super().decode(genome)


class Rounding(Mixed):
    def parameters(self, genome: Genome) -> dict[str, Any]:
        found = super().parameters(genome)
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


class Unbounded(Mixed):
    def decode(self, genome: Genome) -> Recipe:
        return super().decode(np.array([*genome[:-1], genome[-1] + 1.0]))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Forgetful, space_laws.merges_otherwise_wherever_a_dimension_changes),
        (Overwriting, space_laws.decodes_to_the_same_recipe_again),
        (Rounding, space_laws.survives_the_ledger),
        (Unbounded, space_laws.decodes_to_what_the_method_takes),
    ],
)
def test_a_space_that_breaks_a_law_is_found_out(broken: type[Mixed], law: GenomeLaw) -> None:
    space = broken(TEMPLATE, METHODS.get("ties"), PLACES, SpaceConfig())
    with pytest.raises((AssertionError, RecipeError)):
        law(space, settled(space.dimensions, np.array([1.0, 0.7123456, 0.9, 3.0, 0.6])))
