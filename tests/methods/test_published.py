"""Merges at the settings of papers: which there are, what they make, and what doesn't fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ConfigError
from evomerge.materialise.folder import write_folder
from evomerge.methods import METHODS
from evomerge.methods.published import LAYER_SWAP, NAMES, STANDARD, expanded, kind_of, labels, published
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference

LAYERS = 12


def template(*experts: str, folders: dict[str, Path] | None = None) -> Recipe:
    found = folders or {}
    return Recipe(
        base=ModelReference(path=str(found.get("base", "base"))),
        experts={name: ModelReference(path=str(found.get(name, name))) for name in experts},
        method="linear",
        dtype="float32",
    )


def test_every_name_is_a_method_or_the_layer_swap_and_the_standard_ones_are_among_them() -> None:
    assert set(NAMES) - {LAYER_SWAP} <= set(METHODS)
    assert set(STANDARD) <= set(NAMES)


@pytest.mark.parametrize("experts", [("a", "b"), ("a", "b", "c"), ("a",)])
def test_each_label_has_a_recipe_of_its_own_that_its_method_takes(experts: tuple[str, ...]) -> None:
    found = published(["standard"], template(*experts), LAYERS - 1)
    assert [*found] == labels(["standard"], experts)
    assert len({recipe.key() for recipe in found.values()}) == len(found)
    for label, recipe in found.items():
        assert recipe.method == ("task_arithmetic" if kind_of(label) == LAYER_SWAP else kind_of(label))


def test_the_standard_set_leaves_out_what_does_not_fit_and_a_name_of_ones_own_is_refused() -> None:
    assert LAYER_SWAP not in expanded(["standard"], ("a", "b", "c"))
    assert "model_stock" not in expanded(["standard"], ("a",))
    with pytest.raises(ConfigError, match="layer_swap is of two experts, and here are 3; leave it out"):
        expanded([LAYER_SWAP], ("a", "b", "c"))
    with pytest.raises(ConfigError, match="at least 2, got 1; leave model_stock out"):
        expanded(["model_stock"], ("a",))
    with pytest.raises(ConfigError, match=r"unknown baseline 'tie'\. Did you mean 'ties'"):
        expanded(["tie"], ("a", "b"))
    assert not [name for name in published(["standard"], template("a", "b"), 1) if kind_of(name) == LAYER_SWAP]
    with pytest.raises(ConfigError, match="needs three layers, and these models have 2"):
        published([LAYER_SWAP], template("a", "b"), 1)


def test_a_layer_swap_has_the_outer_layers_of_one_expert_and_the_inner_ones_of_the_other() -> None:
    found = published([LAYER_SWAP], template("a", "b"), LAYERS - 1)["layer_swap a"]
    shares = [
        next(group.coefficients["weight"] for group in found.groups if group.contains(layer, "mlp"))
        for layer in range(LAYERS)
    ]
    outer, mean, inner = {"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 0.5}, {"a": 0.0, "b": 1.0}
    assert shares == [outer] * 2 + [mean] + [inner] * 6 + [mean] + [outer] * 2


@pytest.mark.parametrize("last_layer", range(2, 9))
def test_a_layer_swap_covers_every_layer_once_the_same_from_both_ends(last_layer: int) -> None:
    for recipe in published([LAYER_SWAP], template("a", "b"), last_layer).values():
        owners = [[group.contains(layer, "mlp") for group in recipe.groups] for layer in range(last_layer + 1)]
        assert all(sum(owner) == 1 for owner in owners)
        weights = [dict(recipe.groups[owner.index(True)].coefficients["weight"]) for owner in owners]  # type: ignore[arg-type]
        assert weights == weights[::-1]
        assert weights[0] != weights[last_layer // 2]


def test_task_arithmetic_adds_three_tenths_of_each_task_vector(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    made = published(["task_arithmetic"], template("a", "b", folders=tiny_llama), 1)["task_arithmetic 0.3"]
    merged = load_file(write_folder(made, tmp_path / "merged") / "model.safetensors")
    base, a, b = (load_file(tiny_llama[name] / "model.safetensors") for name in ("base", "a", "b"))
    for name, tensor in merged.items():
        expected = base[name].double() + 0.3 * (a[name].double() + b[name].double() - 2 * base[name].double())
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
