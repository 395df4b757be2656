"""Models that are stored in different ways, seen as one family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.recipe.group import Group
from evomerge.testing.inputs import number_of_experts
from evomerge.testing.models import tiny_checkpoint, tiny_family
from helpers.checkpoints import copies
from helpers.merging import streamed
from helpers.weighted import BY_LAYER_AND_KIND, everywhere, merger_of, recipe_of

pytestmark = pytest.mark.usefixtures("stand_ins")


def test_experts_in_another_dtype_are_merged_as_stored(tmp_path: Path) -> None:
    folders = {
        "base": tiny_checkpoint(tmp_path / "base", dtype="bfloat16"),
        "a": tiny_checkpoint(tmp_path / "a", seed=1, dtype="float32"),
    }
    merger = merger_of(folders)
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    for name, tensor in streamed(merger, recipe_of(folders, everywhere(weight=0.25))).items():
        base, expert = stored["base"][name].double(), stored["a"][name].double()
        assert torch.equal(tensor, (base + 0.25 * (expert - base)).bfloat16())


def test_a_tied_expert_gives_its_embedding_as_head_of_an_untied_base(tmp_path: Path) -> None:
    folders = {
        "base": tiny_checkpoint(tmp_path / "base"),
        "a": tiny_checkpoint(tmp_path / "a", seed=1, tied=True),
    }
    found = streamed(merger_of(folders), recipe_of(folders, everywhere(weight=1.0)))
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"])


def test_names_without_the_base_models_prefix_are_merged_with_those_that_have_it(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "gpt2")
    recipe = recipe_of(folders, *BY_LAYER_AND_KIND)
    expected = streamed(merger_of(folders), recipe)
    tensors = load_file(folders["a"] / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()},
        folders["a"] / "model.safetensors",
        {"format": "pt"},
    )
    found = streamed(merger_of(folders), recipe)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def with_buffer(folders: Mapping[str, Path], values: Mapping[str, Tensor]) -> None:
    for model, folder in folders.items():
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.0.mlp.steps"] = values[model]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_integers_are_the_bases_and_must_agree(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    steps = torch.arange(5)
    with_buffer(folders, {"base": steps, "a": steps, "b": steps})
    found = streamed(merger_of(folders), recipe_of(folders, everywhere(weight=0.5)))
    assert torch.equal(found["model.layers.0.mlp.steps"], steps)
    with_buffer(folders, {"base": steps, "a": steps, "b": steps + 1})
    with pytest.raises(CheckpointError, match=r"steps: integers that differ"):
        merger_of(folders)


def test_a_method_without_need_of_a_base_isnt_given_one(tiny_llama: dict[str, Path], llama: Merger) -> None:
    found = streamed(llama, recipe_of(tiny_llama, method="pair"))
    one, two = (load_file(tiny_llama[model] / "model.safetensors")["lm_head.weight"].double() for model in "ab")
    assert torch.equal(found["lm_head.weight"], ((one + two) / 2).float())


@pytest.fixture(scope="module")
def mixed_and_wide(
    tmp_path_factory: pytest.TempPathFactory, family_of: Callable[..., dict[str, Path]]
) -> Callable[[int], tuple[dict[str, Path], dict[str, Path]]]:
    """Families of so many experts of the same numbers: in different dtypes, and all in float32."""

    @cache
    def made(experts: int) -> tuple[dict[str, Path], dict[str, Path]]:
        family, folder = family_of("llama", tuple("abcdef"[:experts])), tmp_path_factory.mktemp("dtypes")
        mixed, wide = (copies(family, folder / form) for form in ("mixed", "wide"))
        dtypes = (torch.bfloat16, torch.float16, torch.float32) * 3
        for name, dtype in zip(family, dtypes, strict=False):
            tensors = {key: tensor.to(dtype) for key, tensor in load_file(family[name] / "model.safetensors").items()}
            save_file(tensors, mixed[name] / "model.safetensors", {"format": "pt"})
            values = {key: tensor.float() for key, tensor in tensors.items()}
            save_file(values, wide[name] / "model.safetensors", {"format": "pt"})
        return mixed, wide

    return made


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_models_of_different_dtypes_merge_as_the_values_that_they_hold(
    mixed_and_wide: Callable[[int], tuple[dict[str, Path], dict[str, Path]]], method: str
) -> None:
    merges: type[MergeMethod] = METHODS.get(method)
    mixed, wide = mixed_and_wide(number_of_experts(merges))
    found, expected = (
        streamed(merger_of(folders), recipe_of(folders, everywhere(), method=method, dtype="float32"))
        for folders in (mixed, wide)
    )
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-5, atol=1e-6, msg=lambda text, at=name: f"{at}: {text}"
        )
    # Without a dtype of its own the merge is stored as the base.
    stored = streamed(merger_of(mixed), recipe_of(mixed, everywhere(), method=method))
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


def test_every_expert_of_a_mixture_and_its_router_take_the_coefficients_of_their_layers_mlp(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "mixtral")
    groups = (
        Group(name="first mlp", layers=(0, 0), kinds=("mlp",), coefficients={"weight": {"a": 0.9, "b": -0.25}}),
        Group(name="mlp", kinds=("mlp",), coefficients={"weight": {"a": 0.125, "b": 0.5}}),
        Group(name="rest", coefficients={"weight": 0.0}),
    )
    recipe = recipe_of(folders, *groups, method="task_arithmetic")
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    merged = load_file(write_folder(recipe, tmp_path / "out") / "model.safetensors")
    assert merged.keys() == stored["base"].keys()
    mixture = [name for name in merged if "block_sparse_moe" in name or ".mlp." in name]
    assert any("gate" in name for name in mixture)
    assert any("experts" in name for name in mixture)
    for name, tensor in merged.items():
        base, a, b = (stored[model][name].double() for model in ("base", "a", "b"))
        one, two = ((0.9, -0.25) if ".layers.0." in name else (0.125, 0.5)) if name in mixture else (0.0, 0.0)
        expected = (base + one * (a - base) + two * (b - base)).float()
        # Half a unit in the last place of float32, and as much for the rounding of the sum's terms.
        torch.testing.assert_close(tensor, expected, rtol=2e-7, atol=3e-8)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert bool(torch.isfinite(model(torch.arange(1, 9)[None]).logits).all())


@pytest.mark.parametrize("base", ["tied", "untied"])
@pytest.mark.parametrize("expert", ["tied", "untied"])
def test_tied_and_untied_heads_are_merged_and_a_head_that_the_base_lacks_is_refused(
    tmp_path: Path, base: str, expert: str
) -> None:
    folders = {
        "base": tiny_checkpoint(tmp_path / "base", tied=base == "tied"),
        "a": tiny_checkpoint(tmp_path / "a", seed=1, tied=expert == "tied"),
    }
    recipe = recipe_of(folders, everywhere(weight=0.25), method="task_arithmetic")
    if (base, expert) == ("tied", "untied"):
        with pytest.raises(CheckpointError, match=r"has an output head of its own \(lm_head\.weight\).*untie the base"):
            write_folder(recipe, tmp_path / "out")
        return
    out = write_folder(recipe, tmp_path / "out")
    merged, (one, two) = (
        load_file(out / "model.safetensors"),
        (load_file(f / "model.safetensors") for f in folders.values()),
    )
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (head in merged) == (base == "untied")
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared == (base == "tied")
    start = one.get(head, one[embedding]).double()
    end = two.get(head, two[embedding]).double()
    assert torch.equal(model.get_output_embeddings().weight, (start + 0.25 * (end - start)).float())
