"""Merged tensors, live and streamed: the same bytes, and those of a float64 reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.errors import MergeError
from evomerge.inference.live import LiveModel
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.recipe.group import Group
from evomerge.testing.inputs import number_of_experts
from evomerge.testing.models import ARCHITECTURES
from helpers.checkpoints import copies
from helpers.merging import streamed
from helpers.stand_in_methods import Weighted
from helpers.weighted import BY_LAYER_AND_KIND, everywhere, merger_of, recipe_of

pytestmark = pytest.mark.usefixtures("stand_ins")


class Opened(NamedTuple):
    folders: dict[str, Path]
    merger: Merger
    live: LiveModel


@pytest.fixture(scope="module")
def opened_once(family_of: Callable[..., dict[str, Path]]) -> Callable[[str, str, str], Opened]:
    @cache
    def opened(architecture: str, dtype: str, experts: str) -> Opened:
        folders = family_of(architecture, tuple(experts), dtype=dtype)
        merger = merger_of(folders)
        return Opened(folders, merger, LiveModel.build(merger.base, dtype=merger.base.dtype))

    return opened


@pytest.fixture
def opened(opened_once: Callable[[str, str, str], Opened]) -> Callable[..., Opened]:
    """A tiny family, opened, with a live model that holds no merge. Don't write into its folders."""

    def blank(architecture: str = "llama", dtype: str = "float32", experts: str = "ab") -> Opened:
        found = opened_once(architecture, dtype, experts)
        for tensor in found.live.targets.values():
            tensor.fill_(torch.nan)
        return found

    return blank


# A tensor is rounded in the same way whatever model it is from.
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *((architecture, "bfloat16") for architecture in ARCHITECTURES),
        *((architecture, dtype) for architecture in ("llama", "mixtral") for dtype in ("float32", "float16")),
    ],
)
def test_live_and_streamed_tensors_are_the_same_bytes_and_those_of_a_float64_reference(
    opened: Callable[..., Opened], architecture: str, dtype: str
) -> None:
    folders, merger, live = opened(architecture, dtype)
    recipe = recipe_of(folders, *BY_LAYER_AND_KIND)
    merger.write(merger.bind(recipe), live.targets)
    found = streamed(merger, recipe)
    stored = {name: load_file(folder / "model.safetensors") for name, folder in folders.items()}
    assert set(found) == set(stored["base"])
    for name, tensor in found.items():
        layer, kind = merger.base.layout.place(name)
        a, b, scale = ((0.9, 0.1, 1.0) if kind == "mlp" else (-0.5, 0.25, 0.5)) if layer == 0 else (0.75, 0.75, 1.0)
        base, one, two = (stored[model][name].double() for model in ("base", "a", "b"))
        expected = (base + scale * (a * (one - base) + b * (two - base))).to(getattr(torch, dtype))
        assert torch.equal(tensor, expected), name
        assert torch.equal(live.targets[name], tensor), name


