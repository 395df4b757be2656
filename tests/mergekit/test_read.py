"""Merge files of mergekit: what they become."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from evomerge.errors import RecipeError
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.mergekit.documents import named
from evomerge.mergekit.methods import COUNTERPARTS
from evomerge.mergekit.read import load_recipe, read_mergekit
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from helpers.mergekit_files import ties


def test_a_plain_file_is_read_without_opening_a_model() -> None:
    assert read_mergekit(ties()) == Recipe(
        base=ModelReference(path="org/base"),
        experts={"one": ModelReference(path="org/one"), "two": ModelReference(path="org/two", revision="v1")},
        method="ties",
        options={"normalize": False, "election": "weighted", "trim": "tensor"},
        dtype="bfloat16",
        groups=(
            Group(
                name="all",
                coefficients={
                    "weight": {"one": 0.5, "two": 0.25},
                    "density": {"one": 0.3, "two": 1.0},
                    "scale": 1.0,
                },
            ),
        ),
    )


def test_models_of_one_name_get_names_of_their_own() -> None:
    models = [ModelReference(path=path) for path in ("x/Chat-7B-v0.1", "y/Chat-7B-v0.1", "/models/base/")]
    assert list(named(models)) == ["Chat-7B-v0_1", "Chat-7B-v0_1_2", "base_2"]


def test_values_over_depth_become_groups_of_layers(family: dict[str, Path]) -> None:
    text = yaml.safe_dump(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(family["base"]),
            "models": [{"model": str(family["a"]), "parameters": {"weight": [1.0, 0.0, 0.0]}}],
        }
    )
    read = read_mergekit(text)
    # Head and final norm take the first value, as in mergekit, and so stand apart from the last layer.
    found = {
        name: next(
            group.coefficients["weight"]["a"]
            for group in read.groups
            if group.contains(*Checkpoint.open(read.base).layout.place(name), name)
        )
        for name in (
            *("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"),
            *(f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(4)),
        )
    }
    assert list(found.values()) == pytest.approx([1.0, 1.0, 1.0, 1.0, 1 / 3, 0.0, 0.0])
    assert Recipe.from_yaml(read.to_yaml()) == read


def test_filters_become_groups_of_names_that_reach_the_merge(family: dict[str, Path], tmp_path: Path) -> None:
    text = yaml.safe_dump(
        {
            "merge_method": "task_arithmetic",
            "base_model": str(family["base"]),
            "models": [{"model": str(family["a"]), "parameters": {"weight": [{"filter": "q_proj", "value": 1}]}}],
            "parameters": {"weight": 0},
        }
    )
    merged = load_file(write_folder(read_mergekit(text), tmp_path / "out") / "model.safetensors")
    base, expert = (load_file(family[name] / "model.safetensors") for name in ("base", "a"))
    for name, tensor in merged.items():
        assert tensor.equal(expert[name] if "q_proj" in name else base[name])


def test_a_recipe_without_names_keeps_its_key() -> None:
    recipe = Recipe(base=ModelReference(path="b"), experts={"a": ModelReference(path="a")}, method="linear")
    plain = dataclasses.replace(recipe, groups=(Group(name="all", layers=(0, 3)),))
    by_name = dataclasses.replace(recipe, groups=(Group(name="all", layers=(0, 3), names=("q_proj",)),))
    assert "names" not in plain.to_data()["groups"][0]
    assert plain.key() == "4f3f3ae2d472f343" != by_name.key()


def test_a_recipe_with_names_that_leave_a_tensor_out_is_refused(family: dict[str, Path]) -> None:
    recipe = Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={"a": ModelReference(path=str(family["a"]))},
        method="task_arithmetic",
        groups=(Group(name="some", names=("proj",)),),
    )
    merger = Merger(Models(Checkpoint.open(recipe.base), {"a": Checkpoint.open(recipe.experts["a"])}))
    with pytest.raises(RecipeError, match="no group contains"):
        merger.bind(recipe)


def test_names_of_a_group_that_are_no_texts_are_refused() -> None:
    data = Recipe(
        base=ModelReference(path="b"),
        experts={"a": ModelReference(path="a")},
        method="linear",
        groups=(Group(name="all"),),
    ).to_data()
    data["groups"][0]["names"] = "q_proj"
    with pytest.raises(RecipeError, match=r"groups\[0\]\.names: expected a list of texts"):
        Recipe.from_data(data)


def test_a_file_of_either_kind_is_loaded_with_its_models_beside_it(family: dict[str, Path], tmp_path: Path) -> None:
    folder = family["base"].parent
    text = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
    (folder / "file.yaml").write_text(text)
    read = load_recipe(folder / "file.yaml")
    assert {name: Path(model.path) for name, model in read.experts.items()} == {"a": family["a"], "b": family["b"]}
    (folder / "recipe.yaml").write_text(read.to_yaml())
    assert load_recipe(folder / "recipe.yaml") == read


def test_a_filter_that_matches_no_tensor_is_reported(family: dict[str, Path]) -> None:
    def read(filters: list[str]) -> list[str]:
        weight = [*({"filter": text, "value": 0.2} for text in filters), {"filter": "*", "value": 0.5}, {"value": 0.7}]
        models = [
            {"model": "a", "parameters": {"weight": weight}},
            {"model": "b", "parameters": {"weight": [{"filter": "mlp", "value": 0.1}, {"value": 1}]}},
        ]
        notes: list[str] = []
        text = yaml.safe_dump({"merge_method": "linear", "models": models})
        read_mergekit(text, folder=family["base"].parent, report=notes.append)
        return notes

    assert read(["self_attn", "down_proj"]) == []
    assert read(["selfattn", "down_proj"]) == ["filter 'selfattn' occurs in no tensor's name; it has no effect"]


@pytest.mark.parametrize("counterpart", COUNTERPARTS, ids=lambda counterpart: counterpart.theirs)
def test_every_counterpart_names_a_method_with_its_coefficients_and_options(counterpart: Any) -> None:
    method = METHODS.get(counterpart.ours)
    coefficients = {number.ours for number in (*counterpart.per_model.values(), *counterpart.shared.values())}
    folded = {"scale"} if counterpart.folded else set()
    assert coefficients | set(counterpart.fixed) | folded >= {parameter.name for parameter in method.parameters}
    options = {switch.ours for switch in counterpart.switches.values()} - {None} | set(counterpart.options)
    found_otherwise = {"origin"} if counterpart.base == "optional" else {"model"}
    assert options | found_otherwise >= {option.name for option in method.options}


@pytest.mark.parametrize(
    ("method", "models", "base"),
    [
        ("task_arithmetic", ["org/base+org/lora", {"model": "org/base", "lora": "org/two@v2"}], "org/base"),
        ("passthrough", ["org/base+org/lora"], None),
    ],
)
def test_an_adapter_of_the_base_is_an_expert(method: str, models: list[Any], base: str | None) -> None:
    weights = {"weight": 1.0} if method == "task_arithmetic" else {}
    data = {"merge_method": method, "models": [{"model": model, "parameters": weights} for model in models]}
    found = read_mergekit(yaml.safe_dump({**data, **({} if base is None else {"base_model": base})}))
    expected = {"lora": ModelReference(path="org/lora"), "two": ModelReference(path="org/two", revision="v2")}
    assert found.base == ModelReference(path="org/base")
    assert found.experts == dict(list(expected.items())[: len(models)])


def test_slices_that_keep_every_layer_in_place_are_no_stack(family: dict[str, Path]) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: {family['a']}, layer_range: [0, 4]}}]}}]\n"
    assert read_mergekit(text).slices == ()
