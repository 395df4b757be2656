"""Layer stacking: models seen as stacks of slices of layers, left out, repeated, reordered or taken from each other.

Knows where each layer of a stack comes from. Does not know how layers are merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge.errors import CheckpointError, RecipeError
from evomerge.kernels.raw import RawTensor
from evomerge.late import Tensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import TensorInfo
from evomerge.models.layer_settings import LayerSettings, with_settings
from evomerge.models.names import match_outer_names
from evomerge.models.seen import SeenCheckpoint
from evomerge.models.stack_checks import (
    checked_slices,
    layers_of,
    refuse_other_ends,
    refuse_other_kinds,
    refuse_other_layers,
)
from evomerge.recipe.layer_path import BRANCH_OUTPUTS, from_path, scaled_groups
from evomerge.recipe.sources import Slice

BASE = "base"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor of a stack comes from."""

    model: Checkpoint
    name: str


@dataclass(frozen=True, kw_only=True)
class StackedCheckpoint(SeenCheckpoint):
    """A model seen as a stack of slices. Made by `stack`.

    Nothing is copied: a layer that occurs twice is the same mapped memory twice. Tokenizer and files
    are those of the model itself.

    Attributes:
        source: the model without the stack.
        remarks: what the stack is made of, one sentence; empty for experts.
    """

    _origins: Mapping[str, Origin] = field(repr=False)

    def origin(self, name: str) -> Origin:
        """Where one of its tensors comes from."""
        return self._origins[name]

    def tensor(self, name: str) -> Tensor:
        """One tensor as the model that it comes from gives it. Don't write to it."""
        if name not in self._origins:
            raise CheckpointError(f"{self.folder}: no tensor {name!r} in the stack")
        origin = self._origins[name]
        return origin.model.tensor(origin.name)

    def raw(self, name: str) -> RawTensor:
        """The same as `tensor` has it."""
        if name not in self._origins:
            raise CheckpointError(f"{self.folder}: no tensor {name!r} in the stack")
        origin = self._origins[name]
        return origin.model.raw(origin.name)

    def computes(self, name: str) -> bool:
        """Whether the model that a tensor comes from works it out."""
        origin = self._origins[name]
        return origin.model.computes(origin.name)


def stack(
    base: Checkpoint, experts: Mapping[str, Checkpoint], slices: Sequence[Slice], *, vocabulary: bool = True
) -> tuple[StackedCheckpoint, dict[str, StackedCheckpoint]]:
    """Show base and experts as stacks of the same slices.

    A slice names models, "base" or experts, each with its first and last layer, both included, all as
    many. There, a model shows the layers named for it; one that isn't named shows those of the slice's
    first model, so that it has no task vector. Tensors before the layers belong to the first slice, those
    after them to the last.

    Args:
        base: gives names and config, and needn't be in any slice.
        experts: by name; of any depth.
        slices: in the order of the stack.
        vocabulary: False leaves out whether embedding and head have as many rows as the base's.

    Returns: the base and the experts as stacks, which fit each other if their layers do.

    Raises:
        RecipeError: a slice that names an unknown model, layers that the model hasn't, or unequal numbers.
        CheckpointError: models whose layers have other tensors or shapes than the base's, a slice of layers of
            different kinds, or kinds that the config states by a rule that the stack breaks.
    """
    models = {BASE: base, **experts}
    counts = [checked_slices(f"models.slices[{index}]", part, models) for index, part in enumerate(slices)]
    if not counts:
        raise RecipeError("models.slices: name at least one slice of layers")
    named = {name: models[name] for name in dict.fromkeys([BASE, *(name for part in slices for name in part)])}
    for model in named.values():
        if model.config.get("is_encoder_decoder"):
            raise CheckpointError(f"{model.folder}: has an encoder and a decoder; slices would be ambiguous")
        if model.layout.stem is None:
            raise CheckpointError(f"{model.folder}: has no layers to stack")
    inside = {name: layers_of(model) for name, model in named.items()}
    refuse_other_layers(base, named, inside)
    settings = {name: LayerSettings.of(model) for name, model in named.items()}
    refuse_other_kinds(slices, settings)
    at_ends = dict.fromkeys([BASE, *slices[0], *slices[-1]])
    outside = {name: match_outer_names(base, models[name]) for name in at_ends}

    # What transformers leaves unread and one of these models lacks is left out.
    shared = [tensor for tensor in outside[BASE] if all(tensor in outside[name] for name in at_ends)]

    def used_layers(name: str) -> list[tuple[str, int]]:
        shown = [name if name in part else next(iter(part)) for part in slices]
        return [
            (source, part[source][0] + offset)
            for source, part, count in zip(shown, slices, counts, strict=True)
            for offset in range(count)
        ]

    try:
        changed = settings[BASE].restacked([(settings[source], layer) for source, layer in used_layers(BASE)])
    except CheckpointError as error:
        raise CheckpointError(f"{base.folder}: {error}") from error
    depth = sum(counts)
    idle = tuple(f"expert {name!r} is in no slice, so it takes no part" for name in experts if name not in named)
    infos: dict[tuple[int, str, str], TensorInfo] = {}

    def shown(name: str) -> StackedCheckpoint:
        origins = {}
        for tensor in shared:
            part = slices[0] if _comes_first(base, tensor) else slices[-1]
            source = name if name in part else next(iter(part))
            origins[tensor] = Origin(models[source], outside[source][tensor])
        for number, (source, layer) in enumerate(used_layers(name)):
            for rest, tensor in inside[source][layer].items():
                origins[f"{base.layout.stem}.{number}.{rest}"] = Origin(models[source], tensor)
        tensors = {}
        for tensor, origin in origins.items():
            # One object for what is one tensor, so that whoever keeps tensors keeps it once.
            key = (id(origin.model), origin.name, tensor)
            infos.setdefault(key, replace(origin.model.tensors[origin.name], name=tensor))
            tensors[tensor] = infos[key]
        model = models[name]
        used = {origin.name for origin in origins.values() if origin.model is model}
        unused = {
            own: "in layers that no slice names" if model.layout.split(own) else model.unread.get(own, "in no slice")
            for own in model.names
            if own not in used
        }
        return StackedCheckpoint(
            reference=model.reference,
            folder=model.folder,
            config=with_settings(base.config if name == BASE else model.config, changed),
            tensors=tensors,
            ignored={**model.ignored, **unused},
            source=model,
            remarks=(described(slices, depth), *idle) if name == BASE else (),
            _origins=origins,
        )

    stacked = shown(BASE)
    refuse_other_ends(base, stacked, vocabulary)
    return stacked, {name: shown(name) for name in experts}


def described(slices: Sequence[Slice], depth: int) -> str:
    """One sentence on a stack, such as "24 layers: base 0-15, maths 8-15"."""
    parts = [" with ".join(f"{model} {first}-{last}" for model, (first, last) in part.items()) for part in slices]
    return f"{depth} layers: {', '.join(parts)}"


def _comes_first(base: Checkpoint, tensor: str) -> bool:
    """Whether a tensor outside the layers is before them; other stacks, such as a vision tower's, are."""
    return base.layout.is_before(tensor) or any(part.isdigit() for part in tensor.split("."))


__all__ = ["BRANCH_OUTPUTS", "StackedCheckpoint", "described", "from_path", "scaled_groups", "stack"]
