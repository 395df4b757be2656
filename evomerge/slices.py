"""Layer stacking: models seen as stacks of slices of layers, left out, repeated, reordered or taken from each other.

Knows where each layer of a stack comes from. Does not know how layers are merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evomerge.checkpoint import Checkpoint, TensorInfo, Tokens, match_outer_names
from evomerge.errors import CheckpointError, RecipeError, listed, unknown
from evomerge.layer_settings import LayerSettings, with_settings
from evomerge.recipe import Group, Slice

BASE = "base"

BRANCH_OUTPUTS = ("o_proj", "down_proj")
"""Parts of the names of the tensors that end a layer's branches, in Llama and its relatives."""


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
    counts = [_checked(f"models.slices[{index}]", part, models) for index, part in enumerate(slices)]
    if not counts:
        raise RecipeError("models.slices: name at least one slice of layers")
    named = {name: models[name] for name in dict.fromkeys([BASE, *(name for part in slices for name in part)])}
    for model in named.values():
        if model.config.get("is_encoder_decoder"):
            raise CheckpointError(f"{model.folder}: has an encoder and a decoder; slices would be ambiguous")
        if model.layout.stem is None:
            raise CheckpointError(f"{model.folder}: has no layers to stack")
    inside = {name: _layers(model) for name, model in named.items()}
    _refuse_other_layers(base, named, inside)
    settings = {name: LayerSettings.of(model) for name, model in named.items()}
    _refuse_other_kinds(slices, settings)
    at_ends = dict.fromkeys([BASE, *slices[0], *slices[-1]])
    outside = {name: match_outer_names(base, models[name]) for name in at_ends}

    def layers_of(name: str) -> list[tuple[str, int]]:
        shown = [name if name in part else next(iter(part)) for part in slices]
        return [
            (source, part[source][0] + offset)
            for source, part, count in zip(shown, slices, counts, strict=True)
            for offset in range(count)
        ]

    try:
        changed = settings[BASE].restacked([(settings[source], layer) for source, layer in layers_of(BASE)])
    except CheckpointError as error:
        raise CheckpointError(f"{base.folder}: {error}") from error
    depth = sum(counts)
    idle = tuple(f"expert {name!r} is in no slice, so it takes no part" for name in experts if name not in named)
    infos: dict[tuple[int, str, str], TensorInfo] = {}

    def shown(name: str) -> StackedCheckpoint:
        origins = {}
        for tensor in outside[BASE]:
            part = slices[0] if _comes_first(base, tensor) else slices[-1]
            source = name if name in part else next(iter(part))
            origins[tensor] = _Origin(models[source], outside[source][tensor])
        for number, (source, layer) in enumerate(layers_of(name)):
            for rest, tensor in inside[source][layer].items():
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
            config=with_settings(base.config if name == BASE else model.config, changed),
            tensors=tensors,
            source=model,
            remarks=(described(slices, depth), *idle) if name == BASE else (),
            _origins=origins,
        )

    stacked = shown(BASE)
    _refuse_other_ends(base, stacked, vocabulary)
    return stacked, {name: shown(name) for name in experts}


