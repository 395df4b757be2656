"""Whether models' layers can be stacked as asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.errors import CheckpointError, RecipeError, listed, unknown
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import sides
from evomerge.models.layer_settings import LayerSettings
from evomerge.recipe.sources import Slice


def checked_slices(where: str, part: Slice, models: Mapping[str, Checkpoint]) -> int:
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


def refuse_other_layers(
    base: Checkpoint, named: Mapping[str, Checkpoint], layers: Mapping[str, list[dict[str, str]]]
) -> None:
    """Refuse models whose layers couldn't stand in the base, whose config the stack has."""
    had: dict[str, set[tuple[int, ...]]] = {}
    for layer in layers_of(base):
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
            f"{stored} {sides(model.tensors[stored].shape)} (base {' or '.join(map(sides, sorted(had[rest])))})"
            for rest, stored in tensors
            if model.tensors[stored].shape not in had[rest]
        ]
        if other:
            raise CheckpointError(f"{where}: its layers have other shapes than the base's: {listed(other)}")


def refuse_other_ends(base: Checkpoint, stacked: Checkpoint, vocabulary: bool) -> None:
    """Refuse tensors outside the layers of other shapes than the base's."""
    exempt = () if vocabulary else base.token_tensors
    other = [
        f"{name} {sides(info.shape)} (base {sides(base.tensors[name].shape)})"
        for name, info in stacked.tensors.items()
        if base.layout.split(name) is None
        and info.shape[1 if name in exempt else 0 :] != base.tensors[name].shape[1 if name in exempt else 0 :]
    ]
    if other:
        raise CheckpointError(
            f"models.slices: what is before and after the layers has other shapes than in the base, whose config the "
            f"stack has: {listed(other)}; models.vocabulary matches models with other tokens"
        )


def refuse_other_kinds(slices: Sequence[Slice], settings: Mapping[str, LayerSettings]) -> None:
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


def layers_of(model: Checkpoint) -> list[dict[str, str]]:
    """The tensors of each layer: stored name by the name within the layer."""
    found: list[dict[str, str]] = [{} for _ in range(model.layout.depth)]
    for name in model.names:
        inside = model.layout.split(name)
        if inside is not None and inside[0] < len(found):
            found[inside[0]][inside[1]] = name
    return found
