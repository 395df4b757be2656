"""LoRA adapters as experts: their tensors are those of the fused model, at the cost of the factors."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.config.config import Config
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.inputs import Inputs
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.models.open import Models, open_expert, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.sources import ModelReference
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import tiny_checkpoint
from helpers.adapters import LLAMA, assert_close, merged_by_peft, merged_by_us, recipe_of, write_adapter
from helpers.search import write_config, write_task

# PEFT still reads a property that transformers has renamed, and tells of weights that are stored transposed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


GPT2 = ["c_attn", "c_proj", "c_fc"]


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True}),
        ("llama", {"rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 7}, "alpha_pattern": {"q_proj": 11}}),
        ("llama", {"target_modules": [*LLAMA, "embed_tokens", "lm_head"]}),
        ("llama", {"modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {"modules_to_save": ["input_layernorm"], "layers_to_transform": [1]}),
        ("llama", {"target_modules": "all-linear"}),
        ("qwen2", {}),
        ("gpt_neox", {"target_modules": ["query_key_value", "dense"]}),
        ("gpt2", {"target_modules": GPT2, "fan_in_fan_out": True}),
        ("gpt2", {"target_modules": [*GPT2, "lm_head"], "fan_in_fan_out": True, "tied": False}),
        ("mixtral", {"target_modules": ["q_proj", "o_proj"]}),
    ],
)
def test_a_weight_of_one_is_pefts_own_merge(tmp_path: Path, architecture: str, settings: dict[str, Any]) -> None:
    settings = dict(settings)
    base = tiny_checkpoint(tmp_path / "base", architecture, tied=settings.pop("tied", False))
    folder = write_adapter(tmp_path / "adapter", base, **settings)
    found = merged_by_us(recipe_of(base, {"a": folder}))
    expected = merged_by_peft(base, folder)
    start = load_file(base / "model.safetensors")
    assert sum(not torch.equal(start[name], tensor) for name, tensor in expected.items()) >= 4
    assert_close(found, expected)


def test_a_16_bit_base_costs_the_task_vector_no_precision(tmp_path: Path, llama: Path) -> None:
    base = Checkpoint.open(tiny_checkpoint(tmp_path / "base", dtype="bfloat16"))
    folder = write_adapter(tmp_path / "adapter", llama, dtype=torch.bfloat16)
    opened = Adapter.open(folder, base)
    stored = load_file(folder / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    product = stored[f"{prefix}.lora_B.weight"].double() @ stored[f"{prefix}.lora_A.weight"].double() * 6 / 4
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (opened.dtype, opened.tensors[name].dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(opened.tensor(name), (base.tensor(name).double() + product).float())
    assert not torch.equal(opened.tensor(name), opened.tensor(name).bfloat16().float())


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_merges_an_adapter_as_it_would_the_fused_model(tmp_path: Path, method: str) -> None:
    folders = {name: tiny_checkpoint(tmp_path / name, dtype="bfloat16", seed=seed) for seed, name in enumerate("xyz")}
    base = Checkpoint.open(folders["x"])
    single = METHODS.get(method).max_experts == 1
    adapter = write_adapter(tmp_path / "adapter", folders["x"])
    opened = Adapter.open(adapter, base)
    fused = tmp_path / "fused"
    shutil.copytree(folders["x"], fused)
    save_file({name: opened.tensor(name).clone() for name in opened.names}, fused / "model.safetensors")
    results = []
    for folder in (adapter, fused):
        experts = {"a": folder} if single else {"a": folder, "b": folders["y"], "c": folders["z"]}
        if (most := METHODS.get(method).max_experts) is not None:
            experts = dict(list(experts.items())[:most])
        results.append(merged_by_us(recipe_of(folders["x"], experts, method, groups=(Group(name="all"),))))
    for name, tensor in results[0].items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, results[1][name]), name


def test_what_is_exported_is_what_was_scored_and_products_are_worked_out_once(
    tmp_path: Path, llama: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_adapter(tmp_path / "other", llama, seed=1, modules_to_save=["lm_head"])
    recipe = recipe_of(llama, {"a": adapter, "b": other}, groups=(Group(name="all", coefficients={"weight": 0.3}),))
    base, experts = open_models(recipe)
    computed: list[str] = []
    tensor = Adapter.tensor

    def counted(self: Adapter, name: str) -> Tensor:
        computed.extend([name] * self.computes(name))
        return tensor(self, name)

    monkeypatch.setattr(Adapter, "tensor", counted)
    monkeypatch.setattr(Inputs, "_has_room", lambda self: True)
    merger = Merger(Models(base, experts))
    live = LiveModel.build(base, dtype=torch.float32)
    for _ in range(3):
        merger.write(merger.bind(recipe), live.targets)
    assert len(computed) == 2 * len(set(computed)) == 2 * 2 * len(LLAMA)
    out = write_folder(recipe, tmp_path / "merged")
    assert all(torch.equal(live.targets[name], saved) for name, saved in load_file(out / "model.safetensors").items())
    assert (
        merger.preparer.prepared_bytes(merger.bind(recipe))
        == sum(expert.computed_bytes for expert in experts.values())
        > 0
    )


def test_without_room_the_result_is_the_same(llama: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Checkpoint.open(llama)
    recipe = recipe_of(llama, {"a": adapter})
    results = []
    for room in (True, False):
        monkeypatch.setattr(Inputs, "_has_room", lambda self, room=room: room)
        live = LiveModel.build(base, dtype=torch.float32)
        merger = Merger(open_models(recipe))
        for _ in range(2):
            merger.write(merger.bind(recipe), live.targets)
        results.append({name: target.clone() for name, target in live.targets.items()})
        held = {name for model, name, _ in merger.inputs._cache if model == "a"}
        assert bool(held) == room
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())


def test_an_adapter_travels_to_other_processes(llama: Path, adapter: Path) -> None:
    opened = Adapter.open(adapter, Checkpoint.open(llama))
    copy = pickle.loads(pickle.dumps(opened))
    assert copy.names == opened.names
    assert all(torch.equal(copy.tensor(name), opened.tensor(name)) for name in opened.names)


def test_an_adapter_takes_little_and_says_what_it_costs(llama: Path, adapter: Path) -> None:
    opened = open_expert(ModelReference(path=str(adapter)), Checkpoint.open(llama))
    assert isinstance(opened, Adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    assert opened.size_bytes == sum(tensor.nbytes for tensor in stored.values())
    adapted = [opened.tensor(name) for name in opened.names if opened.computes(name)]
    assert len(adapted) == len(stored) // 2 == 6
    assert opened.computed_bytes == sum(tensor.nbytes for tensor in adapted)
    assert "rank 4 that changes 6 of" in opened.notes[0]


def test_a_whole_model_with_an_adapter_beside_it_stays_a_whole_model(tmp_path: Path, llama: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "both")
    (folder / "adapter_config.json").write_text("{}")
    assert not isinstance(open_expert(ModelReference(path=str(folder)), Checkpoint.open(llama)), Adapter)


@pytest.mark.slow
def test_a_search_over_adapters_ends_in_an_export(tmp_path: Path, llama: Path, adapter: Path) -> None:
    other = write_adapter(tmp_path / "other", llama, seed=1)
    folders = {"base": llama, "a": adapter, "b": other}
    settings = {"evaluations": 4, "population": 2, "scan": 2, "shortlist": 1}
    file = write_config(tmp_path / "config.yaml", folders, write_task(tmp_path / "tasks"), search=settings)
    config = Config.from_file(file)
    found = check(config)
    assert [model.size_bytes for model in found.models[1:]] == [
        Adapter.open(adapter, Checkpoint.open(llama)).size_bytes
    ] * 2
    assert found.prepared_bytes
    assert [note.partition(":")[0] for note in found.notes] == ["expert 'a'", "expert 'b'", "tensors"]
    search(config, tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(out)
