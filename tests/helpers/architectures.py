"""A tiny real model of every architecture that has a spec, with inputs and what its residual stream may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor

PLAIN = {"num_hidden_layers": 2, "hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 4}
GROUPED = {**PLAIN, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40, "max_position_embeddings": 64}
TEXT = {**PLAIN, "vocab_size": 40, "max_position_embeddings": 32}
IMAGE = {**PLAIN, "image_size": 8, "patch_size": 4, "num_labels": 5}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}

SIGNED = ("none", "permutation", "signed")
ROTATED = (*SIGNED, "orthogonal")
MEAN_KEPT = ("none", "permutation", "orthogonal")
ORDERED = ("none", "permutation")
FIXED = ("none",)


@dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        head: the class of the model.
        config: its config, made when it is asked for.
        residuals: every symmetry that its residual stream may have.
        within: how far outputs may be apart in float64; transformers' RMSNorm computes in float32 there too.
        compared: the outputs that are the model's function; empty: all of them.
    """

    head: type[Any]
    config: Callable[[], hf.PretrainedConfig]
    residuals: tuple[str, ...]
    within: float = 1e-5
    compared: tuple[str, ...] = ()


def _causal(config: type[hf.PretrainedConfig], residuals: tuple[str, ...], **settings: Any) -> Architecture:
    within = 1e-10 if residuals is MEAN_KEPT else 1e-5
    return Architecture(hf.AutoModelForCausalLM, lambda: config(**{"pad_token_id": 0, **settings}), residuals, within)


def _encoder(
    head: type[Any], config: type[hf.PretrainedConfig], residuals: tuple[str, ...], **settings: Any
) -> Architecture:
    return Architecture(head, lambda: config(**settings), residuals, 1e-10)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _causal(hf.LlamaConfig, ROTATED, **GROUPED),
    "llama, tied, with biases": _causal(
        hf.LlamaConfig, ROTATED, **GROUPED, tie_word_embeddings=True, attention_bias=True, mlp_bias=True
    ),
    "llama classifier": Architecture(
        hf.LlamaForSequenceClassification, lambda: hf.LlamaConfig(**GROUPED, pad_token_id=0, num_labels=3), ROTATED
    ),
    "mistral": _causal(hf.MistralConfig, ROTATED, **GROUPED, sliding_window=3),
    "qwen2": _causal(hf.Qwen2Config, ROTATED, **GROUPED),
    "qwen3": _causal(hf.Qwen3Config, ROTATED, **GROUPED, tie_word_embeddings=True),
    "gemma": _causal(hf.GemmaConfig, ROTATED, **GROUPED),
    "gemma2": _causal(hf.Gemma2Config, SIGNED, **GROUPED, query_pre_attn_scalar=8),
    "gemma3_text": _causal(hf.Gemma3TextConfig, SIGNED, **GROUPED, query_pre_attn_scalar=8),
    "phi3": _causal(hf.Phi3Config, ROTATED, **{**GROUPED, "hidden_size": 32}),
    "phi3, partly rotary": _causal(hf.Phi3Config, ROTATED, **{**GROUPED, "hidden_size": 32}, partial_rotary_factor=0.5),
    "granite": _causal(hf.GraniteConfig, ROTATED, **GROUPED),
    "olmo2": _causal(hf.Olmo2Config, SIGNED, **GROUPED),
    "mixtral": _causal(hf.MixtralConfig, ROTATED, **GROUPED, num_local_experts=3),
    "qwen2_moe": _causal(hf.Qwen2MoeConfig, ROTATED, **GROUPED, **EXPERTS, shared_expert_intermediate_size=16),
    "qwen3_moe": _causal(hf.Qwen3MoeConfig, ROTATED, **GROUPED, **EXPERTS),
    "cohere": Architecture(
        hf.AutoModelForCausalLM,
        lambda: hf.CohereConfig(**{**GROUPED, "hidden_size": 32}, pad_token_id=0, attention_bias=True),
        MEAN_KEPT,
    ),
    "starcoder2": _causal(hf.Starcoder2Config, MEAN_KEPT, **{**GROUPED, "hidden_size": 32}),
    "gpt2": _causal(hf.GPT2Config, MEAN_KEPT, n_layer=2, n_embd=24, n_head=4, n_positions=32, vocab_size=40),
    "gpt_neox": _causal(hf.GPTNeoXConfig, MEAN_KEPT, **{**TEXT, "hidden_size": 32}, rotary_pct=0.5),
    "gpt_neox, one after the other": _causal(
        hf.GPTNeoXConfig, MEAN_KEPT, **{**TEXT, "hidden_size": 32}, use_parallel_residual=False, attention_bias=False
    ),
    "bert": _encoder(hf.BertForMaskedLM, hf.BertConfig, ORDERED, **TEXT),
    "bert, untied": _encoder(hf.BertForMaskedLM, hf.BertConfig, ORDERED, **TEXT, tie_word_embeddings=False),
    "bert, two tasks": _encoder(hf.BertForPreTraining, hf.BertConfig, ORDERED, **TEXT),
    "bert classifier": _encoder(hf.BertForSequenceClassification, hf.BertConfig, ORDERED, **TEXT),
    "bert of token labels": _encoder(hf.BertForTokenClassification, hf.BertConfig, ORDERED, **TEXT),
    "bert without a head": _encoder(hf.BertModel, hf.BertConfig, FIXED, **TEXT),
    "roberta": _encoder(hf.RobertaForMaskedLM, hf.RobertaConfig, ORDERED, **TEXT),
    "roberta, untied": _encoder(hf.RobertaForMaskedLM, hf.RobertaConfig, ORDERED, **TEXT, tie_word_embeddings=False),
    "roberta classifier": _encoder(hf.RobertaForSequenceClassification, hf.RobertaConfig, ORDERED, **TEXT),
    "roberta of token labels": _encoder(hf.RobertaForTokenClassification, hf.RobertaConfig, ORDERED, **TEXT),
    "xlm-roberta": _encoder(hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig, ORDERED, **TEXT),
    "roberta without a head": _encoder(hf.RobertaModel, hf.RobertaConfig, FIXED, **TEXT),
    "vit": _encoder(hf.ViTForImageClassification, hf.ViTConfig, MEAN_KEPT, **IMAGE),
    "vit without a head": _encoder(hf.ViTModel, hf.ViTConfig, FIXED, **IMAGE),
    "clip": Architecture(
        hf.CLIPModel,
        lambda: hf.CLIPConfig(
            text_config={**TEXT, "eos_token_id": 2}, vision_config={**IMAGE, "hidden_size": 32}, projection_dim=12
        ),
        ORDERED,
        1e-10,
        ("logits_per_image", "logits_per_text"),
    ),
    "clip's images": Architecture(
        hf.CLIPVisionModelWithProjection,
        lambda: hf.CLIPVisionConfig(**IMAGE, projection_dim=12),
        ORDERED,
        1e-10,
        ("image_embeds",),
    ),
    "clip's texts": Architecture(
        hf.CLIPTextModelWithProjection,
        lambda: hf.CLIPTextConfig(**TEXT, projection_dim=12, eos_token_id=2),
        ORDERED,
        1e-10,
        ("text_embeds",),
    ),
    "clip classifier": Architecture(
        hf.CLIPForImageClassification, lambda: hf.CLIPConfig(vision_config=IMAGE), ORDERED, 1e-10, ("logits",)
    ),
    "clip without a head": _encoder(hf.CLIPVisionModel, hf.CLIPVisionConfig, FIXED, **IMAGE),
    "resnet": _encoder(
        hf.ResNetForImageClassification,
        hf.ResNetConfig,
        ORDERED,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[2, 1],
        layer_type="basic",
    ),
    "resnet of bottlenecks": _encoder(
        hf.ResNetForImageClassification,
        hf.ResNetConfig,
        ORDERED,
        embedding_size=4,
        hidden_sizes=[16, 32],
        depths=[2, 2],
    ),
}


