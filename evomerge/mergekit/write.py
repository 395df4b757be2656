"""Recipes as mergekit's merge files, where mergekit can express them.

Groups become slices and filters. What mergekit has no words for is refused with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from evomerge.checkpoint import Checkpoint, is_adapter, is_compressed, whereabouts
from evomerge.errors import RecipeError
from evomerge.materialise import checked_options, method_of
from evomerge.mergekit.methods import BY_OURS, Counterpart
from evomerge.models import open_expert
from evomerge.recipe import Coefficient, Group, ModelReference, Recipe, Slice
from evomerge.slices import stack

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


def to_mergekit(recipe: Recipe) -> str:
    """A recipe as a mergekit merge file, which reads back as the same merge.

    Models are opened where their layers and tensor names are needed: if groups select tensors or layers are stacked.

    Args:
        recipe: the merge. Where mergekit draws entries at random, it will draw others; a comment says so.

    Raises: RecipeError if mergekit has no such method, option, coefficient, kind of expert or way to select a group's
        tensors.
    """
    counterpart = BY_OURS.get("scaled" if recipe.method == "passthrough" else recipe.method)
    if counterpart is None:
        raise RecipeError(
            f"recipe: method: mergekit has no counterpart of {recipe.method}; it has those of {', '.join(BY_OURS)}"
        )
    options = checked_options(recipe)
    recipe = replace(recipe, experts={name: _expert(recipe, name, model) for name, model in recipe.experts.items()})
    experts = dict(recipe.experts)
    if counterpart.ours == "scaled":
        chosen = options.pop("model")
        experts = {chosen: recipe.base if chosen == "base" else experts[chosen]}
    base = _base(recipe, counterpart, options, experts)
    settings = _settings(counterpart, options)
    groups = [_parameters(recipe, group, counterpart, experts) for group in recipe.groups] or [{None: {}}]
    if not recipe.groups and method_of(recipe).parameters:
        groups = [_parameters(recipe, Group(name="all"), counterpart, experts)]

    slices = _slices(recipe)
    listed = dict(experts)
    if base is not None and base not in listed.values():
        listed = {"": base, **listed}
    data: dict[str, Any] = {"merge_method": counterpart.theirs}
    if base is not None:
        data["base_model"] = _spelled(base)
    if recipe.slices:
        # Config and tokenizer are the base's, which mergekit knows by this key alone.
        data["base_model"] = _spelled(recipe.base if base is None else base)
        data["slices"] = [_stacked(recipe, part, listed, groups, counterpart) for part in slices]
    elif len(slices) == 1:
        data["models"] = [_source(model, name, slices[0], groups) for name, model in listed.items()]
        settings = {**_conditional(slices[0], groups, None), **settings}
    else:
        data["slices"] = [
            {
                "sources": [
                    {**_source(model, name, part, groups), "layer_range": [part.first, part.last + 1]}
                    for name, model in listed.items()
                ],
                **({"parameters": shared} if (shared := _conditional(part, groups, None)) else {}),
            }
            for part in slices
        ]
    if settings:
        data["parameters"] = settings
    if recipe.vocabulary != "same":
        if base is None and recipe.base != next(iter(listed.values())):
            raise RecipeError(
                f"recipe: models.vocabulary: mergekit's {counterpart.theirs} knows no base here whose tokens come first"
            )
        data["tokenizer_source"] = recipe.vocabulary
    if recipe.dtype != "auto":
        data["dtype"] = "float64" if recipe.dtype == "float64" else "float32"
        data["out_dtype"] = recipe.dtype
    note = "# mergekit draws other random entries, so its result agrees in distribution only.\n"
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return (note if counterpart.random else "") + text


def _base(
    recipe: Recipe, counterpart: Counterpart, options: dict[str, Any], experts: Mapping[str, ModelReference]
) -> ModelReference | None:
    """The base that the file names; takes the option that says so out of `options`."""
    models = list(experts.values())
    for name, model in experts.items():
        if models.count(model) > 1:
            raise RecipeError(
                f"recipe: models.experts.{name}: mergekit merges each model once; {model.path} is repeated"
            )
    if counterpart.ours == "slerp":
        return models[0]
    if counterpart.base == "ignored":
        return recipe.base if recipe.base in models else None
    if counterpart.base == "optional" and options.pop("origin") == "zero":
        return None
    if recipe.base in models:
        raise RecipeError("recipe: models.experts: mergekit doesn't merge the base with itself; leave it out")
    return recipe.base


def _settings(counterpart: Counterpart, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the whole merge in mergekit's words. Raises: RecipeError for one that it hasn't."""
    found: dict[str, Any] = {}
    left = dict(options)
    for name, value in counterpart.options.items():
        if left.pop(name, value) != value:
            raise RecipeError(f"recipe: options.{name}: mergekit's {counterpart.theirs} has {value!r} only")
    if counterpart.ours == "nuslerp":
        along = left.pop("along")
        found = {} if along == "tensor" else {"nuslerp_flatten": False, "nuslerp_row_wise": along == "columns"}
        return found
    for name, switch in counterpart.switches.items():
        if switch.ours is None:
            continue
        value = left.pop(switch.ours)
        values = {value: value} if switch.values is None else {ours: theirs for theirs, ours in switch.values.items()}
        if value not in values:
            raise RecipeError(
                f"recipe: options.{switch.ours}: mergekit's {counterpart.theirs} has no {value!r}; "
                f"it has {', '.join(map(repr, values))}"
            )
        if values[value] != switch.default:
            found[name] = values[value]
    for name, value in left.items():
        raise RecipeError(f"recipe: options.{name}: mergekit's {counterpart.theirs} has no counterpart of {value!r}")
    return found


