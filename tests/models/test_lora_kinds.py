"""DoRA, LoHa and adapters of vision-language models against PEFT's own merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3Config

from evomerge.errors import CheckpointError
from evomerge.models import lora_updates
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.lora import Adapter
from evomerge.models.lora_names import Names
from evomerge.testing.models import tiny_checkpoint
from helpers.adapters import LLAMA, assert_close, merged_by_peft, merged_by_us, recipe_of, write_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


def with_random_numbers(model: Any, folder: Path) -> Path:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Positive ones too, as trained norms are.
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.4 + 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("llama", {}),
        ("llama", {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    ],
)
def test_dora_is_what_peft_merges(
    tmp_path: Path, architecture: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_checkpoint(tmp_path / "base", architecture, tied=False)
    adapter = write_adapter(tmp_path / "adapter", base, use_dora=True, **settings)
    recipe = recipe_of(base, {"a": adapter})
    found = merged_by_us(recipe)
    assert_close(found, merged_by_peft(base, adapter))
    monkeypatch.setattr(lora_updates, "_BLOCK", 100)
    again = merged_by_us(recipe)
    assert all(torch.equal(again[name], tensor) for name, tensor in found.items())
    assert "a DoRA adapter of rank 4" in Adapter.open(adapter, Checkpoint.open(base)).notes[0]


@pytest.mark.parametrize("pattern", [{}, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"q_proj": 9}}])
def test_loha_is_what_peft_merges(tmp_path: Path, llama: Path, pattern: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    config = LoHaConfig(r=4, alpha=6, target_modules=LLAMA, rank_dropout=0.2, module_dropout=0.1, **pattern)
    adapter = with_random_numbers(get_peft_model(model, config), tmp_path / "adapter")
    assert_close(merged_by_us(recipe_of(llama, {"a": adapter})), merged_by_peft(llama, adapter))
    opened = Adapter.open(adapter, Checkpoint.open(llama))
    assert "a LoHa adapter of rank 4" in opened.notes[0]
    assert opened.size_bytes == sum(
        tensor.nbytes for tensor in load_file(adapter / "adapter_model.safetensors").values()
    )


def test_a_part_of_loha_for_convolutions_is_refused(tmp_path: Path, llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    adapter = with_random_numbers(get_peft_model(model, LoHaConfig(r=4, target_modules=LLAMA)), tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    stored = load_file(path)
    key = next(key for key in stored if key.endswith("hada_w1_a"))
    save_file(stored | {key.replace("hada_w1_a", "hada_t1"): torch.zeros(4, 4, 1, 1)}, path)
    with pytest.raises(CheckpointError, match=r"hada_w2_b belong together, and hada_t1 and .* are stored \(LoHa\)"):
        Adapter.open(adapter, Checkpoint.open(llama))


def test_a_tensor_that_is_replaced_and_adapted_counts_once(tmp_path: Path, llama: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", llama, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    name = "model.layers.0.self_attn.q_proj"
    start = Checkpoint.open(llama).tensor(f"{name}.weight")
    save_file(load_file(path) | {f"base_model.model.{name}.base_layer.weight": start * 2}, path)
    (note,) = Adapter.open(folder, Checkpoint.open(llama)).notes
    assert "changes 2 of 21 tensors" in note


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny vision-language model, stored under other names than its live modules have."""
    text = {
        "vocab_size": 384, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "sliding_window": 64,
    }  # fmt: skip
    image = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=image, mm_tokens_per_image=4, image_token_index=380, boi_token_index=381,
        eoi_token_index=382,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vision") / "base"
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("modules", [r".*language_model.*\.(q_proj|v_proj)", r".*\.(q_proj|fc1)"])
def test_an_adapter_of_a_vision_language_model_is_what_peft_merges(tmp_path: Path, vision: Path, modules: str) -> None:
    def live() -> Any:
        return AutoModelForImageTextToText.from_pretrained(vision)

    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, init_lora_weights=False)
    get_peft_model(live(), config).save_pretrained(tmp_path / "adapter")
    PeftModel.from_pretrained(live(), tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "peft")
    trained = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    names = set(load_file(vision / "model.safetensors"))
    assert any(key.split("lora_")[0].removeprefix("base_model.model.") + "weight" not in names for key in trained)
    found = merged_by_us(recipe_of(vision, {"a": tmp_path / "adapter"}))
    assert_close(found, load_file(tmp_path / "peft" / "model.safetensors"))


def test_names_of_the_language_model_alone_are_found_and_others_are_not(vision: Path, llama: Path) -> None:
    names = Names(Checkpoint.open(vision))
    stored = next(name for name in Checkpoint.open(vision).names if "layers.1.self_attn.q_proj" in name)
    assert "language_model" in stored
    for form in ("model.layers.1", "model.language_model.layers.1", "language_model.model.layers.1"):
        assert names.find(f"{form}.self_attn.q_proj.weight") == stored
    assert names.find("model.language_model.layers.9.self_attn.q_proj.weight") is None
    assert names.find("model.language_model.layers.1.self_attn.x_proj.weight") is None
    own = "model.layers.1.self_attn.q_proj.weight"
    assert Names(Checkpoint.open(llama)).find("model.language_model.layers.1.self_attn.q_proj.weight") == own


def test_an_architecture_that_transformers_does_not_know_keeps_its_names(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OfOnesOwn"], "model_type": "own"}))
    names = Names(Checkpoint.open(folder))
    assert names.find("layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
    assert names.find("x.layers.0.weight") is None
