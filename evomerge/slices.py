"""Layer stacking: models seen as stacks of slices of layers, left out, repeated, reordered or taken from each other.

Knows where each layer of a stack comes from. Does not know how layers are merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.architecture import DEPTH_KEYS, configured_depth
from evomerge.checkpoint import Checkpoint, TensorInfo, Tokens, match_names
from evomerge.errors import CheckpointError, RecipeError, unknown
from evomerge.recipe import Slice

BASE = "base"

# Settings that list layers by number, and those that make a layer's kind follow from its number.
_LISTS_OF_LAYERS = ("mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers")
_RULES_BY_NUMBER: Mapping[str, tuple[Any, ...]] = {
    "decoder_sparse_step": (0, 1),
    "first_k_dense_replace": (0,),
    "moe_layer_freq": (1,),
    "interleave_moe_layer_step": (0, 1),
    "moe_layer_interval": (0, 1),
    "no_rope_layer_interval": (),
    "attn_layer_period": (),
    "expert_layer_period": (),
    "num_kv_shared_layers": (0,),
    "attention_types": (),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""Each with the values that treat all layers alike."""
_PER_LAYER = re.compile(r"layer|block|heads|intermediate_size|window|rope|sparsity|multipliers")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a tensor of a stack comes from."""

    model: Checkpoint
    name: str


@dataclass(frozen=True, kw_only=True)
class StackedCheckpoint(Checkpoint):
    """A model seen as a stack of slices. Made by `stack`.

    Nothing is copied: a layer that occurs twice is the same mapped memory twice. Tokenizer and files
    are those of the model itself.

    Attributes:
        source: the model without the stack.
        remarks: what the stack is made of, one sentence; empty for experts.
    """

    source: Checkpoint
    remarks: tuple[str, ...]
    _origins: Mapping[str, _Origin] = field(repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "_files"}
        return (_again, (values,))

    def tensor(self, name: str) -> Tensor:
        """One tensor as the model that it comes from gives it. Don't write to it."""
        if name not in self._origins:
            raise CheckpointError(f"{self.folder}: no tensor {name!r} in the stack")
        origin = self._origins[name]
        return origin.model.tensor(origin.name)

    def computes(self, name: str) -> bool:
        """Whether the model that a tensor comes from works it out."""
        origin = self._origins[name]
        return origin.model.computes(origin.name)

    @property
    def as_stored(self) -> bool:
        """False: its folder holds other layers."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the model itself, then what the stack is made of."""
        return (*self.source.notes, *self.remarks)

    def tokens(self) -> Tokens | None:
        """The ids of the model's own tokens."""
        return self.source.tokens()

    def tokenizer(self) -> Any:
        """The model's own tokenizer."""
        return self.source.tokenizer()

    def write_tokenizer(self, folder: Path) -> None:
        """Put the files of the model's own tokenizer into a folder."""
        self.source.write_tokenizer(folder)