def _parameters(
    recipe: Recipe, group: Group, counterpart: Counterpart, experts: Mapping[str, ModelReference]
) -> dict[str | None, dict[str, float]]:
    """One group's parameters in mergekit's words: those of each expert by its name, the shared ones under None."""
    values: dict[str, Coefficient] = {
        parameter.name: group.coefficients.get(parameter.name, parameter.default)
        for parameter in method_of(recipe).parameters
    }

    def of(ours: str, expert: str | None) -> float:
        value = values.get(ours, 1.0)
        return float(value[str(expert)] if isinstance(value, Mapping) else value)

    for name, fixed in counterpart.fixed.items():
        if any(of(name, expert) != fixed for expert in recipe.experts):
            raise RecipeError(
                f"recipe: groups ({group.name}): coefficients.{name}: "
                f"mergekit's {counterpart.theirs} has {fixed:g} only"
            )
    found: dict[str | None, dict[str, float]] = {
        expert: {name: of(number.ours, expert) for name, number in counterpart.per_model.items()} for expert in experts
    }
    if recipe.method == "passthrough":
        found = {expert: {} for expert in experts}
    found[None] = {name: of(number.ours, None) for name, number in counterpart.shared.items()}
    return found


def _expert(recipe: Recipe, name: str, model: ModelReference) -> ModelReference:
    """An expert as mergekit can read it, known for an adapter if it lies on this machine."""
    folder = whereabouts(model).path
    if folder is not None and is_compressed(folder):
        raise RecipeError(f"recipe: models.experts.{name}: mergekit can't read compressed experts such as {model.path}")
    if folder is not None and is_adapter(folder):
        return _Adapter(path=model.path, revision=model.revision, base=recipe.base)
    return model


def _slices(recipe: Recipe) -> tuple[_Slice, ...]:
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


def _stacked(
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
    shared = _conditional(part, groups, None)
    return {
        "sources": [
            {
                **_source(model, expert, part, groups),
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


def _source(
    model: ModelReference, expert: str, part: _Slice, groups: Sequence[Mapping[str | None, Mapping[str, float]]]
) -> dict[str, Any]:
    parameters = _conditional(part, groups, expert)
    return {"model": _spelled(model), **({"parameters": parameters} if parameters else {})}


def _conditional(
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


def _spelled(model: ModelReference) -> Any:
    """A model as mergekit spells it; where + or @ in a path would be misread, as a mapping."""
    if isinstance(model, _Adapter):
        whole, adapter = _spelled(model.base), _spelled(ModelReference(path=model.path, revision=model.revision))
        if isinstance(whole, str) and isinstance(adapter, str):
            return f"{whole}+{adapter}"
        parts = {"model": whole, "lora": adapter}
        return {key: part["model"] if isinstance(part, Mapping) else part for key, part in parts.items()}
    if "+" in model.path or "@" in model.path:
        revision = {} if model.revision is None else {"revision": model.revision}
        return {"model": {"path": model.path, **revision}}
    return model.path if model.revision is None else f"{model.path}@{model.revision}"
