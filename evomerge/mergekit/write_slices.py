"""A recipe's layers and groups, as slices and conditions of a mergekit file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError
from evomerge.files.places import YAML_ENDS
from evomerge.mergekit.methods import Counterpart
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.hub import is_adapter, is_compressed, whereabouts
from evomerge.models.open import open_expert
from evomerge.models.stack import stack
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Slice

_UNTELLING = {"weight", "bias"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adapter(ModelReference):
    """An adapter of the base, which mergekit names together with that."""

    base: ModelReference


@dataclass(frozen=True, slots=True)
class _Slice:
    """Layers first..last with which group each condition gives; the last condition, without filter, holds elsewhere."""

    first: int
    last: int
    conditions: tuple[tuple[str | None, int], ...]


def expert_to_data(recipe: Recipe, name: str, model: ModelReference) -> ModelReference:
    """An expert as mergekit can read it, known for an adapter if it lies on this machine."""
    folder = whereabouts(model).path
    if model.path.endswith(YAML_ENDS) and folder is None:
        raise RecipeError(
            f"recipe: models.experts.{name}: {model.path} is another merge, which mergekit can't read here; make it "
            "with evomerge merge, and name its folder"
        )
    if folder is not None and is_compressed(folder):
        raise RecipeError(f"recipe: models.experts.{name}: mergekit can't read compressed experts such as {model.path}")
    if folder is not None and is_adapter(folder):
        return _Adapter(path=model.path, revision=model.revision, base=recipe.base)
    return model


def slices_to_data(recipe: Recipe) -> tuple[_Slice, ...]:
    """Consecutive layers in which every tensor's group can be told by filters alone."""
    selective = [
        group.layers is not None or group.kinds is not None or group.names is not None for group in recipe.groups
    ]
    alike = not any(selective) or selective[0] is False
    if alike and not recipe.slices:
        return (_Slice(0, 0, ((None, 0),)),)
    checkpoint = Checkpoint.open(recipe.base)
    if recipe.slices:
        resized = recipe.vocabulary != "same"
        experts = {name: open_expert(model, checkpoint, resized=resized) for name, model in recipe.experts.items()}
        checkpoint, _ = stack(checkpoint, experts, recipe.slices, vocabulary=not resized)
    layout = checkpoint.layout
    starts = set(_starts(recipe.slices))
    if alike:
        ends = [*sorted(starts)[1:], layout.depth]
        return tuple(_Slice(first, end - 1, ((None, 0),)) for first, end in zip(sorted(starts), ends, strict=True))
    inside: list[dict[str, int]] = [{} for _ in range(layout.depth)]
    outside: list[dict[str, int]] = [{} for _ in range(layout.depth)]
    for name in checkpoint.names:
        place = layout.place(name)
        chosen = next(
            (index for index, group in enumerate(recipe.groups) if group.contains(place.layer, place.kind, name)), None
        )
        if chosen is None:
            raise RecipeError(f"recipe: groups: no group contains {name}")
        stem = f"{layout.stem}.{place.layer}."
        if name.startswith(stem):
            inside[place.layer][name.removeprefix(stem)] = chosen
        else:
            outside[place.layer][name] = chosen
    firsts = [layer for layer in range(layout.depth) if layer in {0, *starts} or inside[layer] != inside[layer - 1]]
    slices = []
    for first, end in zip(firsts, [*firsts[1:], layout.depth], strict=True):
        around = {**(outside[0] if first == 0 else {}), **(outside[-1] if end == layout.depth else {})}
        names = {f"{layout.stem}.{layer}.{part}": part for layer in range(first, end) for part in inside[first]}
        chosen_of = {name: inside[first][part] for name, part in names.items()} | around
        slices.append(
            _Slice(first, end - 1, _conditions(chosen_of, {**names, **dict(zip(around, around, strict=True))}))
        )
    return tuple(slices)


def _starts(slices: Sequence[Slice]) -> list[int]:
    """The first layer of each slice of a stack, in the stack."""
    starts = [0]
    for part in slices[:-1]:
        first, last = next(iter(part.values()))
        starts.append(starts[-1] + last - first + 1)
    return starts if slices else []


