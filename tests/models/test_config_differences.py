"""Which settings of a config change what a model computes: held to the logits of transformers' own models."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.config_differences import (
    WITHOUT_EFFECT,
    config_differences,
    described,
    file_differences,
)
from evomerge.models.open import Models, notes_of
from evomerge.models.own_settings import own_notes, own_settings
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family
from helpers.checkpoints import edit_config

BASE = {
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CHANGES: dict[str, dict[str, Any]] = {
    "rope_theta": {"rope_theta": 500.0},
    "rope_parameters": {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
    "rms_norm_eps": {"rms_norm_eps": 0.1},
    "hidden_act": {"hidden_act": "gelu"},
    "heads": {"num_attention_heads": 8, "num_key_value_heads": 8},
    "window": {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 3},
}


def logits(config: dict[str, Any]) -> torch.Tensor:
    """Of a model of this config with fixed weights, drawn by shape alone."""
    made = AutoConfig.for_model(**deepcopy(config))
    model = AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            parameter.copy_(torch.randn(parameter.numel(), generator=generator).reshape(parameter.shape) * 0.3)
        return model(torch.arange(24)[None] % 64).logits


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_that_changes_the_logits_is_a_difference(change: str) -> None:
    base = {**BASE, "num_key_value_heads": 4}
    other = {**base, **CHANGES[change]}
    assert not torch.equal(logits(base), logits(other))
    assert config_differences(base, other)


@pytest.mark.parametrize("key", sorted(WITHOUT_EFFECT & {*AutoConfig.for_model("qwen2").to_dict(), "torch_dtype"}))
def test_a_setting_without_effect_leaves_the_logits_alone(key: str) -> None:
    strange: dict[str, Any] = {
        "dtype": "float32",
        "torch_dtype": "float32",
        "architectures": ["Other"],
        "id2label": {"0": "x", "1": "y"},
        "label2id": {"x": 0, "y": 1},
        "problem_type": "regression",
        "model_type": "qwen2",
        "transformers_version": "4.0.0",
        "_name_or_path": "elsewhere",
        "initializer_range": 0.5,
        "attention_dropout": 0.5,
        "chunk_size_feed_forward": 7,
    }
    value = strange.get(key, not AutoConfig.for_model("qwen2").to_dict().get(key))
    other = {**BASE, key: value}
    assert config_differences(BASE, other) == ()
    if key not in {"tie_word_embeddings", "return_dict", "output_hidden_states", "output_attentions"}:
        assert torch.equal(logits(BASE), logits(other))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_absent_key_equals_its_default(tmp_path: Path, architecture: str) -> None:
    config = dict(Checkpoint.open(tiny_checkpoint(tmp_path / "model", architecture)).config)
    defaults = type(AutoConfig.for_model(config["model_type"]))().to_dict()
    short = {key: value for key, value in config.items() if key == "model_type" or value != defaults.get(key)}
    assert len(short) < len(config)
    assert config_differences(config, short) == config_differences(short, config) == ()


def test_old_and_new_ways_to_write_a_setting_are_equal() -> None:
    old = {**BASE, "rope_theta": 1e6, "torch_dtype": "bfloat16"}
    new = {**BASE, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "dtype": "float32"}
    assert config_differences(old, new) == ()
    (found,) = config_differences(BASE, new)
    assert str(found) == "rope_parameters.rope_theta 1000000.0 (base 10000.0)"


def test_nested_sections_and_unknown_types_are_compared_too() -> None:
    ours = {"model_type": "new", "text_config": {"eps": 1e-5, "dtype": "float32"}, "a": [1, 2]}
    theirs = {"model_type": "new", "text_config": {"eps": 1e-6, "dtype": "bfloat16"}, "b": None}
    found = config_differences(ours, theirs)
    assert [item.key for item in found] == ["text_config.eps", "a"]
    assert described(found) == "text_config.eps 1e-06 (base 1e-05), a not set (base [1, 2])"


def test_comparing_leaves_the_configs_as_they_are() -> None:
    config = {**BASE, "rope_parameters": {"rope_type": "default"}}
    before = deepcopy(config)
    config_differences(config, BASE)
    assert config == before


def test_a_missing_generation_config_is_that_of_the_config(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", ("a", "b"))
    base, a, b = (Checkpoint.open(folder) for folder in folders.values())
    (a.folder / "generation_config.json").unlink()
    assert file_differences(base.folder, a.folder, base.config, a.config) == ()
    (b.folder / "generation_config.json").write_text('{"eos_token_id": [2, 5], "bos_token_id": 1, "pad_token_id": 0}')
    (found,) = file_differences(base.folder, b.folder, base.config, b.config)
    assert (found.key, found.base, found.other) == ("generation_config.eos_token_id", 2, [2, 5])


def test_models_with_settings_of_their_own_are_found_and_said(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", ("same", "eps", "text"))
    edit_config(folders["same"], use_cache=False, _name_or_path="x", dtype="bfloat16")
    edit_config(folders["eps"], rms_norm_eps=1e-3)
    (folders["text"] / "chat_template.jinja").write_text("{{ messages }}")
    base, *experts = (Checkpoint.open(folder) for folder in folders.values())
    models = Models(base, dict(zip(("same", "eps", "text"), experts, strict=True)))
    found = own_settings(models, base)
    assert found == {"eps": ("rms_norm_eps",), "text": ("tokenizer.chat_template",)}
    assert own_notes(found)[0].startswith("expert 'eps' is scored as it is by itself, with its own rms_norm_eps")
    (note,) = notes_of(models)
    assert "rms_norm_eps 0.001 (base 1e-06)" in note


def test_a_model_without_tokenizer_or_template_has_the_bases(tmp_path: Path) -> None:
    folders = tiny_family(tmp_path, "llama", ("bare", "plain"))
    for path in folders["bare"].glob("*token*"):
        path.unlink()
    for name in ("bare", "plain"):
        (folders[name] / "chat_template.jinja").unlink()
    base, bare, plain = (Checkpoint.open(folder) for folder in folders.values())
    assert own_settings(Models(base, {"bare": bare, "plain": plain}), base) == {}
