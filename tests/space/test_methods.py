"""Methods, options and experts as genes: which dimensions matter when, what they decode to, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.errors import ConfigError
from helpers.spaces import space_of


def test_each_method_has_dimensions_of_its_own_that_matter_with_it_alone() -> None:
    space = space_of("methods", methods=["task_arithmetic", "ties", "model_stock"], granularity="all")
    kinds = {dimension.name: dimension.kind for dimension in space.dimensions}
    assert kinds["method"] == "categorical"
    assert [name for name in kinds if name.startswith("task_arithmetic")] == [
        "task_arithmetic.weight.maths",
        "task_arithmetic.weight.swahili",
    ]
    for genome, method in zip(space.variants(), ("task_arithmetic", "ties", "model_stock"), strict=True):
        named = [*space.parameters(genome)]
        assert named[0] == "method"
        assert all(name.startswith(f"{method}.") for name in named[1:])
        assert space.decode(genome).method == method
    # The search starts with the config's method.
    assert space.decode(space.default()).method == "ties"


def test_options_are_genes_where_a_list_is_given_and_fixed_where_a_value_is() -> None:
    methods = {"ties": {"options": {"election": ["weighted", "unweighted"], "normalize": False}}}
    space = space_of("methods", methods=methods, granularity="all")
    assert [dimension.name for dimension in space.dimensions[:2]] == ["election", "weight.maths"]
    recipes = [space.decode(genome) for genome in space.variants()]
    assert [recipe.options["election"] for recipe in recipes] == ["weighted", "unweighted"]
    assert [recipe.options["normalize"] for recipe in recipes] == [False, False]


def test_an_expert_that_takes_no_part_is_not_in_the_recipe_and_its_coefficients_do_not_matter() -> None:
    space = space_of("methods", methods=["task_arithmetic"], subsets=True, granularity="all")
    names = [dimension.name for dimension in space.dimensions]
    assert names == ["experts", "weight.maths", "weight.swahili"]
    assert space.dimensions[0].choices == ("maths", "swahili", "maths+swahili")
    recipe = space.decode(np.array([1.0, space.dimensions[1].low, 0.4]))
    assert [*recipe.experts] == ["swahili"]
    assert recipe.groups[0].coefficients == {"weight": {"swahili": 0.4}}
    assert [*space.decode(space.default()).experts] == ["maths", "swahili"]


def test_recipes_of_other_methods_options_or_experts_have_no_place() -> None:
    space = space_of("methods", methods=["task_arithmetic", "ties"], granularity="all")
    recipe = space.decode(space.default())
    assert np.array_equal(space.encode(recipe), space.default())  # type: ignore[arg-type]
    assert space.encode(replace(recipe, method="dare_ties")) is None
    assert space.encode(replace(recipe, options={**recipe.options, "election": "unweighted"})) is None
    alone = {"maths": recipe.experts["maths"]}
    groups = tuple(
        replace(group, coefficients={"weight": {"maths": 0.3}, "density": 0.5, "scale": 1.0}) for group in recipe.groups
    )
    assert space.encode(replace(recipe, experts=alone, groups=groups)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"space.methods: name at least one method, such as \{ties: \{\}\}"),
        ({"methods": ["tiles"]}, "space.methods: unknown merge method 'tiles'"),
        ({"methods": {"ties": {"options": {"sign": 1}}}}, "space.methods.ties.options: unknown option 'sign'"),
        ({"methods": {"ties": {"options": {"election": ["mass", "weighted"]}}}}, "space.methods.ties.options.election"),
        ({"methods": {"ties": {"parameters": {"wait": 1}}}}, "unknown parameter of ties 'wait'"),
        ({"methods": ["ties"], "parameters": {"wait": 1}}, "space.parameters.wait: unknown parameter of ties"),
        ({"methods": ["nearswap"]}, "nearswap merges 1 to 1 experts, not 2; set space.subsets"),
        ({"methods": ["ties"], "subsets": [["maths"], ["code"]]}, "space.subsets: unknown expert 'code'"),
        ({"methods": ["ties"], "subsets": True, "parameters": {"weight": {"sum": 1}}}, "leave out sum or subsets"),
        ({"methods": ["model_stock"], "parameters": {"scale": 1.0}}, "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_its_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of("methods", **settings)


def test_methods_and_subsets_belong_to_their_kind() -> None:
    with pytest.raises(ValueError, match=r"set space\.kind"):
        space_of(methods=["ties"])
