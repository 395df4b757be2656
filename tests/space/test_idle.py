"""Dimensions that change nothing, found by merging small models in which experts are the base here and there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.config.space import SpaceConfig
from evomerge.errors import ConfigError
from evomerge.methods import METHODS
from evomerge.methods.base import TensorInputs
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.space import make_space, without_idle
from evomerge.space.base import Genome, Space, Unchanged, active, settled
from evomerge.space.groups import Cell, Place
from evomerge.space.recipes import coefficients_at
from evomerge.testing.inputs import merged
from evomerge.testing.space_laws import GENOME_LAWS, LAWS, GenomeLaw, Law
from helpers.spaces import PLACES, TEMPLATE, genomes

SPACES: tuple[dict[str, Any], ...] = (
    {"method": "task_arithmetic", "granularity": "layer", "kinds": True},
    {"method": "task_arithmetic", "granularity": "layer", "smooth": 3, "curve": "cubic"},
    {"method": "task_arithmetic", "kinds": True, "parameters": {"weight": {"tied": [["attention", "mlp"]]}}},
    {"method": "task_arithmetic", "kinds": True, "parameters": {"weight": {"sum": 1.0}}},
    {"method": "ties", "blocks": 3, "kinds": ["attention"], "parameters": {"weight": {"value": {"maths": 0.3}}}},
    {"method": "ties", "granularity": "layer", "parameters": {"weight": {"shared": True}}},
    {
        "kind": "methods",
        "methods": ["task_arithmetic", "ties", "slerp"],
        "subsets": [["maths", "swahili"], ["swahili"]],
    },
)


def space_of(unchanged: Unchanged, *, kind: str = "coefficients", method: str = "ties", **settings: Any) -> Space:
    config = SpaceConfig.model_validate({"kind": kind, **settings})
    return without_idle(make_space(replace(TEMPLATE, method=method), PLACES, config), unchanged)


class Family:
    """A tensor at each place; an expert has another where it isn't the base."""

    def __init__(self, unchanged: Unchanged) -> None:
        generator = torch.Generator().manual_seed(0)

        def random() -> torch.Tensor:
            return torch.randn(6, 7, generator=generator)

        self.base: Mapping[Place, torch.Tensor] = {place: random() for place in PLACES}
        self.experts = {
            name: {place: self.base[place] if place in same else self.base[place] + 0.1 * random() for place in PLACES}
            for name, same in unchanged.items()
        }

    def merge(self, recipe: Recipe) -> torch.Tensor:
        """All tensors of a merge."""
        method = METHODS.get(recipe.method)
        found = coefficients_at(recipe, PLACES)
        assert found is not None
        tensors = []
        for place, coefficients in zip(PLACES, found, strict=True):
            experts = tuple(self.experts[name][place] for name in recipe.experts)
            inputs = TensorInputs(
                name="weight", base=self.base[place] if method.base == "required" else None, experts=experts
            )
            names = tuple(recipe.experts)
            tensors.append(merged(method, inputs, coefficients, options=recipe.options or None, names=names))
        return torch.stack(tensors)


@st.composite
def patterns(draw: st.DrawFn) -> Unchanged:
    """Where each expert is the base, not everywhere for both; often in whole layers or kinds."""
    layers, kinds = sorted({place[0] for place in PLACES}), sorted({place[1] for place in PLACES})
    found = {}
    for name in TEMPLATE.experts:
        still, kept = draw(st.sets(st.sampled_from(layers))), draw(st.sets(st.sampled_from(kinds)))
        single = draw(st.sets(st.sampled_from(PLACES)))
        found[name] = frozenset(place for place in PLACES if place[0] in still or place[1] in kept or place in single)
    return found


def leave_one(unchanged: Unchanged) -> Unchanged:
    """Both experts differ from the base in the middle of the model at least."""
    return {name: same - {place for place in PLACES if place[0] == 2} for name, same in unchanged.items()}


def other(space: Space, genome: Genome, column: int) -> Genome:
    """The genome with another value in one dimension."""
    dimension, changed = space.dimensions[column], genome.copy()
    middle = (dimension.low + dimension.high) / 2
    changed[column] = dimension.low + 0.05 * (middle - dimension.low) if genome[column] > middle else dimension.high
    return settled(space.dimensions, changed)


@pytest.mark.slow
@pytest.mark.parametrize("settings_", SPACES, ids=str)
@given(unchanged=patterns(), data=st.data())
@settings(deadline=None, max_examples=8)
def test_a_dimension_is_left_out_exactly_if_no_merge_depends_on_it(
    settings_: dict[str, Any], unchanged: Unchanged, data: st.DataObject
) -> None:
    unchanged = leave_one(unchanged)
    whole, space, family = space_of({}, **settings_), space_of(unchanged, **settings_), Family(unchanged)
    assert {item.name for item in whole.dimensions} == {*(item.name for item in space.dimensions), *space.left_out}
    genome = data.draw(genomes(whole.dimensions))
    before = family.merge(whole.decode(genome))
    matters = active(whole.dimensions, genome)
    for column, dimension in enumerate(whole.dimensions):
        if not matters[column] or dimension.kind != "continuous":
            continue
        after = family.merge(whole.decode(other(whole, genome, column)))
        if dimension.name in space.left_out:
            torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-12)
        elif whole.decode(genome).method == "task_arithmetic":
            assert not torch.allclose(after, before, rtol=1e-9, atol=1e-12), dimension.name


