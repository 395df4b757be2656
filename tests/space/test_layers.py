"""Stacks of layers as genomes: the row, its repeats and scales, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.recipe.group import Group
from evomerge.space import make_space
from helpers.spaces import LAYERS, PLACES, TEMPLATE, scaled_stacks, space_of


def test_the_search_starts_at_the_first_models_own_layers() -> None:
    space = space_of("layers", stack={"models": ["maths", "base"], "repeats": 2})
    assert len(space.dimensions) == 2 * 2 * LAYERS - 1
    recipe = space.decode(space.default())
    assert recipe.slices == ({"maths": (0, LAYERS - 1)},)
    assert (recipe.method, recipe.options) == ("passthrough", {"model": "base"})


def test_genes_choose_from_the_row_in_its_order_and_repeats_allow_any_order() -> None:
    space = space_of("layers", stack={"models": ["maths", "base"], "repeats": 2})
    names = [dimension.name for dimension in space.dimensions]
    genome = np.zeros(len(names))
    for name in ("use.maths.layer_1", "use.maths.layer_4", "use.base.layer_5", "use.maths.layer_0.2"):
        genome[names.index(name)] = 1.0
    assert space.decode(genome).slices == (
        {"maths": (0, 1)},
        {"maths": (4, 4)},
        {"base": (5, 5)},
        {"maths": (0, 0)},
    )
    assert space.decode(np.zeros(len(names))).slices == ({"maths": (0, 0)},)


def test_a_scale_multiplies_the_outputs_of_its_layer_where_that_stands() -> None:
    space = scaled_stacks(models=["base"])
    values = space.parameters(space.default())
    values |= {"use.base.layer_1": 0, "scale.base.layer_2": 1.25}
    del values["scale.base.layer_1"]
    recipe = space.decode(space.genome(values))
    scaled = {group.name: group for group in recipe.groups if group.coefficients["scale"] != 1.0}
    assert {*scaled} == {"layer_1.o_proj", "layer_1.down_proj"}
    assert scaled["layer_1.o_proj"].contains(1, "attention", "model.layers.1.self_attn.o_proj.weight")
    assert not scaled["layer_1.o_proj"].contains(1, "attention", "model.layers.1.self_attn.q_proj.weight")


def test_recipes_of_other_stacks_have_no_place() -> None:
    space = scaled_stacks(models=["base", "maths"])
    recipe = space.decode(space.default())
    assert np.array_equal(space.encode(recipe), space.default())  # type: ignore[arg-type]
    assert space.encode(replace(recipe, slices=({"maths": (1, 3)},))) is None
    assert space.encode(replace(recipe, slices=({"base": (0, 1)}, {"base": (0, 1)}))) is None
    assert space.encode(replace(recipe, slices=({"base": (0, 1), "maths": (0, 1)},))) is None
    half = Group(name="all", coefficients={"scale": 0.8})
    assert space.encode(replace(recipe, groups=(half,))) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stack": {"models": ["code"]}}, "space.stack.models: unknown model 'code'"),
        ({"stack": {"scales": [0.5, 1.5]}}, "space.stack.outputs: 'o_proj' occurs in no tensor's stored name"),
        ({"kinds": True}, "space.kinds: a stack has no coefficients but its scales"),
    ],
)
def test_what_cannot_be_stacked_is_refused_with_its_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of("layers", **settings)


def test_models_that_are_shown_otherwise_than_they_are_are_refused() -> None:
    template = replace(TEMPLATE, vocabulary="union")
    with pytest.raises(ConfigError, match=r"models.vocabulary: layers are stacked of models as they are"):
        make_space(template, PLACES, SpaceConfig(kind="layers"))


def test_scales_lie_around_one_and_a_stack_belongs_to_its_kind() -> None:
    with pytest.raises(ValueError, match="with 1 in between"):
        scaled_stacks(scales=[1.0, 1.5])
    with pytest.raises(ValueError, match=r"set space\.kind"):
        space_of(stack={"repeats": 2})
