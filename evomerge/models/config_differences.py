"""What two models' settings differ in: their config.json and how they end and process text, key by key.

A few keys are known to leave alone what a model computes. Every other key counts. Does not know tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import listed
from evomerge.models.headers import read_json
from evomerge.models.transformers_settings import filled_in, settings_of

NAMES = frozenset(
    {
        "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "architectures", "model_type",
        "auto_map", "tokenizer_class", "processor_class", "finetuning_task", "task_specific_params", "id2label",
        "label2id", "unsloth_version", "unsloth_fixed", "quantization_config",
    }
)  # fmt: skip
"""Names and origins. What they name is looked at elsewhere: the class, the labels and the tokenizer themselves."""

STORAGE = frozenset({"dtype", "torch_dtype", "use_bfloat16", "tie_word_embeddings"})
"""How tensors are stored. A merge has one dtype, and which tensors are one is seen in the tensors."""

CONDUCT = frozenset(
    {
        "use_cache", "return_dict", "return_dict_in_generate", "use_return_dict", "output_attentions",
        "output_hidden_states", "torchscript",
        "chunk_size_feed_forward", "gradient_checkpointing", "pretraining_tp", "_attn_implementation",
        "attn_implementation", "_attn_implementation_autoset", "use_flash_attn", "output_router_logits",
    }
)  # fmt: skip
"""How the same numbers are come by, and which of them are handed out."""

TRAINING = frozenset(
    {
        "initializer_range", "initializer_factor", "attention_dropout", "hidden_dropout", "dropout", "resid_pdrop",
        "embd_pdrop", "attn_pdrop", "embed_dropout", "resid_dropout", "residual_dropout", "embedding_dropout",
        "attention_probs_dropout_prob", "hidden_dropout_prob", "activation_dropout", "classifier_dropout",
        "summary_first_dropout", "dropout_rate", "layerdrop", "encoder_layerdrop", "decoder_layerdrop",
        "router_aux_loss_coef", "router_z_loss_coef", "aux_loss_alpha", "router_jitter_noise", "problem_type",
        "label_smoothing",
    }
)  # fmt: skip
"""What only training sees."""

WITHOUT_EFFECT = NAMES | STORAGE | CONDUCT | TRAINING
"""Keys that can't change what a model computes for given weights and tokens, wherever in the config they are."""

_GENERATION = "generation_config"
_PROCESSOR = "preprocessor_config"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that two models have differently; None where one hasn't it."""

    key: str
    """Dotted path within config.json, or within another file, whose name then comes first."""
    base: Any
    other: Any

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.other)} (base {_shown(self.base)})"


def config_differences(base: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Settings of config.json that can change what a model computes, defaults of the model type filled in.

    Args:
        base: contents of the base's config.json.
        other: of the other model's.
    """
    if base == other:
        # The same, whatever the defaults are, which take long to ask for.
        return ()
    return tuple(_differences(filled_in(base), filled_in(other), ""))


def file_differences(
    base: Path, other: Path, base_config: Mapping[str, Any], other_config: Mapping[str, Any]
) -> tuple[Difference, ...]:
    """Settings of generation_config.json and preprocessor_config.json that two folders have differently.

    Args:
        base: the base's folder.
        other: the other model's.
        base_config: contents of the base's config.json, of which a missing generation_config.json is made.
        other_config: of the other's.

    Raises: CheckpointError for a file that is no JSON object.
    """
    generation = _optional(base / f"{_GENERATION}.json"), _optional(other / f"{_GENERATION}.json")
    if generation[0] != generation[1] or base_config != other_config:
        generation = _generation(generation[0], base_config), _generation(generation[1], other_config)
    ours, theirs = (_optional(folder / f"{_PROCESSOR}.json") for folder in (base, other))
    return (*_differences(*generation, f"{_GENERATION}."), *_differences(ours, theirs, f"{_PROCESSOR}."))


def described(differences: Sequence[Difference]) -> str:
    """Differences in a few words, such as "rope_parameters.rope_theta 1000000.0 (base 10000.0)"."""
    return listed([str(found) for found in differences])


def _generation(made: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers generates by: the folder's file, or what the config says where it is empty or missing."""
    if not made:
        from transformers import GenerationConfig

        try:
            made = GenerationConfig.from_model_config(settings_of(config)).to_dict()
        except Exception:
            return {}
    return {key: value for key, value in made.items() if value is not None and not key.startswith("_")}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _differences(base: Mapping[str, Any], other: Mapping[str, Any], path: str) -> Iterator[Difference]:
    for key in dict.fromkeys([*base, *other]):
        if key in WITHOUT_EFFECT:
            continue
        ours, theirs = base.get(key), other.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            yield from _differences(ours, theirs, f"{path}{key}.")
        elif ours != theirs:
            yield Difference(f"{path}{key}", ours, theirs)


def _shown(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
