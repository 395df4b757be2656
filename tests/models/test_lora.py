from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evomerge.config.config import Config
from evomerge.errors import CheckpointError
from evomerge.inference.live import LiveModel
from evomerge.materialise.folder import write_folder
from evomerge.materialise.inputs import Inputs
from evomerge.materialise.merger import Merger
from evomerge.methods import METHODS
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.models.open import Models, open_expert, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources
from evomerge.study.check import check
from evomerge.study.export import export
from evomerge.study.search import search
from evomerge.testing.models import tiny_checkpoint
from helpers.merging import streamed
from helpers.search import write_config, write_task
from helpers.vocabulary import bpe, with_added, write_model

# PEFT still reads a property that transformers has renamed, and tells of weights that are stored transposed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]

LLAMA = ["q_proj", "v_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]


def write_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    rows: int | None = None,
    **settings: Any,
) -> Path:
    """A PEFT adapter of the base, with more rows in its embedding if given, whose every trained number is random."""
    settings = {"r": 4, "lora_alpha": 6, "target_modules": LLAMA, "task_type": "CAUSAL_LM", **settings}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    model = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path, *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of PEFT's own merge, as transformers saves them."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(adapter.with_name(f"{adapter.name}-merged"))
    return load_file(adapter.with_name(f"{adapter.name}-merged") / "model.safetensors")


def recipe_of(base: Path, experts: Mapping[str, Path], method: str = "task_arithmetic", **settings: Any) -> Recipe:
    return Recipe(
        base=ModelReference(path=str(base)),
        experts={name: ModelReference(path=str(folder)) for name, folder in experts.items()},
        method=method,
        **{"groups": (Group(name="all", coefficients={"weight": 1.0}),), **settings},
    )


def merged_by_us(recipe: Recipe) -> dict[str, Tensor]:
    return streamed(Merger(open_models(recipe)), recipe)


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Within two units in the last place of float32, of the largest number of a tensor."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        limit = 2 * torch.finfo(torch.float32).eps * float(tensor.abs().max())
        assert float((found[name] - tensor).abs().max()) <= limit, name


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("base") / "llama", tied=False)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, llama: Path) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "plain", llama)


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
        held = {name for model, name in merger.inputs._cache if model == "a"}
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


def changed(tmp_path: Path, adapter: Path, **settings: Any) -> Path:
    """A copy of the adapter whose config says something else."""
    folder = Path(shutil.copytree(adapter, tmp_path / "changed"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_dora": True}, r"use_dora \(DoRA, which rescales whole weights\) isn't supported; merge it"),
        ({"bias": "all"}, "bias 'all'"),
        ({"peft_type": "LOHA"}, "adapter of type LOHA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base too"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"a_setting_of_tomorrow": 3}, "a_setting_of_tomorrow isn't supported"),
        ({"r": 8}, r"down_proj\.weight: its factors have rank 4, while adapter_config\.json says 8"),
    ],
)
def test_what_is_no_plain_low_rank_sum_is_refused_by_name(
    tmp_path: Path, llama: Path, adapter: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Adapter.open(changed(tmp_path, adapter, **settings), Checkpoint.open(llama))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, adapter: Path) -> None:
    wide = Checkpoint.open(tiny_checkpoint(tmp_path / "wide", hidden=64))
    with pytest.raises(
        CheckpointError, match=r"doesn't fit the base .*wide: .*down_proj\.weight 4×64 and 32×4 \(base 64×128\)"
    ):
        Adapter.open(adapter, wide)
    other = Checkpoint.open(tiny_checkpoint(tmp_path / "other", "gpt_neox"))
    with pytest.raises(CheckpointError, match=r"changes tensors that the base .*other hasn't: model\.layers\.0\.mlp"):
        Adapter.open(adapter, other)
    shallow = Checkpoint.open(tiny_checkpoint(tmp_path / "shallow", layers=1))
    with pytest.raises(CheckpointError, match=r"hasn't: model\.layers\.1"):
        Adapter.open(adapter, shallow)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": [*LLAMA, "embed_tokens"]},
    ],
)
def test_an_adapter_with_tokens_of_its_own_is_united_with_its_base(
    tmp_path: Path, settings: dict[str, Any], tied: bool
) -> None:
    base = write_model(tmp_path / "base", bpe(290), tied=tied)
    folder = write_adapter(tmp_path / "adapter", base, rows=292, **settings)
    grown = with_added(bpe(290), "<|x|>", "<|y|>")
    grown.save_pretrained(folder)
    references = {"a": ModelReference(path=str(folder))}
    if refused := _reason_to_refuse(settings, tied):
        with pytest.raises(CheckpointError, match=refused):
            open_models(Sources(base=ModelReference(path=str(base)), experts=references, vocabulary="union"))
        return
    models = open_models(Sources(base=ModelReference(path=str(base)), experts=references, vocabulary="union"))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(292)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    expected = {name: merged.state_dict()[name] for name in models.base.names}
    assert models.base.tokenizer().get_vocab() == grown.get_vocab()
    assert_close({name: models.experts["a"].tensor(name) for name in models.base.names}, expected)
    recipe = recipe_of(base, {"a": folder}, vocabulary="union")
    stream = streamed(Merger(models), recipe).items()
    assert_close(dict(stream), expected)
    copy = pickle.loads(pickle.dumps(models.experts["a"]))
    assert all(torch.equal(copy.tensor(name), models.experts["a"].tensor(name)) for name in copy.names)


