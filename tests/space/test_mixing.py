"""Ties, curves, sums and names: how dimensions spread over groups and experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.interpolate import BSpline

from evomerge.config.space import ParameterConfig, SpaceConfig
from evomerge.errors import ConfigError
from evomerge.recipe.recipe import Recipe
from evomerge.space import make_space
from evomerge.space.base import Space
from helpers import spaces
from helpers.spaces import PLACES, TEMPLATE


def space_of(*, parameters: Any = None, **settings: Any) -> Space:
    """With one dimension fewer to think of."""
    return spaces.space_of(parameters={"scale": 1.0, **(parameters or {})}, **settings)


def weights(space: Space, values: np.ndarray) -> np.ndarray:
    """Of each group and expert, shape (groups, experts)."""
    groups = space.decode(values).groups
    return np.array([[*group.coefficients["weight"].values()] for group in groups])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tied", "names"),
    [
        ("all", ["density"]),
        ("layers", ["density.attention", "density.mlp+norm+embedding+head"]),
        ("kinds", ["density.layers_0-1", "density.layers_2-3", "density.layers_4-5"]),
        (
            [["layers_0-1.attention", "layers_4-5.attention"]],
            [
                "density.layers_0-1.attention+layers_4-5.attention",
                "density.layers_2-3.attention",
                *(f"density.layers_{layers}.mlp+norm+embedding+head" for layers in ("0-1", "2-3", "4-5")),
            ],
        ),
    ],
)
def test_tied_groups_share_a_dimension_that_is_named_for_them(tied: Any, names: list[str]) -> None:
    found = space_of(
        blocks=3, kinds=["attention"], parameters={"weight": 0.3, "density": {"tied": tied, "shared": True}}
    )
    assert [dimension.name for dimension in found.dimensions] == names
    values = np.linspace(0.2, 0.9, len(names))
    densities = [group.coefficients["density"] for group in found.decode(values).groups]
    assert sorted(set(densities)) == values.tolist()


def test_kinds_tied_by_name_are_alike_at_each_depth() -> None:
    parameters = {"weight": {"tied": [["mlp", "attention"]], "shared": True}, "density": 0.5}
    found = space_of(granularity="layer", kinds=["attention", "mlp"], parameters=parameters)
    recipe = found.decode(np.linspace(0.1, 0.9, len(found.dimensions)))
    by_name = {group.name: group.coefficients["weight"] for group in recipe.groups}
    assert len(found.dimensions) == 2 * 6
    for layer in range(6):
        assert by_name[f"layer_{layer}.mlp"] == by_name[f"layer_{layer}.attention"]
    assert len(set(by_name.values())) == 12  # type: ignore[arg-type]


@pytest.mark.parametrize("knots", [2, 3, 4, 5])
def test_a_cubic_curve_is_scipys_clamped_b_spline_and_stays_between_its_points(knots: int) -> None:
    parameters = {"density": {"low": 0.0, "high": 1.0, "shared": True}, "weight": 1.0}
    found = space_of(granularity="layer", smooth=knots, curve="cubic", parameters=parameters)
    degree = min(3, knots - 1)
    ends = [*[0.0] * degree, *np.linspace(0, 1, knots - degree + 1), *[1.0] * degree]
    points = np.random.default_rng(0).uniform(size=knots)
    expected = BSpline(ends, points, degree)(np.linspace(0, 1, 6))
    densities = [group.coefficients["density"] for group in found.decode(points).groups]
    np.testing.assert_allclose(densities, expected, atol=1e-14)
    assert points.min() <= min(densities) <= max(densities) <= points.max()  # type: ignore[type-var]


@given(st.lists(st.floats(-4, 4), min_size=12, max_size=12))
@settings(deadline=None, max_examples=40)
def test_coefficients_with_a_sum_are_positive_and_have_it_in_every_group(values: list[float]) -> None:
    found = space_of(granularity="layer", parameters={"density": 0.5, "weight": {"sum": 1.5}})
    assert len(found.dimensions) == 6
    shares = weights(found, np.array(values[:6]))
    assert (shares > 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1.5, rtol=1e-14)
    np.testing.assert_allclose(np.log(shares[:, 1] / shares[:, 0]), np.array(values[:6]) * 2**0.5, atol=1e-12)


def test_a_sum_starts_at_equal_shares_or_where_it_is_told() -> None:
    equal = space_of(granularity="all", parameters={"density": 0.5, "weight": {"sum": 1.0}})
    np.testing.assert_allclose(weights(equal, equal.default()), [[0.5, 0.5]], rtol=1e-15)
    assert [dimension.name for dimension in equal.dimensions] == ["weight.swahili:maths"]
    start = {"maths": 0.2, "swahili": 0.8}
    told = space_of(granularity="all", parameters={"density": 0.5, "weight": {"sum": 1.0, "start": start}})
    np.testing.assert_allclose(weights(told, told.default()), [[0.2, 0.8]], rtol=1e-12)


def test_experts_in_a_list_share_and_others_are_fixed_or_their_own() -> None:
    template = Recipe(base=TEMPLATE.base, experts=dict.fromkeys("abcd", TEMPLATE.base), method="ties")
    config = SpaceConfig.model_validate(
        {
            "granularity": "all",
            "parameters": {"scale": 1.0, "density": 0.5, "weight": {"shared": [["a", "c"]], "value": {"d": 0.9}}},
        }
    )
    found = make_space(template, PLACES, config)
    assert [dimension.name for dimension in found.dimensions] == ["weight.a+c", "weight.b"]
    assert found.decode(np.array([0.1, 0.2])).groups[0].coefficients["weight"] == {
        "a": 0.1,
        "b": 0.2,
        "c": 0.1,
        "d": 0.9,
    }


def test_texts_in_names_make_groups_that_come_before_the_rest() -> None:
    places = [(0, "mlp", ""), (0, "attention", ""), *((1, "mlp", f"experts.{number}.") for number in range(11))]
    config = SpaceConfig(granularity="layer", names=("experts.{0-10}.",))
    found = make_space(TEMPLATE, places, config)  # type: ignore[arg-type]
    recipe = found.decode(found.default())
    assert [group.name for group in recipe.groups] == [
        *(f"layer_1.experts.{number}" for number in range(11)),
        "layer_0",
    ]
    holding = [group.name for group in recipe.groups if group.contains(1, "mlp", "model.layers.1.mlp.experts.10.w1")]
    assert holding == ["layer_1.experts.10"]
    assert np.array_equal(found.encode(recipe), found.default())  # type: ignore[arg-type]


def test_a_coarse_recipe_is_found_exactly_in_a_finer_space_and_a_finer_one_is_not() -> None:
    density = {"density": {"shared": True}}
    coarse = space_of(granularity="all", parameters=density)
    fine = space_of(granularity="layer", kinds=True, parameters=density)
    recipe = coarse.decode(np.array([0.123456789, 0.7, 0.45]))
    genome = fine.encode(recipe)
    assert genome is not None
    assert {*genome.tolist()} == {0.123456789, 0.7, 0.45}
    uneven = genome.copy()
    uneven[0] += 0.1
    assert coarse.encode(fine.decode(uneven)) is None
    nearest = coarse.nearest(fine.decode(uneven))
    assert nearest is not None
    assert 0.123456789 < nearest[0] < 0.223456789
    other = spaces.space_of(method="task_arithmetic")
    assert other.nearest(recipe) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": {"tied": [["attention", "norms"]]}}, "space.parameters.weight.tied: unknown group or kind 'norms'"),
        ({"weight": {"shared": [["maths", "code"]]}}, "weight.shared: unknown expert 'code'"),
        ({"weight": {"value": {"code": 0.3}}}, "weight.value: unknown expert 'code'"),
        ({"scale": {"value": {"maths": 0.3}}}, "scale.value: this coefficient is one for all experts"),
        ({"scale": {"sum": 1.0}}, "scale.sum: this coefficient is one number for all experts"),
        ({"weight": {"sum": 1.0, "start": {"maths": 0.3, "swahili": 0.3}}}, "weight.start: with a sum"),
        (
            {"weight": {"shared": [["maths", "swahili"]], "start": {"maths": 0.3, "swahili": 0.4}}},
            "give them one start",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(kinds=True, parameters=settings)


def test_a_text_that_no_tensor_has_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"space.names: 'experts.0.' occurs in no tensor's stored name"):
        space_of(names=["experts.0."])


@pytest.mark.parametrize(
    "settings",
    [
        {"sum": 1.0, "low": 0.0},
        {"sum": 1.0, "shared": True},
        {"sum": 0.0},
        {"tied": "depth"},
        {"tied": [["attention"]]},
        {"shared": [["a", "b"], ["b", "c"]]},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ParameterConfig.model_validate(settings)