def stacked_to_data(
    recipe: Recipe,
    part: _Slice,
    listed: Mapping[str, ModelReference],
    groups: Sequence[Mapping[str | None, Mapping[str, float]]],
    counterpart: Counterpart,
) -> dict[str, Any]:
    """One slice of a stack, with the layers that each model gives to it."""
    starts = _starts(recipe.slices)
    index = max(number for number, start in enumerate(starts) if start <= part.first)
    chosen = recipe.slices[index]
    if counterpart.ours == "scaled":
        (expert,) = listed
        shown = expert if expert in chosen else next(iter(chosen))
        sources = {expert: (recipe.base if shown == "base" else recipe.experts[shown], chosen[shown])}
    else:
        sources = {}
        for expert, model in listed.items():
            key = expert if expert in chosen else "base" if model == recipe.base else expert
            if key in chosen:
                sources[expert] = (model, chosen[key])
                continue
            weightless = all(groups[group].get(expert, {}).get("weight") == 0.0 for _, group in part.conditions)
            without_task_vector = counterpart.base == "required" and next(iter(chosen)) == "base"
            if not counterpart.takes_absent or not (weightless or without_task_vector):
                advice = "; name it, or set its weight to 0 there" if counterpart.takes_absent and key != "base" else ""
                raise RecipeError(
                    f"recipe: models.slices[{index}]: doesn't name {key}, which mergekit's {counterpart.theirs} needs "
                    f"in every slice{advice}"
                )
    shift = part.first - starts[index]
    length = part.last - part.first + 1
    shared = conditional(part, groups, None)
    return {
        "sources": [
            {
                **source_to_data(model, expert, part, groups),
                "layer_range": [layers[0] + shift, layers[0] + shift + length],
            }
            for expert, (model, layers) in sources.items()
        ],
        **({"parameters": shared} if shared else {}),
    }


def _conditions(groups: Mapping[str, int], labels: Mapping[str, str]) -> tuple[tuple[str | None, int], ...]:
    """Filters that tell each tensor's group, none of which touches another group's tensors.

    Args:
        groups: group by tensor name.
        labels: a tensor's name without its layer, by tensor name.
    """
    default = Counter(groups.values()).most_common(1)[0][0]
    found: dict[str, int] = {}
    for name, group in groups.items():
        if group == default or any(part in name for part in found):
            continue
        label = labels[name]
        parts = [part for part in label.split(".") if part not in _UNTELLING and not part.isdigit()]
        for part in (*parts, label, name):
            if all(other == group for known, other in groups.items() if part in known):
                found[part] = group
                break
        else:
            raise RecipeError(f"recipe: groups: mergekit can't tell {name} from others by a part of its name")
    return (*found.items(), (None, default))


def source_to_data(
    model: ModelReference, expert: str, part: _Slice, groups: Sequence[Mapping[str | None, Mapping[str, float]]]
) -> dict[str, Any]:
    """A model of one slice, with its parameters."""
    parameters = conditional(part, groups, expert)
    return {"model": spelled(model), **({"parameters": parameters} if parameters else {})}


def conditional(
    part: _Slice, groups: Sequence[Mapping[str | None, Mapping[str, float]]], expert: str | None
) -> dict[str, Any]:
    """Parameters of one expert, or the shared ones, in one slice: numbers, or filters where groups differ."""
    *conditions, (_, default) = part.conditions
    found: dict[str, Any] = {}
    for name, value in groups[default].get(expert, {}).items():
        others = [
            {"filter": text, "value": groups[index][expert][name]}
            for text, index in conditions
            if groups[index][expert][name] != value
        ]
        found[name] = [*others, {"value": value}] if others else value
    return found


def spelled(model: ModelReference) -> Any:
    """A model as mergekit spells it; where + or @ in a path would be misread, as a mapping."""
    if isinstance(model, _Adapter):
        whole, adapter = spelled(model.base), spelled(ModelReference(path=model.path, revision=model.revision))
        if isinstance(whole, str) and isinstance(adapter, str):
            return f"{whole}+{adapter}"
        parts = {"model": whole, "lora": adapter}
        return {key: part["model"] if isinstance(part, Mapping) else part for key, part in parts.items()}
    if "+" in model.path or "@" in model.path:
        revision = {} if model.revision is None else {"revision": model.revision}
        return {"model": {"path": model.path, **revision}}
    return model.path if model.revision is None else f"{model.path}@{model.revision}"