def _reason_to_refuse(settings: Mapping[str, Any], tied: bool) -> str | None:
    if "target_modules" in settings:
        return "ties its head" if tied else "lm_head.weight: no model has a row for the token '<|x|>'"
    # Trained apart from the head, so that they are tied no more.
    return r"hasn't: lm_head\.weight" if tied and settings else None


def test_an_adapter_that_grew_the_vocabulary_is_refused(tmp_path: Path, llama: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", llama, modules_to_save=["lm_head", "embed_tokens"])
    stored = load_file(folder / "adapter_model.safetensors")
    key = next(key for key in stored if "embed_tokens" in key)
    stored[key] = torch.cat([stored[key], stored[key][:2]])
    save_file(stored, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.embed_tokens\.weight 386×32 \(base 384×32\).*its vocabulary"):
        Adapter.open(folder, Checkpoint.open(llama))


def test_an_adapted_embedding_of_a_tied_model_is_refused(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", tied=True)
    folder = write_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "embed_tokens"])
    with pytest.raises(CheckpointError, match=r"changes model\.embed_tokens\.weight, to which the base ties its head"):
        Adapter.open(folder, Checkpoint.open(base))


def test_half_an_update_and_pickled_adapters_are_refused(tmp_path: Path, llama: Path, adapter: Path) -> None:
    folder = changed(tmp_path, adapter)
    stored = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(stored.items())[1:]), folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="belong together, and only one of them"):
        Adapter.open(folder, Checkpoint.open(llama))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickled adapters can run code"):
        Adapter.open(folder, Checkpoint.open(llama))


def test_an_adapter_is_no_base(adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="is a LoRA adapter, not a whole model; it can be an expert, but no base"):
        Checkpoint.open(adapter)


def test_another_name_of_the_base_is_only_noted(tmp_path: Path, llama: Path, adapter: Path) -> None:
    named = changed(tmp_path, adapter, base_model_name_or_path="org/something-else")
    notes = Adapter.open(named, Checkpoint.open(llama)).notes
    assert "was trained for org/something-else" in notes[1]
    same = Adapter.open(adapter, Checkpoint.open(llama)).notes
    assert len(same) == 1


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
    assert [note.partition(":")[0] for note in found.notes] == ["expert 'a'", "expert 'b'"]
    search(config, tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out")
    AutoModelForCausalLM.from_pretrained(out)