def stack(
    base: Checkpoint, experts: Mapping[str, Checkpoint], slices: Sequence[Slice]
) -> tuple[StackedCheckpoint, dict[str, StackedCheckpoint]]:
    """Show base and experts as stacks of the same slices.

    A slice names models, "base" or experts, each with its first and last layer, both included, all as
    many. There, a model shows the layers named for it; one that isn't named shows those of the slice's
    first model, so that it has no task vector. Tensors before the layers belong to the first slice, those
    after them to the last.

    Args:
        base: gives names and config.
        experts: by name.
        slices: in the order of the stack.

    Returns: the base and the experts as stacks, which fit each other if their layers do.

    Raises:
        RecipeError: a slice that names an unknown model, layers that the model hasn't, or unequal numbers.
        CheckpointError: models whose layers differ in kind by a rule that the config states by number.
    """
    models = {BASE: base, **experts}
    counts = [_checked(f"models.slices[{index}]", part, models) for index, part in enumerate(slices)]
    if not counts:
        raise RecipeError("models.slices: name at least one slice of layers")
    for model in models.values():
        _refuse_rules(model)
    depth = sum(counts)
    outside = {name: _outside_names(base, model) for name, model in models.items()}
    infos: dict[tuple[int, str, str], TensorInfo] = {}

    def shown(name: str) -> StackedCheckpoint:
        chosen = [name if name in part else next(iter(part)) for part in slices]
        layers = [
            (source, first + offset)
            for source, part, count in zip(chosen, slices, counts, strict=True)
            for first in (part[source][0],)
            for offset in range(count)
        ]
        origins = {
            tensor: _Origin(models[source], outside[source][tensor])
            for tensor in outside[BASE]
            for source in (chosen[0] if _comes_first(base, tensor) else chosen[-1],)
            if tensor in outside[source]
        }
        for number, (source, layer) in enumerate(layers):
            for tensor in _in_layer(models[source], layer):
                rest = tensor.removeprefix(f"{models[source].layout.stem}.{layer}.")
                origins[f"{base.layout.stem}.{number}.{rest}"] = _Origin(models[source], tensor)
        tensors = {}
        for tensor, origin in origins.items():
            # One object for what is one tensor, so that whoever keeps tensors keeps it once.
            key = (id(origin.model), origin.name, tensor)
            infos.setdefault(key, replace(origin.model.tensors[origin.name], name=tensor))
            tensors[tensor] = infos[key]
        model = models[name]
        return StackedCheckpoint(
            reference=model.reference,
            folder=model.folder,
            config=_config(model.config, [(models[source].config, layer) for source, layer in layers]),
            tensors=tensors,
            source=model,
            remarks=(described(slices, depth),) if name == BASE else (),
            _origins=origins,
        )

    return shown(BASE), {name: shown(name) for name in experts}


def from_path(path: Iterable[tuple[str, int]]) -> tuple[Slice, ...]:
    """Slices for a path through layers, as a search in data-flow space proposes them (Akiba et al. 2024, §3.2).

    The paper also scales the input of each layer. A layer that normalises its input first answers the
    same to a scaled one, and only the residual stream beside it shrinks or grows, which no weight of
    the layer does; what weights can express is a factor on what the layer adds (the method `scaled` on
    groups with names such as o_proj and down_proj).

    Args:
        path: model, "base" or an expert, and layer of each step; layers may repeat and come in any order.

    Raises: RecipeError if the path is empty.
    """
    slices: list[tuple[str, int, int]] = []
    for model, layer in path:
        if slices and slices[-1][0] == model and slices[-1][2] + 1 == layer:
            slices[-1] = (model, slices[-1][1], layer)
        else:
            slices.append((model, layer, layer))
    if not slices:
        raise RecipeError("models.slices: a path needs at least one layer")
    return tuple({model: (first, last)} for model, first, last in slices)


def described(slices: Sequence[Slice], depth: int) -> str:
    """One sentence on a stack, such as "24 layers: base 0-15, maths 8-15"."""
    parts = [" with ".join(f"{model} {first}-{last}" for model, (first, last) in part.items()) for part in slices]
    return f"{depth} layers: {', '.join(parts)}"


def _again(values: dict[str, Any]) -> StackedCheckpoint:
    return StackedCheckpoint(**values)


def _checked(where: str, part: Slice, models: Mapping[str, Checkpoint]) -> int:
    """The number of layers of a slice. Raises: RecipeError."""
    counts = {}
    for name, (first, last) in part.items():
        if name not in models:
            raise RecipeError(f"{where}: {unknown('model', name, models)}")
        depth = models[name].layout.depth
        if models[name].layout.stem is None:
            raise RecipeError(f"{where}.{name}: {models[name].folder} has no layers to stack")
        if not 0 <= first <= last < depth:
            raise RecipeError(f"{where}.{name}: layers {first} to {last}, but it has layers 0 to {depth - 1}")
        counts[name] = last - first + 1
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no model"
        raise RecipeError(f"{where}: layers of one slice are merged with each other, so as many of each: {found}")
    return next(iter(counts.values()))