def test_candidates_follow_each_other_without_a_trace(llama: Merger, tiny_llama: dict[str, Path]) -> None:
    live = LiveModel.build(llama.base, dtype=torch.float32)
    for weight in (0.3, 1.7, 0.3):
        llama.write(llama.bind(recipe_of(tiny_llama, everywhere(weight=weight))), live.targets)
        expected = streamed(llama, recipe_of(tiny_llama, everywhere(weight=weight)))
        assert all(torch.equal(live.targets[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("model", ["base", "a", "b"])
def test_one_model_chosen_is_its_stored_bytes(tiny_llama: dict[str, Path], llama: Merger, model: str) -> None:
    live = LiveModel.build(llama.base, dtype=torch.float32)
    llama.write(llama.bind(recipe_of(tiny_llama, method="chosen", options={"model": model})), live.targets)
    stored = load_file(tiny_llama[model] / "model.safetensors")
    assert all(torch.equal(live.targets[name], tensor) for name, tensor in stored.items())


def test_a_recipe_may_ask_for_another_dtype(tiny_llama: dict[str, Path], llama: Merger) -> None:
    recipe = recipe_of(tiny_llama, everywhere(weight=0.4), dtype="bfloat16")
    exact = streamed(llama, recipe_of(tiny_llama, everywhere(weight=0.4), dtype="float64"))
    assert llama.bind(recipe).size_bytes * 2 == llama.base.size_bytes
    live = LiveModel.build(llama.base, dtype=torch.bfloat16)
    llama.write(llama.bind(recipe), live.targets)
    for name, tensor in streamed(llama, recipe).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[name].bfloat16())
        assert torch.equal(tensor, live.targets[name])


@pytest.fixture
def mixed_family(tmp_path: Path, family_of: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    """A family whose norms are stored in float32 among bfloat16."""
    folders = copies(family_of("llama", dtype="bfloat16"), tmp_path)
    for folder in folders.values():
        tensors = load_file(folder / "model.safetensors")
        for name in tensors:
            if "norm" in name:
                tensors[name] = tensors[name].float() + torch.rand(tensors[name].shape)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folders


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_mixed_checkpoint_keeps_its_dtypes_and_scores_what_it_would_after_loading(
    mixed_family: dict[str, Path], dtype: str
) -> None:
    folders = mixed_family
    merger = merger_of(folders)
    recipe = recipe_of(folders, everywhere(weight={"a": 0.3, "b": 0.6}), dtype=dtype)
    live = LiveModel.build(merger.base, dtype=torch.bfloat16)
    merger.write(merger.bind(recipe), live.targets)
    found = streamed(merger, recipe)
    for name, tensor in found.items():
        assert tensor.dtype == merger.base.tensors[name].dtype
        assert torch.equal(live.targets[name], tensor.to(torch.bfloat16))


def test_a_value_is_rounded_to_its_stored_dtype_before_that_of_the_live_model(mixed_family: dict[str, Path]) -> None:
    folders = mixed_family
    # The merged value lies just above the middle of two bfloat16 numbers, and float32 rounds it to the middle.
    for model, value in (("base", 1 + 2**-8), ("a", 1 + 2**-8 + 2**-20), ("b", 1.0)):
        tensors = load_file(folders[model] / "model.safetensors")
        tensors["model.norm.weight"] = torch.full((32,), value)
        save_file(tensors, folders[model] / "model.safetensors", {"format": "pt"})
    merger = merger_of(folders)
    recipe = recipe_of(folders, everywhere(weight={"a": 2**-10, "b": 0.0}), method="task_arithmetic")
    live = LiveModel.build(merger.base, dtype=torch.bfloat16)
    merger.write(merger.bind(recipe), live.targets)
    assert torch.all(streamed(merger, recipe)["model.norm.weight"] == 1 + 2**-8)
    assert torch.all(live.targets["model.norm.weight"] == 1.0)


def test_wide_dtypes_are_streamed_first_whatever_the_order_in_the_base(mixed_family: dict[str, Path]) -> None:
    folders = mixed_family
    tensors = load_file(folders["base"] / "model.safetensors")
    (folders["base"] / "model.safetensors").unlink()
    files = {name: f"model-{int(tensor.dtype == torch.float32)}.safetensors" for name, tensor in tensors.items()}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folders["base"] / file)
    (folders["base"] / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(sorted(files.items(), key=lambda item: item[1]))})
    )
    merger = merger_of(folders)
    recipe = recipe_of(folders, everywhere(weight=0.5))
    assert merger.base.tensors[merger.base.names[0]].dtype == torch.bfloat16
    found = list(merger.stream(merger.bind(recipe)))
    stored = merger.bind(recipe).stored
    assert [(name, tensor.dtype) for name, tensor in found] == [(name, kind.torch) for name, kind in stored.items()]
    assert [tensor.element_size() for _, tensor in found] == [4] * 5 + [2] * 16


def test_what_is_prepared_is_kept_per_method_options_and_seed(tiny_llama: dict[str, Path], llama: Merger) -> None:
    merger = merger_of(tiny_llama)
    recipe = recipe_of(tiny_llama, everywhere(weight=0.1))
    first = merger.preparer.prepare(merger.bind(recipe))
    assert Weighted.prepared == list(merger.base.names)
    assert merger.preparer.prepare(merger.bind(recipe_of(tiny_llama, everywhere(weight=0.2)))) is first
    assert (
        merger.preparer.prepare(merger.bind(recipe_of(tiny_llama, everywhere(weight=0.1), options={"mode": "plain"})))
        is first
    )
    assert merger.preparer.prepare(merger.bind(recipe_of(tiny_llama, everywhere(weight=0.1), seed=1))) is not first
    assert (
        merger.preparer.prepare(merger.bind(recipe_of(tiny_llama, everywhere(weight=0.1), options={"mode": "negated"})))
        is not first
    )
    assert merger.preparer.prepare(merger.bind(recipe)) is not first
    assert merger.preparer.prepared_bytes(merger.bind(recipe)) == 2 * merger.base.num_parameters


def test_coefficients_that_overflow_are_an_error_that_names_the_tensor_and_them(
    tiny_llama: dict[str, Path], llama: Merger
) -> None:
    live = LiveModel.build(llama.base, dtype=torch.float16)
    recipe = recipe_of(tiny_llama, everywhere(weight={"a": 1e30, "b": 0.0}), dtype="float16")
    with pytest.raises(MergeError, match=r"^lm_head\.weight: the merge isn't finite with weight = \[1e\+30, 0\.0\]"):
        llama.write(llama.bind(recipe), live.targets)
    with pytest.raises(MergeError, match=r"^lm_head\.weight: the merge isn't finite"):
        streamed(llama, recipe)


