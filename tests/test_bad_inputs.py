"""Bad inputs of real merges: refused with their place and name, or handled as each method documents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import CheckpointError, MergeError, RecipeError
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.models.compressed import CompressedExpert
from evomerge.models.open import Models, open_expert, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.study.merge import merge
from evomerge.testing.models import tiny_family
from helpers.merging import streamed

UP = "model.layers.1.mlp.up_proj.weight"
ONE_MODEL = ("passthrough", "scaled", "tall_mask")


@pytest.fixture
def family(tiny_llama: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """A base and two experts that a test may spoil."""
    return {
        name: Path(shutil.copytree(tiny_llama[name], tmp_path / "models" / name, symlinks=True))
        for name in ("base", "a", "b")
    }


@pytest.fixture
def larger_family(family: dict[str, Path]) -> dict[str, Path]:
    """As `family`, with a third expert: loops for three are those that other tests compile, too."""
    third = shutil.copytree(family["a"], family["a"].with_name("c"), symlinks=True)
    return {**family, "c": Path(third)}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return tiny_family(tmp_path / "sharded", experts=(), max_shard_size="30KB")["base"]


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def merge_of(family: dict[str, Path], method: str, **coefficients: Any) -> tuple[Merger, Recipe]:
    most = METHODS.get(method).max_experts
    experts = {name: family[name] for name in ("b", "a", "c")[:most] if name in family}
    recipe = Recipe(
        base=ModelReference(path=str(family["base"])),
        experts={name: ModelReference(path=str(folder)) for name, folder in experts.items()},
        method=method,
        options={"model": "b"} if method in ONE_MODEL else {},
        groups=(Group(name="all", coefficients=coefficients),),
    )
    opened = {name: Checkpoint.open(folder) for name, folder in experts.items()}
    return Merger(Models(Checkpoint.open(family["base"]), opened)), recipe


def test_the_model_that_cannot_be_opened_is_named(family: dict[str, Path], tmp_path: Path) -> None:
    there, nowhere = (ModelReference(path=str(path)) for path in (family["base"], tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"^base: .*nowhere: no such folder"):
        open_models(Sources(base=nowhere, experts={"a": there}))
    with pytest.raises(CheckpointError, match=r"^expert 'b': .*nowhere: no such folder"):
        open_models(Sources(base=there, experts={"a": there, "b": nowhere}))


BOUNDED = [
    (method, parameter.name, bound, sign)
    for method in METHODS.names()
    for parameter in METHODS.get(method).parameters
    for bound, sign in ((parameter.minimum, -1), (parameter.maximum, 1))
    if bound is not None
]


@pytest.mark.parametrize(("method", "parameter", "bound", "sign"), BOUNDED)
def test_a_coefficient_out_of_its_range_is_refused_by_every_method(
    tiny_llama: dict[str, Path], method: str, parameter: str, bound: float, sign: int
) -> None:
    word = "above" if sign > 0 else "below"
    merger, at_the_bound = merge_of(tiny_llama, method, **{parameter: bound})
    merger.bind(at_the_bound)
    _, beyond = merge_of(tiny_llama, method, **{parameter: bound + 0.25 * sign})
    with pytest.raises(RecipeError, match=rf"groups\[0\] \(all\): coefficients\.{parameter}: .* is {word} {bound:g}"):
        merger.bind(beyond)
    _, undefined = merge_of(tiny_llama, method, **{parameter: float("nan")})
    with pytest.raises(RecipeError, match=rf"coefficients\.{parameter}: nan is not a finite number"):
        merger.bind(undefined)


@pytest.mark.parametrize(
    ("method", "option", "bound", "sign"),
    [
        (method, option.name, bound, sign)
        for method in METHODS.names()
        for option in METHODS.get(method).options
        for bound, sign in ((option.minimum, -1), (option.maximum, 1))
        if bound is not None
    ],
)
def test_an_option_out_of_its_range_is_refused_by_every_method(
    tiny_llama: dict[str, Path], method: str, option: str, bound: float, sign: int
) -> None:
    merger, recipe = merge_of(tiny_llama, method)
    beyond = replace(recipe, options={**recipe.options, option: bound + sign})
    with pytest.raises(RecipeError, match=rf"options\.{option}: .* is {'above' if sign > 0 else 'below'} {bound:g}"):
        merger.bind(beyond)


def test_every_density_has_both_bounds() -> None:
    densities = {(method, sign) for method, parameter, _, sign in BOUNDED if parameter == "density"}
    assert ("ties", 1) in densities
    assert densities == {(method, sign) for method, _ in densities for sign in (-1, 1)}


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [0.5, 0.5, 0.5], []])
def test_a_list_of_weights_of_any_length_is_refused_since_experts_go_by_name(
    tiny_llama: dict[str, Path], tmp_path: Path, values: list[float]
) -> None:
    merger, recipe = merge_of(tiny_llama, "ties", weight=values)
    with pytest.raises(RecipeError, match=r"coefficients\.weight: expected one number, or one for each .*\(b, a\)"):
        merger.bind(recipe)
    file = tmp_path / "recipe.yaml"
    _, good = merge_of(tiny_llama, "ties", weight=0.25)
    file.write_text(good.to_yaml().replace("weight: 0.25", f"weight: {values}"))
    with pytest.raises(RecipeError, match=rf"groups\[0\]\.coefficients\.weight: .* got a list of {len(values)}"):
        merge(file, tmp_path / "out")


@pytest.mark.parametrize(("written", "number"), [("1e-3", 1e-3), ("2E+1", 20.0), ("-5.e-1", -0.5)])
def test_numbers_that_yaml_takes_for_text_are_numbers(tiny_llama: dict[str, Path], written: str, number: float) -> None:
    text = merge_of(tiny_llama, "ties", weight=0.25)[1].to_yaml()
    assert Recipe.from_yaml(text.replace("0.25", written)).groups[0].coefficients["weight"] == number
    for word in ("half", "'0.5 or so'", "1e", "true"):
        with pytest.raises(RecipeError, match=r"coefficients\.weight: expected a finite number, got"):
            Recipe.from_yaml(text.replace("0.25", word))


@pytest.mark.parametrize("weights", [{"a": 0.5}, {"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 0.5, "x": 0.5}])
def test_weights_of_other_experts_are_refused(tiny_llama: dict[str, Path], weights: dict[str, float]) -> None:
    merger, recipe = merge_of(tiny_llama, "ties", weight=weights)
    with pytest.raises(RecipeError, match=r"coefficients\.weight: expected one value for each of b, a"):
        merger.bind(recipe)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize("where", ["tensor", "task vector"])
def test_every_method_leaves_zeros_and_experts_that_are_the_base_as_they_are(
    larger_family: dict[str, Path], method: str, where: str
) -> None:
    family = larger_family
    for name in ("a", "b", "c"):
        shutil.copyfile(family["base"] / "model.safetensors", family[name] / "model.safetensors")
    if where == "tensor":
        for folder in family.values():
            edit(folder, lambda tensors: tensors[UP].zero_())
    merger, recipe = merge_of(family, method)
    expected = load_file(family["base"] / "model.safetensors")
    for name, tensor in streamed(merger, recipe).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["slerp", "nuslerp", "multi_slerp", "karcher"])
def test_an_expert_without_length_in_one_tensor_has_no_direction_there(family: dict[str, Path], method: str) -> None:
    edit(family["b"], lambda tensors: tensors[UP].zero_())
    merger, recipe = merge_of(family, method)
    found = streamed(merger, recipe)
    other = load_file(family["a"] / "model.safetensors")[UP]
    assert bool(torch.isfinite(found[UP]).all())
    if method == "slerp":
        torch.testing.assert_close(found[UP], 0.5 * other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["ties", "breadcrumbs_ties"])
def test_a_density_of_less_than_one_entry_keeps_the_largest_of_each_expert(
    tiny_llama: dict[str, Path], method: str
) -> None:
    merger, recipe = merge_of(tiny_llama, method, density=1e-9, weight=1.0)
    base = load_file(tiny_llama["base"] / "model.safetensors")
    for name, tensor in streamed(merger, recipe).items():
        assert 1 <= int((tensor != base[name]).sum()) <= 2, name


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name not in ("passthrough", "scaled")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_method_names_a_broken_tensor_and_its_model(
    larger_family: dict[str, Path], method: str, value: float
) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[UP][3, 4] = value

    edit(larger_family["b"], spoil)
    merger, recipe = merge_of(larger_family, method)
    with pytest.raises(MergeError, match=rf"{UP}: NaN or Inf in the weights of b".replace(".", r"\.")):
        streamed(merger, recipe)


@pytest.mark.parametrize("method", ["passthrough", "scaled"])
def test_a_broken_model_is_not_passed_through(family: dict[str, Path], method: str) -> None:
    edit(family["b"], lambda tensors: tensors[UP].fill_(float("nan")))
    merger, recipe = merge_of(family, method)
    assert recipe.options == {"model": "b"}
    with pytest.raises(MergeError, match=r"up_proj\.weight: NaN or Inf in the weights of b"):
        streamed(merger, recipe)


def test_a_broken_base_is_named_too(family: dict[str, Path], tmp_path: Path) -> None:
    edit(family["base"], lambda tensors: tensors[UP].fill_(float("nan")))
    _, recipe = merge_of(family, "ties")
    with pytest.raises(MergeError, match=r"up_proj\.weight: NaN or Inf in the weights of base"):
        write_folder(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_factors_are_named(family: dict[str, Path], tmp_path: Path) -> None:
    compress(family["base"], family["b"], tmp_path / "small", method="svd", rank=2)
    file = tmp_path / "small" / "factors-00001.safetensors"
    tensors = load_file(file)
    tensors[f"{UP}.values"][0] = float("inf")
    save_file(tensors, file)
    base = Checkpoint.open(family["base"])
    _, recipe = merge_of(family, "ties")
    experts = {"b": CompressedExpert.open(tmp_path / "small", base=base), "a": Checkpoint.open(family["a"])}
    with pytest.raises(MergeError, match=r"up_proj\.weight: NaN or Inf in the weights of b"):
        streamed(Merger(Models(base, experts)), recipe)


@pytest.mark.parametrize("file", ["../factors-00001.safetensors", "/etc/passwd", "gone.safetensors"])
def test_a_compressed_expert_reads_files_of_its_own_folder_alone(
    tiny_llama: dict[str, Path], tmp_path: Path, file: str
) -> None:
    compress(tiny_llama["base"], tiny_llama["b"], tmp_path / "small", method="svd", rank=2)
    shutil.copyfile(tmp_path / "small" / "factors-00001.safetensors", tmp_path / "factors-00001.safetensors")
    manifest = tmp_path / "small" / "compressed.json"
    manifest.write_text(manifest.read_text().replace('"factors-00001.safetensors"', json.dumps(file)))
    with pytest.raises(CheckpointError, match=rf"small: {file} is missing"):
        CompressedExpert.open(tmp_path / "small", base=Checkpoint.open(tiny_llama["base"]))


def test_an_adapter_of_rank_0_is_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "r": 0, "lora_alpha": 8}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    rows, columns = Checkpoint.open(tiny_llama["base"]).tensors[UP].shape
    module = f"base_model.model.{UP.removesuffix('.weight')}"
    factors = {f"{module}.lora_A.weight": torch.zeros(0, columns), f"{module}.lora_B.weight": torch.zeros(rows, 0)}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"up_proj\.weight: its factors have rank 0, which changes nothing"):
        open_expert(ModelReference(path=str(tmp_path / "adapter")), Checkpoint.open(tiny_llama["base"]))


def test_links_out_of_the_folder_are_followed_as_in_the_hubs_cache(sharded: Path, tmp_path: Path) -> None:
    expected = {name: Checkpoint.open(sharded).tensor(name).clone() for name in Checkpoint.open(sharded).names}
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(Path("../../blobs") / str(number))
    (tmp_path / "link").symlink_to(sharded)
    found = Checkpoint.open(tmp_path / "link")
    assert found.names == tuple(expected)
    assert all(torch.equal(found.tensor(name), tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "file",
    ["config.json", "model.safetensors.index.json", "model-00001-of-*", "tokenizer.json", "tokenizer_config.json"],
)
@pytest.mark.parametrize(
    ("target", "message"), [("itself", "that leads in a circle"), ("gone", "to gone, which isn't there")]
)
def test_a_file_that_is_a_broken_link_is_refused_by_name(sharded: Path, file: str, target: str, message: str) -> None:
    (path,) = sharded.glob(file)
    path.unlink()
    path.symlink_to(path.name if target == "itself" else target)
    with pytest.raises(CheckpointError, match=rf"{path.name}: is a symbolic link {message}; put"):
        Checkpoint.open(sharded)


def test_a_folder_that_is_a_broken_link_is_refused(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "three").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="one: is a symbolic link that leads in a circle; give the model folder"):
        Checkpoint.open(tmp_path / "one")
    with pytest.raises(CheckpointError, match="three: is a symbolic link to nowhere, which isn't there"):
        Checkpoint.open(tmp_path / "three")
    _, recipe = merge_of(tiny_llama, "ties")
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml().replace(str(tiny_llama["a"]), str(tmp_path / "two")))
    with pytest.raises(CheckpointError, match="two: is a symbolic link that leads in a circle"):
        merge(file, tmp_path / "out")


def test_a_folder_that_contains_itself_is_read_and_compressed(family: dict[str, Path], tmp_path: Path) -> None:
    (family["b"] / "tokenizer_again").symlink_to(family["b"])
    (family["b"] / "self").symlink_to(family["b"])
    merger, recipe = merge_of(family, "ties")
    assert len(streamed(merger, recipe)) == len(merger.base.names)
    compress(family["base"], family["b"], tmp_path / "small", method="svd", rank=2)
    assert (tmp_path / "small" / "tokenizer.json").is_file()
    assert not (tmp_path / "small" / "tokenizer_again").exists()
