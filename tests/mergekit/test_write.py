"""Recipes written as mergekit files: the same merge when read back, or the reason why not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.errors import RecipeError
from evomerge.materialise.merger import Merger
from evomerge.mergekit.read import read_mergekit
from evomerge.mergekit.write import to_mergekit
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.open import Models, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Slice
from evomerge.testing.models import tiny_family
from helpers.merging import streamed


@pytest.fixture(scope="module", params=["llama", "gpt_neox", "qwen3"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("family"), request.param, layers=3)


def recipe(folders: dict[str, Path], method: str, *groups: Group, **changes: Any) -> Recipe:
    return Recipe(
        base=ModelReference(path=str(folders["base"])),
        experts={name: ModelReference(path=str(folders[name])) for name in ("a", "b")},
        method=method,
        groups=groups,
        **changes,
    )


def write_adapter(folder: Path) -> Path:
    """A LoRA adapter of the tiny Llama, as PEFT stores one."""
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    factors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{part}.weight": torch.full(shape, 0.1)
        for layer in range(2)
        for part, shape in (("A", (2, 32)), ("B", (32, 2)))
    }
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def merged(made: Recipe) -> dict[str, Any]:
    experts = {name: Checkpoint.open(model) for name, model in made.experts.items()}
    return streamed(Merger(Models(Checkpoint.open(made.base), experts)), made)


def weights(a: float, b: float) -> dict[str, dict[str, float]]:
    return {"weight": {"a": a, "b": b}}


SELECTIONS = {
    "all": (Group(name="all", coefficients=weights(0.3, 0.9)),),
    "defaults": (Group(name="all"),),
    "layers": (
        Group(name="first", layers=(0, 0), coefficients=weights(0.1, 0.2)),
        Group(name="rest", layers=(1, 2), coefficients=weights(0.3, 0.4)),
    ),
    "kinds": (
        Group(name="attention", kinds=("attention",), coefficients=weights(0.1, 0.2)),
        Group(name="outside", kinds=("embedding", "head"), coefficients=weights(0.3, 0.4)),
        Group(name="rest", coefficients=weights(0.5, 0.6)),
    ),
    "layers and kinds": (
        Group(name="mlp", layers=(0, 1), kinds=("mlp", "norm"), coefficients=weights(0.1, 0.2)),
        Group(name="middle", layers=(1, 1), coefficients=weights(0.7, 0.7)),
        Group(name="rest", coefficients=weights(0.5, 0.6)),
    ),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_written_recipe_reads_back_as_the_same_merge(selection: str, family: dict[str, Path]) -> None:
    made = recipe(family, "task_arithmetic", *SELECTIONS[selection], dtype="bfloat16")
    again = read_mergekit(to_mergekit(made))
    assert again.dtype == "bfloat16"
    first, second = merged(made), merged(again)
    assert all(first[name].equal(second[name]) for name in first)


METHODS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": False},
    "slerp": {},
    "nuslerp": {"along": "rows", "origin": "zero"},
    "multi_slerp": {"origin": "base"},
    "karcher": {"max_iterations": 3},
    "model_stock": {"clamp": False, "along": "rows"},
    "ties": {"normalize": False},
    "dare_linear": {"rescale": "l1"},
    "dare_ties": {"rescale": "none", "normalize": True},
    "della": {"rescale": "l1"},
    "della_linear": {"rescale": "l1"},
    "breadcrumbs": {"rescale": "none"},
    "breadcrumbs_ties": {"rescale": "l1"},
    "sce": {},
    "ram": {"epsilon": 0.01},
    "ram_plus": {},
    "passthrough": {"model": "b"},
    "scaled": {"model": "a"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_both_have_reads_back(method: str, tiny_llama: dict[str, Path]) -> None:
    groups = () if method == "passthrough" else (Group(name="all"),)
    made = recipe(tiny_llama, method, *groups, options=METHODS[method])
    again = read_mergekit(to_mergekit(made))
    assert again.method == method
    first, second = merged(made), merged(again)
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("method", "options", "coefficients", "message"),
    [
        ("magmax", {}, {}, "method: mergekit has no counterpart of magmax"),
        ("ties", {"election": "unweighted"}, {}, "options.election: mergekit's ties has 'weighted' only"),
        ("dare_linear", {}, {}, "options.rescale: mergekit's dare_linear has no 'probability'"),
        ("model_stock", {}, {}, "options.clamp: mergekit's model_stock has False only"),
        ("slerp", {"threshold": 0.5}, {}, "options.threshold"),
        ("karcher", {}, weights(1.0, 2.0), "coefficients.weight: mergekit's karcher has 1 only"),
        ("sce", {}, {"scale": 0.5}, "coefficients.scale: mergekit's sce has 1 only"),
    ],
)
def test_what_mergekit_cannot_express_is_said(
    method: str, options: dict[str, Any], coefficients: dict[str, Any], message: str, tiny_llama: dict[str, Path]
) -> None:
    made = recipe(tiny_llama, method, Group(name="all", coefficients=coefficients), options=options)
    with pytest.raises(RecipeError, match=message):
        to_mergekit(made)


@pytest.mark.parametrize("place", ["plain", "a+b"])
@pytest.mark.parametrize("method", ["task_arithmetic", "scaled"])
def test_an_adapter_is_written_with_its_base(
    method: str, place: str, tiny_llama: dict[str, Path], tmp_path: Path
) -> None:
    folders = {"base": tiny_llama["base"], "a": write_adapter(tmp_path / place / "a"), "b": tiny_llama["b"]}
    options = {"model": "a"} if method == "scaled" else {}
    coefficients = {"scale": 0.5} if method == "scaled" else weights(0.5, 0.25)
    layered = (Group(name="first", layers=(0, 0), coefficients=coefficients), Group(name="rest"))
    made = recipe(folders, method, *layered, options=options)
    text = to_mergekit(made)
    assert ("+" in text) == (place == "plain" or "a+b" in text)
    again = read_mergekit(text)
    assert folders["a"] in {Path(model.path) for model in again.experts.values()}
    first, second = (streamed(Merger(open_models(one)), one) for one in (made, again))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_compressed_expert_is_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    compress(tiny_llama["base"], tiny_llama["a"], tmp_path / "small", method="svd", rank=2)
    made = recipe({**tiny_llama, "a": tmp_path / "small"}, "task_arithmetic", Group(name="all"))
    with pytest.raises(RecipeError, match=r"models\.experts\.a: mergekit can't read compressed experts such as"):
        to_mergekit(made)


def test_the_base_as_an_expert_of_task_vectors_is_refused(tiny_llama: dict[str, Path]) -> None:
    made = recipe(tiny_llama, "task_arithmetic", Group(name="all"))
    made = dataclasses.replace(made, experts={"a": made.base})
    with pytest.raises(RecipeError, match="doesn't merge the base with itself"):
        to_mergekit(made)


def test_random_methods_say_that_draws_differ(tiny_llama: dict[str, Path]) -> None:
    made = recipe(tiny_llama, "dare_linear", Group(name="all"), options={"rescale": "l1"})
    assert to_mergekit(made).startswith("# mergekit draws other random entries")


def stacked(folders: dict[str, Path], method: str, *slices: Slice, **weight: float) -> Recipe:
    group = Group(name="all", coefficients={"weight": weight})
    return recipe(folders, method, group, slices=slices)


def test_an_expert_without_part_in_a_slice_is_left_out_of_it(family: dict[str, Path]) -> None:
    made = stacked(family, "ties", {"base": (0, 1), "a": (1, 2)}, {"base": (2, 2), "b": (0, 0)}, a=0.5, b=0.25)
    again = read_mergekit(to_mergekit(made))
    assert again.slices == made.slices

    def stacks(found: Recipe) -> dict[str, Any]:
        models = open_models(found)
        return streamed(Merger(models), found)

    expected, found = stacks(made), stacks(again)
    assert expected.keys() == found.keys()
    assert all(tensor.equal(found[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("method", "slices", "message"),
    [
        ("ties", ({"a": (0, 1), "b": (0, 1)},), r"slices\[0\]: doesn't name base, which mergekit's ties needs"),
        ("ties", ({"a": (0, 1), "base": (0, 1)},), r"slices\[0\]: doesn't name b,.*set its weight to 0 there"),
        ("linear", ({"a": (0, 1)},), r"slices\[0\]: doesn't name b,.*set its weight to 0 there"),
    ],
)
def test_a_stack_that_mergekit_cannot_say_is_refused(
    method: str, slices: tuple[Slice, ...], message: str, family: dict[str, Path]
) -> None:
    with pytest.raises(RecipeError, match=message):
        to_mergekit(stacked(family, method, *slices, a=0.5, b=0.25))


def test_an_expert_of_weight_0_needs_no_layers_in_mergekit(family: dict[str, Path]) -> None:
    text = to_mergekit(stacked(family, "linear", {"a": (0, 1)}, {"a": (1, 2)}, a=0.5, b=0.0))
    assert f"model: {family['a']}\n" in text
    assert f"model: {family['b']}\n" not in text