def test_huge_but_finite_weights_are_merged(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    folders = copies(tiny_llama, tmp_path)
    for folder in folders.values():
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = torch.full((32,), 3e38)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = streamed(merger_of(folders), recipe_of(folders, everywhere(weight=0.5)))
    assert torch.all(found["model.norm.weight"] == torch.tensor(3e38))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_expert_with_broken_weights_is_named_with_the_tensor(
    tmp_path: Path, tiny_llama: dict[str, Path], value: float
) -> None:
    folders = copies(tiny_llama, tmp_path)
    tensors = load_file(folders["b"] / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, folders["b"] / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: NaN or Inf in the weights of b"):
        streamed(merger_of(folders), recipe_of(folders, everywhere(weight=0.5)))


def test_a_merged_live_model_answers_as_the_model_that_transformers_builds_from_the_stream(
    tiny_llama: dict[str, Path], llama: Merger
) -> None:
    recipe = recipe_of(tiny_llama, *BY_LAYER_AND_KIND)
    live = LiveModel.build(llama.base, dtype=torch.float32)
    llama.write(llama.bind(recipe), live.targets)
    stock = AutoModelForCausalLM.from_pretrained(tiny_llama["base"]).eval()
    stock.load_state_dict(streamed(llama, recipe))
    tokens = torch.arange(1, 30)[None]
    assert torch.equal(live.model(tokens).logits, stock(tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
@pytest.mark.parametrize(("architecture", "dtype"), [("mixtral", "float32"), ("gpt2", "bfloat16")])
def test_every_method_gives_the_same_bytes_live_and_streamed(
    opened: Callable[..., Opened], method: str, architecture: str, dtype: str
) -> None:
    merges: type[MergeMethod] = METHODS.get(method)
    folders, merger, live = opened(architecture, dtype, "abcdef"[: number_of_experts(merges)])
    parameters = merges.parameters
    groups = tuple(
        Group(
            name=name,
            kinds=kinds,
            coefficients={
                parameter.name: parameter.low + part * (parameter.high - parameter.low) for parameter in parameters
            },
        )
        for name, kinds, part in (("attention", ("attention",), 0.4), ("rest", None, 0.7))
    )
    recipe = recipe_of(folders, *groups, method=method)
    merger.write(merger.bind(recipe), live.targets)
    for name, tensor in streamed(merger, recipe).items():
        assert torch.equal(live.targets[name], tensor), name
    assert merger.preparer.prepared_bytes(merger.bind(recipe)) >= 0


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["base", "a", "b"])
def test_passthrough_gives_back_the_stored_bytes(
    opened: Callable[..., Opened], architecture: str, dtype: str, model: str
) -> None:
    folders, merger, live = opened(architecture, dtype)
    recipe = recipe_of(folders, method="passthrough", options={"model": model})
    merger.write(merger.bind(recipe), live.targets)
    stored = load_file(folders[model] / "model.safetensors")
    found = streamed(merger, recipe)
    for name, tensor in stored.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name
        assert torch.equal(live.targets[name], tensor), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_over_the_model_trims_the_whole_task_vector_live_and_streamed(
    opened: Callable[..., Opened], dtype: str
) -> None:
    folders, merger, _ = opened("llama", dtype)
    groups = (
        Group(name="mlp", kinds=("mlp",), coefficients={"density": {"a": 0.03, "b": 0.4}}),
        Group(name="rest", coefficients={"density": {"a": 0.2, "b": 0.001}}),
    )
    recipe = recipe_of(folders, *groups, method="ties", options={"trim": "model"})
    tau = {
        expert: {
            name: merger.inputs.experts[expert].tensor(name).double() - merger.base.tensor(name).double()
            for name in merger.base.names
        }
        for expert in ("a", "b")
    }
    sorted_sizes = {
        expert: torch.cat([tensor.flatten() for tensor in vectors.values()]).abs().sort(descending=True).values
        for expert, vectors in tau.items()
    }
    for name, merged in streamed(merger, recipe).items():
        densities = groups[0 if "mlp" in name else 1].coefficients["density"]
        assert isinstance(densities, Mapping)
        kept = []
        for expert, density in densities.items():
            sizes, vector = sorted_sizes[expert], tau[expert][name]
            least = sizes[max(1, int(density * len(sizes))) - 1]
            kept.append(torch.where(vector.abs() >= least, vector, 0.0))
        side = torch.where(kept[0] + kept[1] >= 0, 1.0, -1.0)
        agreeing = [torch.where(vector * side > 0, vector, 0.0) for vector in kept]
        count = sum((vector != 0).double() for vector in agreeing)
        expected = merger.base.tensor(name).double() + (agreeing[0] + agreeing[1]) / count.clamp(min=1.0)
        torch.testing.assert_close(merged, expected.to(merged.dtype), rtol=0, atol=0)
    targets = {name: torch.empty_like(merger.base.tensor(name)) for name in merger.base.names}
    merger.write(merger.bind(recipe), targets)
    for name, merged in streamed(merger, recipe).items():
        assert torch.equal(merged, targets[name]), name
    plain = recipe_of(folders, *groups, method="ties")
    assert merger.preparer.prepared_bytes(merger.bind(recipe)) != merger.preparer.prepared_bytes(merger.bind(plain))
    assert any(not torch.equal(merged, targets[name]) for name, merged in streamed(merger, plain).items())
