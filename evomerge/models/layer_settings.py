"""What a model's config says of single layers, and the config of a stack of layers taken from elsewhere.

Lists with an entry per layer and lists of layers' numbers are rewritten. What follows from a layer's number by a
rule must come out the same in the stack, and settings that aren't understood are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.architecture import DEPTH_KEYS, configured_depth
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.transformers_settings import filled_in

# Lists as long as the model is deep are about layers if they are called so; others, such as tokens' ids, aren't.
_LISTS = re.compile(r"layer|block|heads|intermediate_size|window|rope|sparsity|multipliers|attention")
# Numbers of the layers that something holds for.
_NUMBERS = {
    "mlp_only_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs", "cross_attention_layers",
    "global_attn_layers", "local_layer_ids",
}  # fmt: skip
# What makes lists that transformers then holds itself, so that the list decides.
_SOURCES_OF_LISTS: Mapping[str, tuple[str, ...]] = {
    "sliding_window_pattern": ("layer_types",),
    "max_window_layers": ("layer_types",),
    "full_attention_interval": ("layer_types",),
    "global_attn_every_n_layers": ("layer_types",),
    "no_rope_layer_interval": ("no_rope_layers",),
    "interleave_moe_layer_step": ("moe_layers",),
    "first_k_dense_replace": ("mlp_layer_types",),
    "num_dense_layers": ("mlp_layer_types", "layer_types"),
    "attention_types": ("attention_layers",),
}
_Rule = Callable[[Mapping[str, Any], int], Any]
# What a setting means for the layer of a number.
_RULES: Mapping[str, _Rule] = {
    "scale_attn_by_inverse_layer_idx": lambda config, layer: layer,
    "decoder_sparse_step": lambda config, layer: (layer + 1) % config["decoder_sparse_step"] == 0,
    "first_k_dense_replace": lambda config, layer: layer >= config["first_k_dense_replace"],
    "moe_layer_freq": lambda config, layer: layer % config["moe_layer_freq"],
    "num_dense_layers": lambda config, layer: layer < config["num_dense_layers"],
    "max_window_layers": lambda config, layer: (
        bool(config.get("use_sliding_window")) and layer >= config["max_window_layers"]
    ),
    "sliding_window_pattern": lambda config, layer: layer % config["sliding_window_pattern"],
    "full_attention_interval": lambda config, layer: layer % config["full_attention_interval"],
    "global_attn_every_n_layers": lambda config, layer: layer % config["global_attn_every_n_layers"],
    "attn_layer_period": lambda config, layer: layer % config["attn_layer_period"] == config.get("attn_layer_offset"),
    "expert_layer_period": lambda config, layer: (
        layer % config["expert_layer_period"] == config.get("expert_layer_offset")
    ),
}
_PARTS_OF_RULES = {"attn_layer_offset", "expert_layer_offset", "use_sliding_window"}
_OF_LAYERS = re.compile(r"(^|_)layers?(_|$)|interval|period|every|num_mtp|nextn")
_OF_NO_LAYER = re.compile(r"layer_?(norm|scale|drop)\w*|output_\w+|^_|^encoder_|^decoder_|feature_layer|is_decoder")


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """A model's settings with the defaults of its architecture filled in, and its number of layers."""

    config: Mapping[str, Any]
    depth: int

    @classmethod
    def of(cls, model: Checkpoint) -> LayerSettings:
        """A model's settings; those of its config.json alone if transformers doesn't know the model type."""
        return cls(_section(filled_in(model.config)), model.layout.depth)

    def of_layer(self, layer: int) -> dict[str, Any]:
        """What holds for one layer, by the setting that says so."""
        found: dict[str, Any] = {key: self.config[key][layer] for key in self._lists()}
        found |= {key: layer in self.config[key] for key in self._numbers()}
        return found | {key: _RULES[key](self.config, layer) for key in self._rules()}

    def not_understood(self) -> list[str]:
        """Settings that seem to be about single layers, and aren't known here."""
        found = []
        for key, value in self.config.items():
            if key in {*DEPTH_KEYS, *_RULES, *_PARTS_OF_RULES, *_NUMBERS, *self._lists()} or not value or value is True:
                continue
            if any(isinstance(self.config.get(key_of), list) for key_of in _SOURCES_OF_LISTS.get(key, ())):
                continue
            if _OF_LAYERS.search(_OF_NO_LAYER.sub("", key)):
                found.append(key)
        return found

    def restacked(self, layers: Sequence[tuple[LayerSettings, int]]) -> dict[str, Any]:
        """The settings to change for a stack of these layers of these models.

        Raises: CheckpointError naming a setting that can't say so.
        """
        depth = len(layers)
        if all(layer == position for position, (_, layer) in enumerate(layers)) and depth == self.depth:
            unknown = []
        else:
            unknown = self.not_understood()
        if unknown:
            raise CheckpointError(
                f"config.json: {', '.join(unknown)}: what it means for single layers isn't known, so they can't be "
                "stacked"
            )
        changed: dict[str, Any] = {key: depth for key in DEPTH_KEYS if self.config.get(key) == self.depth}
        for key in self._lists():
            changed[key] = [self._entry(settings, key, layer) for settings, layer in layers]
        for key in self._numbers():
            changed[key] = [
                position for position, (settings, layer) in enumerate(layers) if layer in settings.config.get(key, ())
            ]
        if "attention_layers" in changed and "attention_types" in self.config:
            changed["attention_types"] = [[[kind], 1] for kind in changed["attention_layers"]]
        for key in self._rules():
            for position, (settings, layer) in enumerate(layers):
                here, there = _RULES[key](self.config, position), settings.of_layer(layer).get(key)
                if here != there:
                    raise CheckpointError(
                        f"config.json: {key} {self.config[key]!r} makes layers differ by their number, and layer "
                        f"{layer} would be another one as layer {position} of the stack"
                    )
        return changed

    def _entry(self, settings: LayerSettings, key: str, layer: int) -> Any:
        values = settings.config.get(key)
        if not isinstance(values, list) or len(values) != settings.depth:
            raise CheckpointError(f"config.json: {key}: one model has an entry per layer, another hasn't")
        return values[layer]

    def _lists(self) -> list[str]:
        return [
            key
            for key, value in self.config.items()
            if isinstance(value, list) and len(value) == self.depth and key not in _NUMBERS and _LISTS.search(key)
        ]

    def _numbers(self) -> list[str]:
        return [key for key, value in self.config.items() if key in _NUMBERS and isinstance(value, list)]

    def _rules(self) -> list[str]:
        return [
            key
            for key in _RULES
            if self.config.get(key)
            and isinstance(self.config[key], int)
            and not any(isinstance(self.config.get(made), list) for made in _SOURCES_OF_LISTS.get(key, ()))
        ]


def with_settings(config: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with other settings, in the section that states the number of layers."""
    section = _section(config)
    depth, old = configured_depth(changed), configured_depth(section)
    # A config.json may state its depth by another name than transformers does.
    made = {**section, **changed, **{key: depth for key in DEPTH_KEYS if key in section and section[key] == old}}
    return made if section is config else {**config, "text_config": made}


def _section(config: Mapping[str, Any]) -> Mapping[str, Any]:
    text = config.get("text_config")
    own = any(isinstance(config.get(key), int) for key in DEPTH_KEYS)
    return text if isinstance(text, Mapping) and not own else config
