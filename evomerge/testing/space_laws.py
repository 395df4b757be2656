"""What every search space must keep: one function per law.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_space(law):
    law(space)

@pytest.mark.parametrize("law", GENOME_LAWS, ids=lambda law: law.__name__)
def test_a_genome_of_my_space(law):
    law(space, random_genome(space, seed=0))
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from evomerge.methods.base import MergeMethod
from evomerge.methods.declared import build_method, checked_coefficients
from evomerge.recipe.group import Coefficient
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Dimension, Genome, Space, active, check_dimensions, settled
from evomerge.streams import stream

Law = Callable[[Space], None]
GenomeLaw = Callable[[Space, Genome], None]


def random_genome(dimensions: Sequence[Dimension], *, seed: int) -> Genome:
    """A point drawn uniformly inside the bounds."""
    generator = stream(seed, "genome")
    drawn = [
        generator.uniform(item.low, item.high)
        if item.kind == "continuous"
        else float(generator.integers(int(item.low), int(item.high) + 1))
        for item in dimensions
    ]
    return settled(dimensions, np.array(drawn))


def declares_sound_dimensions_and_groups(space: Space) -> None:
    """There is something to search, names occur once, and what a dimension depends on comes before it."""
    assert space.dimensions
    check_dimensions(space.dimensions)
    assert all(dimension.name for dimension in space.dimensions)
    assert len(set(space.groups)) == len(space.groups)


def starts_inside_its_bounds_at_different_points(space: Space) -> None:
    """However many starting points may be had, the first is the default, none occurs twice and no two merge alike."""
    for count in (1, 2, 5, 16, 40):
        points = space.starting_points(count)
        assert 1 <= len(points) <= count
        assert np.array_equal(points[0], space.default())
        for point in points:
            assert is_inside(space, point), (count, point)
        assert len({space.decode(point).key() for point in points}) == len(points), count


def starts_at_the_same_points_again(space: Space) -> None:
    """The default and the starting points are not drawn."""
    for first, second in zip(space.starting_points(16), space.starting_points(16), strict=True):
        assert np.array_equal(first, second)


def describes_itself_as_plain_data(space: Space) -> None:
    """What the run directory records of a space survives JSON and names every dimension and group."""
    found = space.describe()
    assert json.loads(json.dumps(found)) == found
    assert [item["name"] for item in found["dimensions"]] == [dimension.name for dimension in space.dimensions]
    assert found["groups"] == list(space.groups)


def decodes_to_the_same_recipe_again(space: Space, genome: Genome) -> None:
    """Decoding depends on the genome alone and leaves it as it is."""
    copy = genome.copy()
    first = space.decode(genome)
    space.decode(space.default())
    assert np.array_equal(genome, copy)
    assert space.decode(copy) == first


def survives_the_ledger(space: Space, genome: Genome) -> None:
    """The parameters of a genome, written as JSON and read back, give the same genome, bit for bit."""
    parameters = space.parameters(genome)
    matters = active(space.dimensions, genome)
    assert list(parameters) == [item.name for item, named in zip(space.dimensions, matters, strict=True) if named]
    again = space.genome(json.loads(json.dumps(parameters)))
    assert again.dtype == np.float64
    assert np.array_equal(again, genome), (again, genome)
    assert is_inside(space, again)


def decodes_to_what_the_method_takes(space: Space, genome: Genome) -> None:
    """Options are known, every declared coefficient is there for every group, inside the range of its definition."""
    recipe = space.decode(genome)
    method = type(build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed))
    assert tuple(group.name for group in recipe.groups) == space.groups_of(genome)
    for group in recipe.groups:
        assert set(group.coefficients) == {parameter.name for parameter in method.parameters}
        checked_coefficients(group.name, group.coefficients, method, tuple(recipe.experts))
        _check_values(recipe, method, group.coefficients)


def decodes_to_a_recipe_that_survives_its_file(space: Space, genome: Genome) -> None:
    """Written as YAML and read back, the recipe is the same to the last digit."""
    recipe = space.decode(genome)
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.key() == recipe.key()


def finds_what_it_decodes_to(space: Space, genome: Genome) -> None:
    """A space that reads recipes reads each of its own, as a point inside its bounds that merges alike."""
    recipe = space.decode(genome)
    found = space.encode(recipe)
    if found is None:
        assert type(space).encode is Space.encode, "this space reads recipes, but not this one of its own"
        return
    assert is_inside(space, found), found
    again = space.decode(found)
    assert replace(again, groups=()) == replace(recipe, groups=())
    for group, other in zip(recipe.groups, again.groups, strict=True):
        assert replace(group, coefficients={}) == replace(other, coefficients={})
        for name, value in group.coefficients.items():
            np.testing.assert_allclose(_numbers(other.coefficients[name]), _numbers(value), rtol=1e-8, atol=1e-8)


def merges_otherwise_wherever_a_dimension_changes(space: Space, genome: Genome) -> None:
    """No dimension that matters is without effect: another value of it is another recipe."""
    key = space.decode(genome).key()
    matters = active(space.dimensions, genome)
    for index, dimension in enumerate(space.dimensions):
        if matters[index]:
            other = genome.copy()
            middle = (dimension.low + dimension.high) / 2
            other[index] = dimension.low if genome[index] > middle else dimension.high
            assert space.decode(settled(space.dimensions, other)).key() != key, dimension.name


def is_inside(space: Space, genome: Genome) -> bool:
    """Whether a genome has a number inside the bounds of each dimension, the low end where it doesn't matter."""
    return (
        genome.shape == (len(space.dimensions),)
        and all(item.contains(coordinate) for item, coordinate in zip(space.dimensions, genome, strict=True))
        and np.array_equal(settled(space.dimensions, genome), genome)
    )


def _numbers(value: Coefficient) -> list[float]:
    return [*value.values()] if isinstance(value, Mapping) else [value]


def _check_values(recipe: Recipe, method: type[MergeMethod], coefficients: Mapping[str, Coefficient]) -> None:
    for parameter in method.parameters:
        value = coefficients[parameter.name]
        if isinstance(value, Mapping):
            assert parameter.per_expert
            assert list(value) == list(recipe.experts)
        numbers = value.values() if isinstance(value, Mapping) else (value,)
        for number in numbers:
            assert type(number) in {int, float}, (parameter.name, number)


LAWS: tuple[Law, ...] = (
    declares_sound_dimensions_and_groups,
    starts_inside_its_bounds_at_different_points,
    starts_at_the_same_points_again,
    describes_itself_as_plain_data,
)
"""What is expected of a space as a whole."""

GENOME_LAWS: tuple[GenomeLaw, ...] = (
    decodes_to_the_same_recipe_again,
    survives_the_ledger,
    decodes_to_what_the_method_takes,
    decodes_to_a_recipe_that_survives_its_file,
    finds_what_it_decodes_to,
    merges_otherwise_wherever_a_dimension_changes,
)
"""What is expected at every genome inside the bounds."""
