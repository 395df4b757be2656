"""Recipes of stacks, written, read and told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import RecipeError
from evomerge.recipe.recipe import Recipe
from helpers.search import write_config
from helpers.stacks import PARTS, recipe


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "expected a list of slices"),
        ("[{}]", r"slices\[0\]: name at least one model"),
        ("[{base: [2, 1]}]", r"slices\[0\]\.base: expected \[first, last\]"),
        ("[{base: [0, 1], nobody: [0, 1]}]", r"slices\[0\]: unknown key 'nobody'"),
        ("[{base: 3}]", r"slices\[0\]\.base: expected \[first, last\]"),
    ],
)
def test_malformed_slices_in_a_recipe_are_refused_by_their_place(value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(f"evomerge: 1\nmodels: {{base: x, experts: {{a: y}}, slices: {value}}}\nmethod: linear\n")


def test_a_recipe_with_slices_reads_back_as_it_was(family: dict[str, Path]) -> None:
    made = recipe(family, PARTS)
    assert Recipe.from_yaml(made.to_yaml()) == made
    assert made.key() != recipe(family, PARTS[:2]).key()


def test_the_first_model_of_a_slice_makes_another_recipe_and_another_experiment(
    family: dict[str, Path], tmp_path: Path
) -> None:
    one, two = ({"a": (0, 1), "b": (0, 1)},), ({"b": (0, 1), "a": (0, 1)},)
    assert recipe(family, one).key() != recipe(family, two).key()
    text = write_config(tmp_path / "x.yaml", family, tmp_path).read_text()
    configs = [
        Config.from_yaml(text.replace("merge:\n", f"  slices: [{part}]\nmerge:\n"))
        for part in ("{a: [0, 1], b: [0, 1]}", "{b: [0, 1], a: [0, 1]}")
    ]
    assert configs[0].identity() != configs[1].identity()
