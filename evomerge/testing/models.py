"""Tiny random causal language models, written as real checkpoint folders with a real tokenizer.

Every folder is deterministic in its arguments and is made without a network in well under a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from evomerge.streams import derive

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gpt_neox", "gpt2", "mixtral")
"""The architectures that `tiny_checkpoint` can make."""

SPECIAL_TOKENS = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

_CORPUS = (
    "The river rises in the hills and runs past the market town down to the sea.",
    "Which of these answers is right? The question is simple, and the answer is three.",
    "A farmer has twelve goats and sells five of them; how many goats are left?",
    "Watoto wanasoma vitabu shuleni kila siku asubuhi na jioni.",
    "Mvua ilinyesha usiku kucha na mto ukajaa maji mengi.",
    "Los niños juegan en la plaza mientras la lluvia cae sobre el mercado.",
    "Ọmọ náà ń ka ìwé ní ilé-ẹ̀kọ́ ní òwúrọ̀.",
    "Question: what is two plus two? Answer: four. True or false, yes or no.",
    "Numbers: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 24 36 48 60 72 96 100.",
)


def tiny_tokenizer(vocab_size: int = 384) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a few sentences in several languages.

    Args:
        vocab_size: entries, at most; special tokens and the 256 bytes take the first 260.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_bpe(vocab_size)),
        model_max_length=512,
        chat_template=_CHAT_TEMPLATE,
        **SPECIAL_TOKENS,
    )


def tiny_checkpoint(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    layers: int = 2,
    hidden: int = 32,
    vocab_size: int = 384,
    tied: bool | None = None,
    max_shard_size: str | int | None = None,
    **config: Any,
) -> Path:
    """Write a small random causal LM with its tokenizer.

    Args:
        folder: where to write; made if missing.
        architecture: one of `ARCHITECTURES`.
        seed: of the weights.
        dtype: of the stored weights: float32, bfloat16 or float16.
        layers: number of decoder layers.
        hidden: width; a multiple of 4, the number of attention heads.
        vocab_size: rows of the embedding, which is also the size of the tokenizer's vocabulary.
        tied: whether head and embedding share a tensor; None: as is usual for the architecture.
        max_shard_size: largest file, as in `save_pretrained`; None: one file.
        config: further settings of the architecture's config.

    Returns: `folder`.
    """
    model = tiny_model(
        architecture, seed=seed, dtype=dtype, layers=layers, hidden=hidden, vocab_size=vocab_size, tied=tied, **config
    )
    return _save(model, folder, vocab_size, max_shard_size)


def tiny_family(
    folder: Path,
    architecture: str = "llama",
    experts: Sequence[str] = ("a", "b"),
    *,
    seed: int = 0,
    scale: float = 0.02,
    vocab_size: int = 384,
    max_shard_size: str | int | None = None,
    **settings: Any,
) -> dict[str, Path]:
    """Write a base and experts that are the base plus small seeded perturbations of every weight.

    Args:
        folder: where to write a folder named after each model.
        architecture: one of `ARCHITECTURES`.
        experts: the experts' names.
        seed: of the base; each expert's perturbation is drawn from (seed, name).
        scale: standard deviation of the perturbations.
        vocab_size: as in `tiny_checkpoint`.
        max_shard_size: as in `tiny_checkpoint`.
        settings: further arguments of `tiny_checkpoint`.

    Returns: the folders by name, "base" first.
    """
    folders = {}
    model = tiny_model(architecture, seed=seed, vocab_size=vocab_size, **settings)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("base", *experts):
        if name != "base":
            model.load_state_dict(start)
            _perturb(model, derive(seed, "expert", name, bits=63), scale)
        folders[name] = _save(model, Path(folder) / name, vocab_size, max_shard_size)
    return folders


def tiny_model(
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "float32",
    layers: int = 2,
    hidden: int = 32,
    vocab_size: int = 384,
    tied: bool | None = None,
    **config: Any,
) -> PreTrainedModel:
    """The model that `tiny_checkpoint` writes, with the same arguments. Raises: KeyError if unknown."""
    settings = _CONFIGS[architecture](layers, hidden)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if tied is not None:
        special["tie_word_embeddings"] = tied
    for key, value in {"vocab_size": vocab_size, **special, **config}.items():
        setattr(settings, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, architecture, bits=63))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    # Biases and norms start constant, which would hide a tensor that is swapped with another.
    _perturb(model, derive(seed, "start", bits=63), 0.05)
    model.to(getattr(torch, dtype)).eval()
    return model


def _perturb(model: PreTrainedModel, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * scale
            parameter.copy_(parameter.float() + noise)


def _save(model: PreTrainedModel, folder: Path, vocab_size: int, max_shard_size: str | int | None) -> Path:
    folder = Path(folder)
    model.save_pretrained(folder, max_shard_size="50GB" if max_shard_size is None else max_shard_size)
    tiny_tokenizer(vocab_size).save_pretrained(folder)
    return folder


@lru_cache(maxsize=8)
def _trained_bpe(vocab_size: int) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return str(tokenizer.to_str())


def _llama_like(config: Callable[..., PretrainedConfig], **more: Any) -> Callable[[int, int], PretrainedConfig]:
    def make(layers: int, hidden: int) -> PretrainedConfig:
        return config(
            num_hidden_layers=layers,
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=hidden // 4,
            max_position_embeddings=512,
            initializer_range=0.1,
            **more,
        )

    return make


def _gpt_neox(layers: int, hidden: int) -> PretrainedConfig:
    return GPTNeoXConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.1,
    )


def _gpt2(layers: int, hidden: int) -> PretrainedConfig:
    return GPT2Config(n_layer=layers, n_embd=hidden, n_head=4, n_positions=512, initializer_range=0.1)


_CONFIGS: dict[str, Callable[[int, int], PretrainedConfig]] = {
    "llama": _llama_like(LlamaConfig),
    "mistral": _llama_like(MistralConfig, sliding_window=None),
    "qwen2": _llama_like(Qwen2Config),
    "qwen3": _llama_like(Qwen3Config),
    "gemma": _llama_like(GemmaConfig),
    "gpt_neox": _gpt_neox,
    "gpt2": _gpt2,
    "mixtral": _llama_like(MixtralConfig, num_local_experts=4, num_experts_per_tok=2),
}