def from_path(path: Iterable[tuple[str, int]]) -> tuple[Slice, ...]:
    """Slices for a path through layers, as a search in data-flow space proposes them (Akiba et al. 2024, §3.2).

    `scaled_groups` gives the paper's scaling of inputs.

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


def scaled_groups(
    input_scales: Sequence[float],
    *,
    outputs: Sequence[str] = BRANCH_OUTPUTS,
) -> tuple[Group, ...]:
    """Groups for the method `scaled` that scale the input of each layer of a path (Akiba et al. 2024, §3.2).

    The paper's layer k computes x ← w·x + f(w·x), which no weight of it does by itself. But where each branch
    normalises its input and the model its last state, lengths of the residual stream don't matter: f(w·x) = f(x), and
    with c the product of the scales so far, y = x / c follows y ← y + f(y) / c. So the tensors that end the layer's
    branches are divided by c, which is exact but for the norms' epsilon. A scale of 0 or below, and models that
    normalise what a branch returns (Gemma 2 and 3, OLMo 2) or nothing before it, would need a factor of its own
    in each layer, which a checkpoint of their architecture can't hold.

    A factor on what a layer adds, x ← x + s·f(x), is one group by those names with the scale s.

    Args:
        input_scales: of each layer of the path, above 0.
        outputs: parts of the names of the tensors that end a layer's branches; their biases are divided too.

    Returns: groups for the layers whose scale isn't 1, and a last one that leaves everything else.

    Raises: RecipeError for a scale that isn't a number above 0, and without outputs.
    """
    if not outputs:
        raise RecipeError("outputs: name the tensors that end a layer's branches, such as o_proj and down_proj")
    groups = []
    length = 1.0
    for layer, scale in enumerate(input_scales):
        if not (0.0 < scale < math.inf):
            raise RecipeError(f"input_scales[{layer}]: {scale}: only scales above 0 can be had by dividing outputs")
        length *= scale
        if length != 1.0:
            groups += [
                Group(
                    name=f"layer {layer}, {part}",
                    layers=(layer, layer),
                    names=(part,),
                    coefficients={"scale": 1.0 / length},
                )
                for part in outputs
            ]
    return (*groups, Group(name="rest", coefficients={"scale": 1.0}))


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


def _refuse_other_layers(
    base: Checkpoint, named: Mapping[str, Checkpoint], layers: Mapping[str, list[dict[str, str]]]
) -> None:
    """Refuse models whose layers couldn't stand in the base, whose config the stack has."""
    had: dict[str, set[tuple[int, ...]]] = {}
    for layer in _layers(base):
        for rest, stored in layer.items():
            had.setdefault(rest, set()).add(base.tensors[stored].shape)
    for name, model in named.items():
        where = f"models.slices: {name}: {model.folder}"
        if base.model_type != model.model_type:
            raise CheckpointError(
                f"{where}: is a {model.model_type}, the base a {base.model_type}; stack layers of one"
            )
        tensors = [(rest, stored) for layer in layers[name] for rest, stored in layer.items()]
        if unknown_here := list(dict.fromkeys(rest for rest, _ in tensors if rest not in had)):
            raise CheckpointError(f"{where}: its layers have {listed(unknown_here)}, which the base's haven't")
        other = [
            f"{stored} {_sides(model.tensors[stored].shape)} (base {' or '.join(map(_sides, sorted(had[rest])))})"
            for rest, stored in tensors
            if model.tensors[stored].shape not in had[rest]
        ]
        if other:
            raise CheckpointError(f"{where}: its layers have other shapes than the base's: {listed(other)}")


def _refuse_other_ends(base: Checkpoint, stacked: Checkpoint, vocabulary: bool) -> None:
    exempt = () if vocabulary else base.token_tensors
    other = [
        f"{name} {_sides(info.shape)} (base {_sides(base.tensors[name].shape)})"
        for name, info in stacked.tensors.items()
        if base.layout.split(name) is None
        and info.shape[1 if name in exempt else 0 :] != base.tensors[name].shape[1 if name in exempt else 0 :]
    ]
    if other:
        raise CheckpointError(
            f"models.slices: what is before and after the layers has other shapes than in the base, whose config the "
            f"stack has: {listed(other)}; models.vocabulary matches models with other tokens"
        )


def _refuse_other_kinds(slices: Sequence[Slice], settings: Mapping[str, LayerSettings]) -> None:
    """Refuse to merge layers of different kinds, such as one with a sliding window and one without."""
    for index, part in enumerate(slices):
        (model, (start, end)), *others = part.items()
        for offset in range(end - start + 1):
            expected = settings[model].of_layer(start + offset)
            for name, (first, _) in others:
                found = settings[name].of_layer(first + offset)
                for key in dict.fromkeys([*expected, *found]):
                    if expected.get(key) != found.get(key):
                        raise CheckpointError(
                            f"models.slices[{index}]: layer {start + offset} of {model} and layer {first + offset} of "
                            f"{name} are of different kinds and can't be merged: {key} is {expected.get(key)!r} and "
                            f"{found.get(key)!r}"
                        )


def _layers(model: Checkpoint) -> list[dict[str, str]]:
    """The tensors of each layer: stored name by the name within the layer."""
    found: list[dict[str, str]] = [{} for _ in range(model.layout.depth)]
    for name in model.names:
        inside = model.layout.split(name)
        if inside is not None and inside[0] < len(found):
            found[inside[0]][inside[1]] = name
    return found


def _comes_first(base: Checkpoint, tensor: str) -> bool:
    """Whether a tensor outside the layers is before them; other stacks, such as a vision tower's, are."""
    return base.layout.is_before(tensor) or any(part.isdigit() for part in tensor.split("."))


def _sides(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"


__all__ = ["BRANCH_OUTPUTS", "StackedCheckpoint", "described", "from_path", "scaled_groups", "stack"]
