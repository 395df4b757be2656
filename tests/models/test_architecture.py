from __future__ import annotations

import re

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from evomerge.errors import CheckpointError
from evomerge.models.architecture import Layout
from evomerge.testing.models import ARCHITECTURES, tiny_model

# Other naming habits: parallel blocks, extra norms, fused projections, routed experts.
OTHERS = (
    "Gemma2Config",
    "Gemma3TextConfig",
    "PhiConfig",
    "Phi3Config",
    "BloomConfig",
    "OPTConfig",
    "GPTJConfig",
    "MptConfig",
    "GPTBigCodeConfig",
    "Qwen2MoeConfig",
    "Qwen3MoeConfig",
    "GptOssConfig",
    "Olmo2Config",
    "CohereConfig",
    "StableLmConfig",
    "XGLMConfig",
    "CodeGenConfig",
    "PersimmonConfig",
    "BioGptConfig",
)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "pad_token_id": 0,
}


def other_model(name: str) -> nn.Module:
    cls = getattr(transformers, name)
    config = cls(**{key: value for key, value in SMALL.items() if hasattr(cls(), key)})
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def kind_by_class(model: nn.Module, parameter: str) -> str:
    """The kind as the model's own classes tell it, for tensors whose modules say."""
    path = parameter.split(".")
    modules = [model.get_submodule(".".join(path[:length])) for length in range(1, len(path))]
    innermost = modules[-1]
    if "Norm" in type(innermost).__name__:
        return "norm"
    if innermost is model.get_output_embeddings():
        return "head"
    if isinstance(innermost, nn.Embedding):
        return "embedding"
    for module in reversed(modules):
        if "Attention" in type(module).__name__:
            return "attention"
        if re.search(r"MLP|Moe|MoE|Experts|Router", type(module).__name__):
            return "mlp"
    return "mlp" if re.search(r"\.fc[12]\.", parameter) else "unsaid"


def check_layout(model: nn.Module, depth: int) -> None:
    names = list(model.state_dict())
    layout = Layout.of(names, {"num_hidden_layers": depth})
    assert layout.depth == depth
    numbers = {name: re.search(r"\.(\d+)\.", name) for name in names}
    for name in names:
        place = layout.place(name)
        assert place.kind == kind_by_class(model, name), name
        if numbers[name]:
            assert place.layer == int(numbers[name][1]), name
        else:
            before = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding) or "word_embeddings" in name
            assert place.layer == (0 if before else depth - 1), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_and_kinds_are_those_of_the_models_own_classes(architecture: str) -> None:
    check_layout(tiny_model(architecture, layers=3), 3)


@pytest.mark.parametrize("config", OTHERS)
def test_architectures_that_nobody_listed_are_placed_by_their_names(config: str) -> None:
    check_layout(other_model(config), 3)


def test_state_space_mixers_are_other_and_their_norms_are_norms() -> None:
    layout = Layout.of(["backbone.embeddings.weight", "backbone.layers.0.mixer.A_log", "backbone.layers.0.norm.weight"])
    assert layout.place("backbone.layers.0.mixer.A_log").kind == "other"
    assert layout.place("backbone.layers.0.norm.weight").kind == "norm"


@pytest.mark.parametrize(
    "parameter",
    [
        "block_sparse_moe.gate.weight",
        "block_sparse_moe.experts.3.w2.weight",
        "mlp.gate.weight",
        "mlp.shared_expert_gate.weight",
        "mlp.router.weight",
        "feed_forward.experts.gate_up_proj",
        "mlp.experts.down_proj_bias",
    ],
)
def test_routers_and_routed_experts_count_as_mlp(parameter: str) -> None:
    names = [f"model.layers.{layer}.{parameter}" for layer in range(12)]
    assert {tuple(Layout.of(names).place(name)) for name in names} == {(layer, "mlp") for layer in range(12)}


def test_the_number_of_layers_is_the_language_models_and_not_a_vision_towers() -> None:
    names = [f"vision_tower.encoder.layers.{layer}.self_attn.{p}_proj.weight" for layer in range(4) for p in "qkv"]
    names += [f"language_model.layers.{layer}.mlp.fc1.weight" for layer in range(2)]
    layout = Layout.of(names, {"text_config": {"num_hidden_layers": 2}})
    assert (layout.depth, layout.stem) == (2, "language_model.layers")
    assert layout.place(names[-1]) == (1, "mlp")


def test_fewer_layers_than_the_config_promises_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"promises 4 layers, but the tensors hold 2 \(h\.0 to h\.1\)"):
        Layout.of(["h.0.attn.c_attn.weight", "h.1.attn.c_attn.weight"], {"n_layer": 4})


def test_layers_beyond_the_configs_count_as_the_last() -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(3)]
    layout = Layout.of(names, {"num_hidden_layers": 2})
    assert [layout.place(name).layer for name in names] == [0, 1, 1]


def test_a_model_without_layers_has_one() -> None:
    layout = Layout.of(["embeddings.weight", "lm_head.weight"])
    assert layout.depth == 1
    assert [layout.place(name) for name in ("embeddings.weight", "lm_head.weight")] == [(0, "embedding"), (0, "head")]
