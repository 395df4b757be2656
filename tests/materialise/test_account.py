"""What becomes of every stored tensor, against the files, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3NextConfig, Qwen3NextForCausalLM

from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.merger import Merger
from evomerge.models.open import open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family, tiny_tokenizer
from helpers.adapters import write_adapter
from helpers.checkpoints import edit_config, edit_tensors, store_head

_AHEAD = ("mtp.fc.weight", "mtp.norm.weight")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def halfway(folders: dict[str, Path], base: str = "base", **more: object) -> Recipe:
    """The base plus half of each expert's task vector."""
    experts = {f"{name}_model": ModelReference(path=str(path)) for name, path in folders.items() if name != base}
    return Recipe(
        base=ModelReference(path=str(folders[base])),
        experts=experts,
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": dict.fromkeys(experts, 0.5)}),),
        **more,
    )


@pytest.fixture
def ahead(tmp_path: Path) -> dict[str, Path]:
    """A base with tensors that predict tokens further ahead, and an expert as transformers saves it, without them."""
    config = Qwen3NextConfig(
        vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    folders = {}
    for seed, name in enumerate(("base", "a")):
        torch.manual_seed(seed)
        folders[name] = tmp_path / name
        Qwen3NextForCausalLM(config).save_pretrained(folders[name])
        tiny_tokenizer(384).save_pretrained(folders[name])
    edit_tensors(folders["base"], lambda tensors: tensors.update({name: torch.randn(32) for name in _AHEAD}))
    return folders


@pytest.mark.parametrize("base", ["base", "a"])
def test_what_both_have_is_merged_and_the_rest_is_the_bases(tmp_path: Path, ahead: dict[str, Path], base: str) -> None:
    notes: list[str] = []
    out = write_folder(halfway(ahead, base), tmp_path / "out", report=notes.append)
    (expert,) = {"base", "a"} - {base}
    ours, theirs, found = weights(ahead[base]), weights(ahead[expert]), weights(out)
    assert set(found) == set(ours)
    for name, tensor in found.items():
        whole = (ours[name].double() + theirs[name].double()) / 2 if name in theirs else ours[name].double()
        assert torch.equal(tensor, whole.float()), name
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report.values())
    rule = "(Qwen3NextForCausalLM leaves ^mtp.* unread): mtp.fc.weight, mtp.norm.weight"
    shared = len(weights(ahead["a"]))
    counts = {name: len(weights(folder)) for name, folder in ahead.items()}
    assert notes[:2] == [
        f"tensors: base {counts[base]}, expert '{expert}_model' {counts[expert]}; {shared} are merged",
        f"tensors copied from the base: 2 that expert 'a_model' lacks {rule}"
        if base == "base"
        else f"tensors ignored in expert 'base_model': 2 that the base lacks {rule}",
    ]


def test_what_is_left_unread_is_merged_where_all_models_have_it(tmp_path: Path, ahead: dict[str, Path]) -> None:
    edit_tensors(ahead["a"], lambda tensors: tensors.update({name: torch.ones(32) for name in _AHEAD}))
    merger = Merger(open_models(halfway(ahead)))
    out = write_folder(halfway(ahead), tmp_path / "out")
    for name in _AHEAD:
        expected = (weights(ahead["base"])[name].double() + 1) / 2
        assert torch.equal(weights(out)[name], expected.float())
    count = len(weights(out))
    assert merger.account() == [f"tensors: {count} in each model; {count} are merged"]


def test_a_live_model_is_written_without_the_tensors_that_it_has_no_place_for(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", experts=("a",))
    edit_config(folders["base"], num_nextn_predict_layers=1)
    edit_tensors(folders["base"], lambda tensors: tensors.update({"model.layers.2.eh_proj.weight": torch.ones(4, 8)}))
    recipe = halfway(folders)
    merger = Merger(open_models(recipe))
    live = LiveModel.build(merger.base, dtype=torch.float32)
    merger.write(merger.bind(recipe), live.targets)
    stock = AutoModelForCausalLM.from_pretrained(write_folder(recipe, tmp_path / "out"))
    assert all(torch.equal(tensor, live.model.state_dict()[name]) for name, tensor in stock.state_dict().items())


def test_every_stored_tensor_is_told_of(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", experts=("a", "b"), tied=True)
    store_head(folders["base"])
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    for name in ("a", "b"):
        edit_tensors(folders[name], lambda tensors: tensors.update(table))
    edit_tensors(folders["base"], lambda tensors: tensors.update({"model.steps": torch.tensor(3)}))
    for name in ("a", "b"):
        edit_tensors(folders[name], lambda tensors: tensors.update({"model.steps": torch.tensor(3)}))
    stored = len(weights(folders["base"]))
    assert stored == len(weights(folders["a"]))
    assert Merger(open_models(halfway(folders))).account() == [
        f"tensors: {stored} in each model; {stored - 2} are merged",
        "tensors copied from the base: 1 of integers: model.steps",
        "tensors ignored in base: 1 (repeats the tied embedding): lm_head.weight",
        "tensors ignored in expert 'a_model' and expert 'b_model': 1 (computed by transformers: masks, positions, "
        "rotary tables): model.layers.0.self_attn.rotary_emb.inv_freq",
    ]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_is_told_by_what_it_changes(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", experts=())
    count = len(weights(folders["base"]))
    modules = ["q_proj", "up_proj"]
    folders["lora"] = write_adapter(tmp_path / "lora", folders["base"], target_modules=modules)
    changed = sum(any(module in name for module in modules) for name in weights(folders["base"]))
    assert Merger(open_models(halfway(folders))).account() == [
        f"tensors: base {count}, expert 'lora_model' changes {changed} of the base's; {count} are merged"
    ]


def test_layers_that_a_stack_leaves_out_are_told_of(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", experts=("a",), layers=3)
    recipe = halfway(folders, slices=({"base": (0, 1), "a_model": (0, 1)},))
    account = Merger(open_models(recipe)).account()
    last = [name for name in weights(folders["base"]) if name.startswith("model.layers.2.")]
    stored = len(weights(folders["base"]))
    assert account[0] == f"tensors: {stored} in each model; {stored - len(last)} are merged"
    assert account[1].startswith(
        f"tensors ignored in base and expert 'a_model': {len(last)} (in layers that no slice names): model.layers.2."
    )
