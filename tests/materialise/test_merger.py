from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError, MergeError, RecipeError
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.methods.declared import build_method
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.merging import streamed
from helpers.stand_in_methods import METHODS as STAND_INS
from helpers.stand_in_methods import Weighted


@pytest.fixture(autouse=True)
def stand_ins() -> Iterator[None]:
    Weighted.prepared.clear()
    with METHODS.extended(STAND_INS):
        yield


@pytest.fixture(scope="module")
def llama(tiny_llama: dict[str, Path]) -> Merger:
    return merger_of(tiny_llama)


def merger_of(folders: Mapping[str, Path]) -> Merger:
    models = {name: Checkpoint.open(folder) for name, folder in folders.items()}
    return Merger(Models(models.pop("base"), models))


def recipe_of(folders: Mapping[str, Path], *groups: Group, method: str = "weighted", **settings: Any) -> Recipe:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return Recipe(base=references.pop("base"), experts=references, method=method, groups=groups, **settings)


def everywhere(**coefficients: Any) -> Group:
    return Group(name="all", coefficients=coefficients)


BY_LAYER_AND_KIND = (
    Group(name="first mlp", layers=(0, 0), kinds=("mlp",), coefficients={"weight": {"a": 0.9, "b": 0.1}}),
    Group(name="first", layers=(0, 0), coefficients={"weight": {"a": -0.5, "b": 0.25}, "scale": 0.5}),
    Group(name="rest", coefficients={"weight": 0.75}),
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_live_and_streamed_tensors_are_the_same_bytes_and_those_of_a_float64_reference(
    tmp_path: Path, architecture: str, dtype: str
) -> None:
    folders = tiny_family(tmp_path, architecture, dtype=dtype)
    merger = merger_of(folders)
    recipe = recipe_of(folders, *BY_LAYER_AND_KIND)
    live = LiveModel.build(merger.base, dtype=merger.base.dtype)
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


def mixed_family(tmp_path: Path) -> dict[str, Path]:
    """A family whose norms are stored in float32 among bfloat16."""
    folders = tiny_family(tmp_path, "llama", dtype="bfloat16")
    for folder in folders.values():
        tensors = load_file(folder / "model.safetensors")
        for name in tensors:
            if "norm" in name:
                tensors[name] = tensors[name].float() + torch.rand(tensors[name].shape)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folders


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_mixed_checkpoint_keeps_its_dtypes_and_scores_what_it_would_after_loading(tmp_path: Path, dtype: str) -> None:
    folders = mixed_family(tmp_path)
    merger = merger_of(folders)
    recipe = recipe_of(folders, everywhere(weight={"a": 0.3, "b": 0.6}), dtype=dtype)
    live = LiveModel.build(merger.base, dtype=torch.bfloat16)
    merger.write(merger.bind(recipe), live.targets)
    found = streamed(merger, recipe)
    for name, tensor in found.items():
        assert tensor.dtype == merger.base.tensors[name].dtype
        assert torch.equal(live.targets[name], tensor.to(torch.bfloat16))


def test_a_value_is_rounded_to_its_stored_dtype_before_that_of_the_live_model(tmp_path: Path) -> None:
    folders = mixed_family(tmp_path)
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


def test_wide_dtypes_are_streamed_first_whatever_the_order_in_the_base(tmp_path: Path) -> None:
    folders = mixed_family(tmp_path)
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
    assert [(name, tensor.dtype) for name, tensor in found] == list(merger.bind(recipe).stored.items())
    assert [tensor.element_size() for _, tensor in found] == [4] * 5 + [2] * 16


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


def test_a_method_without_need_of_a_base_isnt_given_one(tiny_llama: dict[str, Path], llama: Merger) -> None:
    found = streamed(llama, recipe_of(tiny_llama, method="pair"))
    one, two = (load_file(tiny_llama[model] / "model.safetensors")["lm_head.weight"].double() for model in "ab")
    assert torch.equal(found["lm_head.weight"], ((one + two) / 2).float())


def test_groups_without_tensors_and_an_expert_that_is_the_base_are_noted(tiny_llama: dict[str, Path]) -> None:
    references = {name: ModelReference(path=str(tiny_llama[name])) for name in ("base", "a")}
    base = Checkpoint.open(references["base"])
    merger = Merger(Models(base, {"copy": Checkpoint.open(references["base"]), "a": Checkpoint.open(references["a"])}))
    groups = (Group(name="typo", names=("selfattn",)), Group(name="mlp", kinds=("mlp",)), Group(name="rest"))
    recipe = Recipe(
        base=references["base"],
        experts={"copy": references["base"], "a": references["a"]},
        method="task_arithmetic",
        groups=(*groups, Group(name="shadowed", layers=(0, 0))),
    )
    assert merger.notes(merger.bind(recipe)) == [
        "group 'typo' contains no tensor that no earlier group contains; it has no effect",
        "group 'shadowed' contains no tensor that no earlier group contains; it has no effect",
        "expert 'copy' is the base itself; its task vector is zero",
    ]
    assert merger.notes(merger.bind(replace(recipe, method="linear", groups=groups[1:]))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "wieghted"}, r"method: unknown merge method 'wieghted'\. Did you mean 'weighted'\?"),
        ({"method": "weighted", "options": {"mod": 1}}, r"options: unknown option 'mod'\. Did you mean 'mode'\?"),
        ({"options": {"mode": "loud"}}, r"options\.mode: 'loud' is none of 'plain', 'negated'"),
        ({"options": {"floor": 2}}, r"options\.floor: 2 is above 1"),
        ({"options": {"floor": -0.5}}, r"options\.floor: -0\.5 is below 0"),
        ({"options": {"floor": float("nan")}}, r"options\.floor: nan is not a finite number"),
        ({"options": {"floor": True}}, r"options\.floor: expected float, got True"),
        ({"options": {"rounds": 1.5}}, r"options\.rounds: expected int, got 1\.5"),
        ({"options": {"sure": 1}}, r"options\.sure: expected bool, got 1"),
        ({"dtype": "int8"}, r"dtype: unknown dtype 'int8'.*Available: auto, bfloat16"),
        ({"method": "chosen", "groups": (), "options": {"model": "zzz"}}, r"options\.model: 'zzz' is no model"),
        ({"groups": ()}, r"no group contains .*lm_head.* more; add a last group"),
        (
            {"groups": (Group(name="m", kinds=("mlp",), coefficients={"weight": 1.0}),)},
            r"no group contains lm_head\.weight, model\.embed_tokens\.weight",
        ),
        (
            {"groups": (Group(name="late", layers=(1, 24)), Group(name="rest"))},
            r"groups\[0\] \(late\): layers: \[1, 24\] goes beyond the models' last layer, \d+; both ends are included",
        ),
        (
            {"groups": (Group(name="g", coefficients={"wieght": 1.0}),)},
            r"groups\[0\] \(g\): coefficients: unknown coefficient 'wieght'\. Did you mean 'weight'",
        ),
        (
            {"groups": (everywhere(weight=-3.0),)},
            r"groups\[0\] \(all\): coefficients\.weight: -3 is below -2, the least",
        ),
        ({"groups": (everywhere(scale=-1.0),)}, r"coefficients\.scale: -1 is below 0"),
        ({"groups": (everywhere(scale={"a": 1.0, "b": 1.0}),)}, r"scale: one number for all experts"),
        ({"groups": (everywhere(weight={"a": 1.0}),)}, r"weight: expected one value for each of a, b"),
        ({"groups": (everywhere(weight=float("inf")),)}, r"weight: inf is not a finite number"),
        ({"experts": {"b": ..., "a": ...}}, r"experts: names b, a, but the models at hand are a, b, in this order"),
        ({"method": "pair", "experts": {"a": ...}}, r"pair merges at least 2, got 1"),
        ({"method": "pair", "experts": {"a": ..., "b": ..., "c": ...}}, r"pair merges at most 2, got 3"),
    ],
)
def test_each_fault_of_a_recipe_is_named_with_its_place(
    tiny_llama: dict[str, Path], llama: Merger, changes: dict[str, Any], message: str
) -> None:
    good = recipe_of(tiny_llama, everywhere(weight=0.5))
    llama.bind(good)
    fields = {
        "base": good.base,
        "experts": good.experts,
        "method": good.method,
        "groups": good.groups,
        **changes,
    }
    fields["experts"] = dict.fromkeys(fields["experts"], good.base)
    bad = Recipe(**fields)
    with pytest.raises(RecipeError, match=message):
        llama.bind(bad)
    with pytest.raises(RecipeError, match=message):
        llama.write(llama.bind(bad), {})
    with pytest.raises(RecipeError, match=message):
        llama.bind(bad)