@pytest.mark.slow
@pytest.mark.parametrize("settings_", SPACES, ids=str)
@given(unchanged=patterns(), data=st.data())
@settings(deadline=None, max_examples=8)
def test_what_is_left_keeps_the_laws_and_merges_as_the_whole_space(
    settings_: dict[str, Any], unchanged: Unchanged, data: st.DataObject
) -> None:
    unchanged = leave_one(unchanged)
    space = space_of(unchanged, **settings_)
    laws: list[Law] = list(LAWS)
    for law in laws:
        law(space)
    genome = data.draw(genomes(space.dimensions))
    of_genomes: list[GenomeLaw] = list(GENOME_LAWS)
    for own in of_genomes:
        own(space, genome)
    whole = space_of({}, **settings_)
    recipe = space.decode(genome)
    found = whole.encode(recipe)
    assert found is not None
    by_name = dict(zip((item.name for item in whole.dimensions), found, strict=True))
    for dimension, coordinate in zip(space.dimensions, genome, strict=True):
        assert by_name[dimension.name] == pytest.approx(coordinate, rel=1e-6, abs=1e-6)


@given(unchanged=patterns())
@settings(deadline=None, max_examples=20)
def test_uniform_merges_stay_uniform(unchanged: Unchanged) -> None:
    space = space_of(leave_one(unchanged), method="task_arithmetic", granularity="layer", kinds=True)
    for point in space.starting_points(8):
        groups = space.decode(point).groups
        for group in groups:
            for name, value in group.coefficients["weight"].items():  # type: ignore[union-attr]
                # An expert that is the base everywhere keeps where the search starts.
                assert value == groups[0].coefficients["weight"][name]  # type: ignore[index]


def test_an_expert_that_is_the_base_everywhere_leaves_the_others_dimensions() -> None:
    everywhere = {"maths": frozenset(PLACES), "swahili": frozenset[Place]()}
    space = space_of(everywhere, method="task_arithmetic", blocks=3)
    assert [item.name for item in space.dimensions] == [
        f"weight.swahili.layers_{span}" for span in ("0-1", "2-3", "4-5")
    ]
    assert len({point.tobytes() for point in space.starting_points(8)}) == len(space.starting_points(8))
    assert space.describe()["left_out"] == [f"weight.maths.layers_{span}" for span in ("0-1", "2-3", "4-5")]


@pytest.mark.parametrize("experts", [2, 5])
def test_groups_are_gone_through_once_for_all_experts_and_not_at_all_where_all_are_changed(
    experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, holds = [0], Cell.holds

    def counted(cell: Cell, place: Place) -> bool:
        looks[0] += 1
        return holds(cell, place)

    names = [f"expert_{number}" for number in range(experts)]
    references = {name: ModelReference(path=name) for name in names}
    template = replace(TEMPLATE, method="task_arithmetic", experts=references)
    space = make_space(template, PLACES, SpaceConfig(granularity="layer", kinds=True))
    monkeypatch.setattr(Cell, "holds", counted)
    assert space.idle(dict.fromkeys(names, frozenset())) == {}
    assert looks[0] == 0
    assert len(space.idle(dict.fromkeys(names, frozenset(PLACES[:3])))) == 3 * experts
    assert looks[0] == len(space.groups) * len(PLACES)


def test_nothing_left_is_refused() -> None:
    everywhere = {name: frozenset(PLACES) for name in TEMPLATE.experts}
    with pytest.raises(ConfigError, match=r"^config: space: nothing to search: .* are the base's; look whether"):
        space_of(everywhere, method="task_arithmetic")


@pytest.mark.parametrize("method", ["linear", "slerp", "karcher", "nuslerp"])
def test_methods_that_average_models_search_all(method: str) -> None:
    some = {"maths": frozenset(PLACES[:9]), "swahili": frozenset[Place]()}
    assert (
        space_of(some, method=method, granularity="layer").dimensions
        == space_of({}, method=method, granularity="layer").dimensions
    )


def test_a_point_completes_the_whole_genome_with_the_nearest_that_counts() -> None:
    lower = frozenset(place for place in PLACES if place[0] < 2)
    space = space_of({"maths": lower, "swahili": frozenset()}, method="task_arithmetic", granularity="layer")
    assert len(space.dimensions) == 10
    genome = space.default()
    genome[0] = 0.9
    weights = [group.coefficients["weight"]["maths"] for group in space.decode(genome).groups]  # type: ignore[index]
    assert weights[:3] == [0.9, 0.9, 0.9]
    assert np.unique(weights[3:]).size == 1
    assert 0.9 not in weights[3:]
