"""What an adapter's settings mean, and which of them can't be merged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import CheckpointError, shown
from evomerge.models.hub import ADAPTER_CONFIG

# Settings that don't change what the trained factors mean. Any other that is set is refused by its name.
_MEANINGLESS_HERE = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "megatron_core",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config", "qalora_group_size",
    "ensure_weight_tying", "megatron_config", "velora_config", "rank_dropout", "module_dropout",
    "use_effective_conv2d", "unsloth_fixed",
}  # fmt: skip
_UNDERSTOOD = {
    "peft_type", "r", "lora_alpha", "fan_in_fan_out", "bias", "use_rslora", "modules_to_save", "init_lora_weights",
    "rank_pattern", "alpha_pattern", "use_dora", "alpha", "init_weights",
}  # fmt: skip
_WORDS = {
    "layer_replication": "layers that are repeated",
    "target_parameters": "adapted parameters of stacked experts",
    "trainable_token_indices": "single trained tokens",
    "lora_bias": "biases inside the adapter",
    "alora_invocation_tokens": "an adapter that is on for some tokens only",
}
_MOST_REPETITIONS = 3
# Initialisations that leave the base as it is; others split the base, so that the factors belong to what is left.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


def kind_of(settings: Mapping[str, Any]) -> Literal["LoRA", "DoRA", "LoHa"]:
    """The kind of an adapter whose settings aren't refused."""
    if settings.get("peft_type") == "LOHA":
        return "LoHa"
    return "DoRA" if settings.get("use_dora") else "LoRA"


def scale_of(folder: Path, settings: Mapping[str, Any], name: str, module: str, rank: int) -> float:
    """What the product of a module's factors is multiplied by.

    Args:
        folder: the adapter's.
        settings: its config.
        name: of the tensor, for messages.
        module: its path in the model that was adapted.
        rank: of its factors.

    Raises: CheckpointError if the rank is 0, or another than the config says.
    """
    if rank == 0:
        raise CheckpointError(f"{folder}: {name}: its factors have rank 0, which changes nothing; train it with r ≥ 1")
    stated = _for_module(settings.get("rank_pattern") or {}, module, settings.get("r", 8))
    if stated != rank:
        raise CheckpointError(
            f"{folder}: {name}: its factors have rank {rank}, while {ADAPTER_CONFIG} says {stated}; config and weights "
            "are from different adapters"
        )
    key = "alpha" if kind_of(settings) == "LoHa" else "lora_alpha"
    alpha = _for_module(settings.get("alpha_pattern") or {}, module, settings.get(key, 8))
    if not isinstance(alpha, int | float):
        raise CheckpointError(f"{folder}: {ADAPTER_CONFIG}: {key} is {alpha!r}; it must be a number")
    return float(alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank)


def refuse_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse an adapter that PEFT would merge otherwise than is done here. Raises: CheckpointError."""
    _check_forms(settings, f"{folder}: {ADAPTER_CONFIG}")
    if settings.get("peft_type") not in ("LORA", "LOHA"):
        raise CheckpointError(
            f"{folder}: is an adapter of type {settings.get('peft_type')}; only LORA and LOHA can be merged here. "
            "Merge it into its base with PEFT first"
        )
    advice = "merge it into its base with PEFT first, and give the whole model"
    if settings.get("bias", "none") != "none":
        raise CheckpointError(f"{folder}: {ADAPTER_CONFIG}: bias {shown(settings['bias'])}: trained biases; {advice}")
    if settings.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{folder}: {ADAPTER_CONFIG}: init_lora_weights {shown(settings['init_lora_weights'])} changes the base "
            f"too; convert it to a plain LoRA with PEFT's path_initial_model_for_weight_conversion, or {advice}"
        )
    for key, value in settings.items():
        if value and key not in _UNDERSTOOD and key not in _MEANINGLESS_HERE:
            words = f" ({_WORDS[key]})" if key in _WORDS else ""
            raise CheckpointError(f"{folder}: {ADAPTER_CONFIG}: {key}{words} isn't supported; {advice}")


def _check_forms(settings: Mapping[str, Any], where: str) -> None:
    """Check that numbers are numbers and patterns are patterns. Raises: CheckpointError."""
    for key, patterns in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"), ("alpha", "alpha_pattern")):
        found = settings.get(patterns)
        if not isinstance(found, Mapping | None):
            raise CheckpointError(f"{where}: {patterns}: expected a number for each pattern, got {shown(found)}")
        for pattern, value in {key: settings.get(key, 8), **(found or {})}.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise CheckpointError(f"{where}: {pattern} is {shown(value)}; it must be a number")
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise CheckpointError(f"{where}: {patterns}: {shown(pattern)} is no pattern: {error}") from error
            # Python's search can't be interrupted, and takes time that grows with a power of these, or doubles.
            if re.search(r"\)[*+{]", pattern) or len(re.findall(r"(?<!\\)[*+{]", pattern)) > _MOST_REPETITIONS:
                raise CheckpointError(
                    f"{where}: {patterns}: {shown(pattern)} may take for ever to compare with a name; write it with at "
                    f"most {_MOST_REPETITIONS} repetitions, and none of a group"
                )


def _for_module(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's path, as PEFT finds it."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