def test_defaults_of_options_are_filled_in(tiny_llama: dict[str, Path]) -> None:
    recipe = recipe_of(tiny_llama, options={"floor": 1})
    method = build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed)
    assert method.option == {"mode": "plain", "floor": 1.0, "rounds": 1, "sure": True}


def test_coefficients_that_overflow_are_an_error_that_names_the_tensor_and_them(
    tiny_llama: dict[str, Path], llama: Merger
) -> None:
    live = LiveModel.build(llama.base, dtype=torch.float16)
    recipe = recipe_of(tiny_llama, everywhere(weight={"a": 1e30, "b": 0.0}), dtype="float16")
    with pytest.raises(MergeError, match=r"^lm_head\.weight: the merge isn't finite with weight = \[1e\+30, 0\.0\]"):
        llama.write(llama.bind(recipe), live.targets)
    with pytest.raises(MergeError, match=r"^lm_head\.weight: the merge isn't finite"):
        streamed(llama, recipe)


def test_huge_but_finite_weights_are_merged(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path)
    for folder in folders.values():
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = torch.full((32,), 3e38)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    found = streamed(merger_of(folders), recipe_of(folders, everywhere(weight=0.5)))
    assert torch.all(found["model.norm.weight"] == torch.tensor(3e38))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_expert_with_broken_weights_is_named_with_the_tensor(tmp_path: Path, value: float) -> None:
    folders = tiny_family(tmp_path)
    tensors = load_file(folders["b"] / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, folders["b"] / "model.safetensors", {"format": "pt"})
    with pytest.raises(MergeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: NaN or Inf in the weights of b"):
        streamed(merger_of(folders), recipe_of(folders, everywhere(weight=0.5)))


def test_models_that_dont_fit_are_refused_before_any_work(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    deep = tiny_checkpoint(tmp_path / "deep", layers=3)
    with pytest.raises(CheckpointError, match=r"expert 'deep'.*has 3 layers"):
        merger_of({"base": tiny_llama["base"], "deep": deep})


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
    tmp_path: Path, method: str, architecture: str, dtype: str
) -> None:
    merges: type[MergeMethod] = METHODS.get(method)
    count = min(max(2, merges.min_experts), merges.max_experts or 99)
    folders = tiny_family(tmp_path, architecture, experts="abcdef"[:count], dtype=dtype)
    merger = merger_of(folders)
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
    live = LiveModel.build(merger.base, dtype=merger.base.dtype)
    merger.write(merger.bind(recipe), live.targets)
    for name, tensor in streamed(merger, recipe).items():
        assert torch.equal(live.targets[name], tensor), name
    assert merger.preparer.prepared_bytes(merger.bind(recipe)) >= 0


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["base", "a", "b"])
def test_passthrough_gives_back_the_stored_bytes(tmp_path: Path, architecture: str, dtype: str, model: str) -> None:
    folders = tiny_family(tmp_path, architecture, dtype=dtype)
    merger = merger_of(folders)
    live = LiveModel.build(merger.base, dtype=merger.base.dtype)
    recipe = recipe_of(folders, method="passthrough", options={"model": model})
    merger.write(merger.bind(recipe), live.targets)
    stored = load_file(folders[model] / "model.safetensors")
    found = streamed(merger, recipe)
    for name, tensor in stored.items():
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)), name
        assert torch.equal(live.targets[name], tensor), name


