"""The search space: groups, bounds, smoothing, the uniform scan and decoding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.methods.base import Coefficients, MergeMethod, Parameter, TensorInputs
from evomerge.recipe.recipe import Recipe
from evomerge.space.coefficients import CoefficientSpace
from helpers import spaces
from helpers.spaces import PLACES

TEMPLATE = replace(spaces.TEMPLATE, method="toy")


class Toy(MergeMethod):
    name = "toy"
    parameters = (
        Parameter(name="weight", description="", default=0.5, low=0.0, high=1.5, per_expert=True),
        Parameter(name="density", description="", default=1.0, low=0.1, high=1.0, minimum=0.0, maximum=1.0),
        Parameter(name="scale", description="", default=1.0, low=0.5, high=2.0, searched=False),
    )

    def merge(self, inputs: TensorInputs, coefficients: Coefficients, state: Any, out: Tensor) -> None:
        raise NotImplementedError


def space(**settings: Any) -> CoefficientSpace:
    return CoefficientSpace(TEMPLATE, Toy, PLACES, SpaceConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"granularity": "all"}, 1),
        ({"granularity": "layer"}, 6),
        ({"granularity": "blocks", "blocks": 4}, 4),
        ({"granularity": "all", "kinds": True}, 5),
        ({"granularity": "layer", "kinds": True}, 3 * 6 + 2),
        ({"granularity": "blocks", "blocks": 3, "kinds": ["attention"]}, 3 + 3),
        ({"granularity": "blocks", "blocks": 2, "kinds": ["embedding", "head"]}, 2 + 2),
    ],
)
def test_each_granularity_has_as_many_groups_and_covers_every_tensor_once(
    settings: dict[str, Any], groups: int
) -> None:
    found = space(**settings)
    assert len(found.groups) == groups
    assert len(found.dimensions) == groups * 3
    recipe = found.decode(found.default())
    for layer, kind in PLACES:
        assert sum(group.contains(layer, kind) for group in recipe.groups) == 1


def test_dimension_names_are_unique_and_say_parameter_expert_and_group() -> None:
    found = space(granularity="blocks", blocks=2, kinds=["attention"])
    names = [dimension.name for dimension in found.dimensions]
    assert names[0] == "weight.maths.layers_0-2.attention"
    assert "density.layers_3-5.mlp+norm+embedding+head" in names
    assert len(set(names)) == len(names)


def test_a_genome_survives_the_ledger_and_decodes_to_its_own_coefficients() -> None:
    found = space(granularity="layer")
    genome = np.random.default_rng(0).uniform(0.1, 1.0, len(found.dimensions))
    np.testing.assert_array_equal(found.genome(found.parameters(genome)), genome)
    recipe = found.decode(genome)
    values = found.parameters(genome)
    for layer, group in enumerate(recipe.groups):
        assert group.coefficients["weight"] == {
            name: values[f"weight.{name}.layer_{layer}"] for name in ("maths", "swahili")
        }
        assert group.coefficients["density"] == values[f"density.layer_{layer}"]
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_fixed_and_shared_parameters_take_no_or_one_dimension() -> None:
    found = space(granularity="all", parameters={"density": 0.4, "weight": {"low": 0, "high": 1, "shared": True}})
    assert [dimension.name for dimension in found.dimensions] == ["weight"]
    (group,) = found.decode(np.array([0.7])).groups
    assert group.coefficients == {"density": 0.4, "weight": 0.7, "scale": 1.0}


def test_a_parameter_that_is_rarely_worth_a_dimension_is_searched_only_if_given_bounds() -> None:
    assert not any("scale" in dimension.name for dimension in space(granularity="all").dimensions)
    found = space(granularity="all", parameters={"scale": {"low": 0.8, "high": 1.2}})
    assert found.dimensions[-1].name == "scale"


def test_smoothing_interpolates_linearly_over_depth() -> None:
    found = space(granularity="layer", smooth=3, parameters={"density": 1.0})
    assert len(found.dimensions) == 3 * 2
    recipe = found.decode(np.array([0.0, 1.0, 0.5, 0.2, 0.2, 0.2]))
    weights = [group.coefficients["weight"]["maths"] for group in recipe.groups]  # type: ignore[index]
    np.testing.assert_allclose(weights, np.interp(np.linspace(0, 1, 6), [0, 0.5, 1], [0, 1, 0.5]), atol=1e-15)
    assert all(group.coefficients["weight"]["swahili"] == pytest.approx(0.2) for group in recipe.groups)  # type: ignore[index]


@given(st.lists(st.floats(0.0, 1.5), min_size=8, max_size=8), st.sampled_from([2, 3, 4]))
@settings(deadline=None, max_examples=40)
def test_smoothed_coefficients_never_leave_the_bounds(values: list[float], knots: int) -> None:
    found = space(granularity="layer", smooth=knots, parameters={"density": 1.0})
    for group in found.decode(np.array(values[: 2 * knots])).groups:
        assert all(0.0 <= value <= 1.5 for value in group.coefficients["weight"].values())  # type: ignore[union-attr]


def test_the_scan_starts_with_the_default_and_is_uniform_inside_the_bounds() -> None:
    found = space(granularity="blocks", blocks=3)
    scan = found.starting_points(17)
    assert len(scan) == 17
    np.testing.assert_array_equal(scan[0], found.default())
    for genome in scan:
        groups = found.decode(genome).groups
        assert all(group.coefficients == groups[0].coefficients for group in groups)
        weights = groups[0].coefficients["weight"]
        assert all(0.0 <= weight < 1.5 for weight in weights.values())  # type: ignore[union-attr]


@pytest.mark.parametrize("experts", [2, 3, 4, 7])
def test_the_default_scan_tries_different_weights_for_any_number_of_experts_and_keeps_the_rest(experts: int) -> None:
    names = [f"expert{number}" for number in range(experts)]
    template = replace(TEMPLATE, experts=dict.fromkeys(names, TEMPLATE.base))
    found = CoefficientSpace(template, Toy, PLACES, SpaceConfig(granularity="layer"))
    scan = found.starting_points(16)
    assert len(scan) == 16
    groups = [found.decode(genome).groups[0].coefficients for genome in scan]
    assert all(group["density"] == 1.0 for group in groups)
    weights = np.array([list(group["weight"].values()) for group in groups])  # type: ignore[union-attr]
    assert len(np.unique(weights, axis=0)) == 16
    assert np.sum(np.ptp(weights, axis=1) == 0) >= 3
    for expert in range(experts):
        assert any(row[expert] > 0 and row.sum() == row[expert] for row in weights)


def test_a_scan_without_room_for_each_expert_moves_all_together() -> None:
    scan = space(granularity="all").starting_points(5)
    assert len(scan) == 5
    assert all(genome[0] == genome[1] for genome in scan)


def test_a_parameter_that_the_experts_share_is_scanned_evenly() -> None:
    found = space(granularity="all", parameters={"weight": {"low": 0, "high": 1, "shared": True}})
    scan = [float(genome[0]) for genome in found.starting_points(5)]
    np.testing.assert_allclose(scan, [0.5, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parameters": {"wieght": 1.0}},
            r"space\.parameters\.wieght: unknown parameter of toy.*Did you mean 'weight'",
        ),
        ({"parameters": {"density": {"low": 0.5, "high": 1.5}}}, r"density: 0.5 to 1.5 leaves the range .* 0 to 1"),
        ({"parameters": {"density": 2.0}}, r"density: 2 leaves the range"),
        ({"parameters": {"weight": {"low": 2.0}}}, r"weight: low 2 is not below high 1.5"),
        ({"granularity": "blocks", "blocks": 9}, r"space\.blocks: 9 blocks of 6 layers"),
        ({"kinds": ["other"]}, r"space\.kinds: the models have no other tensors"),
        ({"granularity": "layer", "smooth": 6}, r"space\.smooth: 6 control points for 6 groups"),
        ({"parameters": {"weight": 1.0, "density": 1.0}}, r"nothing to search"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(**settings)


def test_a_search_starts_where_it_is_told_in_every_group() -> None:
    for start, expected in ((0.25, {0.25}), ({"maths": 0.25, "swahili": 1.5}, {0.25, 1.5})):
        found = space(granularity="layer", parameters={"weight": {"start": start}})
        weights = [item for item in found.dimensions if item.name.startswith("weight")]
        assert {item.initial for item in weights} == expected
        for group in found.decode(found.starting_points(3)[0]).groups:
            assert set(group.coefficients["weight"].values()) == expected
    one = space(parameters={"weight": {"start": {"swahili": 1.5}}})
    assert {item.initial for item in one.dimensions if item.name.startswith("weight.maths")} == {0.5}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weight": {"start": 2.0}}, r"weight\.start: 2 is not within the bounds 0 to 1\.5"),
        ({"weight": {"start": {"nobody": 1.0}}}, "unknown expert 'nobody'"),
        ({"density": {"start": {"maths": 0.5}}}, "one for all experts"),
    ],
)
def test_a_start_that_cant_be_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        space(parameters=settings)


@pytest.mark.parametrize(
    "settings", [{"value": 1.0, "start": 0.5}, {"shared": True, "start": {"maths": 0.5}}, {"start": "somewhere"}]
)
def test_starts_beside_what_excludes_them_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="start"):
        space(parameters={"weight": settings})