def built(architecture: Architecture, *, seed: int = 0) -> hf.PreTrainedModel:
    """The model in float64, every number of it random: norms' gains far from 1, statistics far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    config = architecture.config()
    made = getattr(architecture.head, "from_config", None) or architecture.head._from_config
    model: hf.PreTrainedModel = made(config).double().eval()
    _run_experts_one_by_one(model)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if isinstance(tensor, torch.nn.Parameter) or name.rpartition(".")[2].startswith("running_"):
                fan = tensor[0].numel() if tensor.ndim > 1 else 1
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) / max(fan, 4) ** 0.5
                positive = "running_var" in name or (tensor.ndim == 1 and name.endswith("weight"))
                tensor.copy_(noise.abs() / 2 + 0.4 if positive else noise)
    return model


def inputs(model: hf.PreTrainedModel) -> dict[str, Tensor]:
    """Two texts or images."""
    generator = torch.Generator().manual_seed(7)
    config = model.config
    found = {}
    vocabulary = getattr(config, "vocab_size", None) or getattr(
        getattr(config, "text_config", None), "vocab_size", None
    )
    if vocabulary is not None and model.main_input_name != "pixel_values":
        found["input_ids"] = torch.randint(3, vocabulary, (2, 7), generator=generator)
    size = getattr(config, "image_size", None) or getattr(getattr(config, "vision_config", None), "image_size", None)
    if size is not None or model.main_input_name == "pixel_values":
        found["pixel_values"] = torch.randn((2, 3, size or 16, size or 16), generator=generator, dtype=torch.float64)
    return found


def outputs(
    model: hf.PreTrainedModel, given: Mapping[str, Tensor], compared: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors that the model computes from its inputs, by name: those that are compared, or all."""
    parameter = next(model.parameters())
    cast = {name: value.to(parameter.dtype) if value.is_floating_point() else value for name, value in given.items()}
    with torch.no_grad():
        found = model(**cast)
    return {
        name: value for name, value in found.items() if name in compared or (not compared and isinstance(value, Tensor))
    }


def reloaded(model: hf.PreTrainedModel, folder: Path) -> hf.PreTrainedModel:
    """The folder's model as stock transformers loads it, in the dtype of `model`; complains of any tensor."""
    loaded, info = type(model).from_pretrained(folder, dtype=model.dtype, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    found: hf.PreTrainedModel = loaded.eval()
    _run_experts_one_by_one(found)
    return found


def _run_experts_one_by_one(model: hf.PreTrainedModel) -> None:
    """The other implementations know no float64."""
    model.config._experts_implementation = "eager"