def test_passthrough_of_an_unknown_model_is_refused(tiny_llama: dict[str, Path], llama: Merger) -> None:
    with pytest.raises(RecipeError, match=r"unknown model 'c'.*Available: a, b, base"):
        llama.bind(recipe_of(tiny_llama, method="passthrough", options={"model": "c"}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_over_the_model_trims_the_whole_task_vector_live_and_streamed(tmp_path: Path, dtype: str) -> None:
    folders = tiny_family(tmp_path, dtype=dtype)
    groups = (
        Group(name="mlp", kinds=("mlp",), coefficients={"density": {"a": 0.03, "b": 0.4}}),
        Group(name="rest", coefficients={"density": {"a": 0.2, "b": 0.001}}),
    )
    recipe = recipe_of(folders, *groups, method="ties", options={"trim": "model"})
    merger = merger_of(folders)
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


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_models_of_different_dtypes_merge_as_the_values_that_they_hold(tmp_path: Path, method: str) -> None:
    merges: type[MergeMethod] = METHODS.get(method)
    count = min(max(2, merges.min_experts), merges.max_experts or 99)
    names = ("base", *"abcdef"[:count])
    dtypes = dict(zip(names, (torch.bfloat16, torch.float16, torch.float32) * 3, strict=False))
    mixed = tiny_family(tmp_path / "mixed", experts=names[1:])
    wide = {name: tmp_path / "wide" / name for name in names}
    for name, folder in mixed.items():
        tensors = {key: tensor.to(dtypes[name]) for key, tensor in load_file(folder / "model.safetensors").items()}
        shutil.copytree(folder, wide[name])
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        values = {key: tensor.float() for key, tensor in tensors.items()}
        save_file(values, wide[name] / "model.safetensors", {"format": "pt"})
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