def _refuse_rules(model: Checkpoint) -> None:
    if model.config.get("is_encoder_decoder"):
        raise CheckpointError(f"{model.folder}: has an encoder and a decoder; slices would be ambiguous")
    for section in _sections(model.config):
        for key, harmless in _RULES_BY_NUMBER.items():
            value = section.get(key)
            if value is not None and value not in harmless and not _per_layer(section, key):
                raise CheckpointError(
                    f"{model.folder}: config.json: {key} {value!r} makes layers differ by their number; stacking them "
                    "otherwise isn't supported"
                )


def _outside_names(base: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """For each tensor of the base outside its layers, the model's name of it. Raises: CheckpointError."""
    return match_names(_without_layers(base), _without_layers(model))


def _without_layers(model: Checkpoint) -> Checkpoint:
    inside = f"{model.layout.stem}."
    return Checkpoint(
        reference=model.reference,
        folder=model.folder,
        config=model.config,
        tensors={name: info for name, info in model.tensors.items() if not name.startswith(inside)},
    )


def _comes_first(base: Checkpoint, tensor: str) -> bool:
    """Whether a tensor outside the layers is before them; other stacks, such as a vision tower's, are."""
    return base.layout.place(tensor).layer == 0 or any(part.isdigit() for part in tensor.split("."))


def _in_layer(model: Checkpoint, layer: int) -> list[str]:
    prefix = f"{model.layout.stem}.{layer}."
    return [name for name in model.names if name.startswith(prefix)]


def _sections(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The config and, where there is one, its part for the language model."""
    text = config.get("text_config")
    return [config, *([text] if isinstance(text, Mapping) else [])]


def _config(config: Mapping[str, Any], layers: Sequence[tuple[Mapping[str, Any], int]]) -> dict[str, Any]:
    """A config for a stack: its depth, and for every setting that has an entry per layer those of the layers' own."""
    made = _section(config, [(dict(source), layer) for source, layer in layers])
    if isinstance(text := config.get("text_config"), Mapping):
        made["text_config"] = _section(text, [(dict(source["text_config"]), layer) for source, layer in layers])
    return made


def _section(section: Mapping[str, Any], layers: Sequence[tuple[dict[str, Any], int]]) -> dict[str, Any]:
    made = dict(section)
    stated = configured_depth({key: section[key] for key in DEPTH_KEYS if key in section})
    if stated is None:
        return made
    kinds = [_layer_types(source) for source, _ in layers]
    for key, value in section.items():
        if key in DEPTH_KEYS and value == stated:
            made[key] = len(layers)
        elif key in _LISTS_OF_LAYERS and value:
            made[key] = [number for number, (source, layer) in enumerate(layers) if layer in source[key]]
        elif _per_layer(section, key):
            made[key] = [source[key][layer] for source, layer in layers]
    if all(kind is not None for kind in kinds):
        made["layer_types"] = [kind[layer] for kind, (_, layer) in zip(kinds, layers, strict=True) if kind is not None]
    return made


def _per_layer(section: Mapping[str, Any], key: str) -> bool:
    """Whether a setting is a list with one entry per layer."""
    value, depth = section.get(key), configured_depth(section)
    listing = isinstance(value, list) and len(value) == depth and key not in _LISTS_OF_LAYERS
    return listing and bool(_PER_LAYER.search(key))


def _layer_types(section: Mapping[str, Any]) -> list[str] | None:
    """Each layer's kind of attention, as transformers finds it from whatever the config says."""
    from transformers import AutoConfig

    try:
        found = getattr(AutoConfig.for_model(**section), "layer_types", None)
    except Exception:
        return None
    return list(found) if found else None


__all__ = ["StackedCheckpoint", "described", "from_path", "stack"]
