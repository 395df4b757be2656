"""Requests to generate text for, and models that keep their context in unlike ways."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from evomerge.score.requests import GenerationRequest, Request


def prompts(*, shots: int = 300, items: int = 40, seed: int = 0) -> list[Request]:
    """Few-shot prompts to continue; more than there are slots."""
    draw = random.Random(seed)
    prefix = tuple(draw.randrange(5, 380) for _ in range(shots))
    found: list[Request] = [
        GenerationRequest(
            prefix + tuple(draw.randrange(5, 380) for _ in range(1 + number % 30)),
            stop=("e", "an"),
            max_tokens=6 + number % 9,
        )
        for number in range(items)
    ]
    found.append(GenerationRequest(prefix, stop=(), max_tokens=3))
    found.append(found[0])
    return found


def sliding_model(kind: str) -> Any:
    from transformers import Gemma2Config, Gemma3TextConfig, MistralConfig, Qwen2Config

    settings: dict[str, Any] = {
        "vocab_size": 384,
        "num_hidden_layers": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
        "sliding_window": 24,
    }
    mixed = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    config: Any = {
        "mistral": lambda: MistralConfig(**settings),
        "gemma2": lambda: Gemma2Config(**settings, **mixed),
        "gemma3": lambda: Gemma3TextConfig(**settings, **mixed),
        "qwen2": lambda: Qwen2Config(**settings, use_sliding_window=True, **mixed),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def unusual_model(kind: str) -> Any:
    from transformers import (
        BloomConfig,
        FalconConfig,
        FalconH1Config,
        Lfm2Config,
        MambaConfig,
        RecurrentGemmaConfig,
    )

    common: dict[str, Any] = {"vocab_size": 384, "hidden_size": 32, "initializer_range": 0.3}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "num_hidden_layers": 2}
    config: Any = {
        "bloom": lambda: BloomConfig(**common, n_layer=2, n_head=4),
        "falcon": lambda: FalconConfig(**common, num_hidden_layers=2, num_attention_heads=4, alibi=True),
        "mamba": lambda: MambaConfig(**common, num_hidden_layers=2, state_size=4),
        "falcon_h1": lambda: FalconH1Config(
            **common, **attention, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, head_dim=8
        ),
        "recurrent_gemma": lambda: RecurrentGemmaConfig(
            **common, **{**attention, "num_hidden_layers": 3}, lru_width=32, attention_window_size=16
        ),
        "lfm2": lambda: Lfm2Config(**common, **attention, layer_types=["conv", "full_attention"]),
    }[kind]()
    for name, token in (("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", 2)):
        setattr(config, name, token)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
