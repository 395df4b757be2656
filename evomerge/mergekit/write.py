"""Recipes as mergekit's merge files, where mergekit can express them.

Groups become slices and filters. What mergekit has no words for is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from evomerge.errors import RecipeError
from evomerge.mergekit.methods import BY_OURS, Counterpart
from evomerge.mergekit.write_slices import (
    conditional,
    expert_to_data,
    slices_to_data,
    source_to_data,
    spelled,
    stacked_to_data,
)
from evomerge.methods.base import Parameter
from evomerge.methods.declared import build_method
from evomerge.recipe.group import Coefficient, Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference


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
    method = build_method(recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed)
    options = dict(method.option)
    recipe = replace(
        recipe, experts={name: expert_to_data(recipe, name, model) for name, model in recipe.experts.items()}
    )
    experts = dict(recipe.experts)
    if counterpart.ours == "scaled":
        chosen = options.pop("model")
        experts = {chosen: recipe.base if chosen == "base" else experts[chosen]}
    base = _base(recipe, counterpart, options, experts)
    settings = _settings(counterpart, options)
    declared = method.parameters
    groups = [_parameters(recipe, group, counterpart, experts, declared) for group in recipe.groups] or [{None: {}}]
    if not recipe.groups and declared:
        groups = [_parameters(recipe, Group(name="all"), counterpart, experts, declared)]

    slices = slices_to_data(recipe)
    listed = dict(experts)
    if base is not None and base not in listed.values():
        listed = {"": base, **listed}
    data: dict[str, Any] = {"merge_method": counterpart.theirs}
    if base is not None:
        data["base_model"] = spelled(base)
    if recipe.slices:
        # Config and tokenizer are the base's, which mergekit knows by this key alone.
        data["base_model"] = spelled(recipe.base if base is None else base)
        data["slices"] = [stacked_to_data(recipe, part, listed, groups, counterpart) for part in slices]
    elif len(slices) == 1:
        data["models"] = [source_to_data(model, name, slices[0], groups) for name, model in listed.items()]
        settings = {**conditional(slices[0], groups, None), **settings}
    else:
        data["slices"] = [
            {
                "sources": [
                    {**source_to_data(model, name, part, groups), "layer_range": [part.first, part.last + 1]}
                    for name, model in listed.items()
                ],
                **({"parameters": shared} if (shared := conditional(part, groups, None)) else {}),
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
    recipe: Recipe,
    group: Group,
    counterpart: Counterpart,
    experts: Mapping[str, ModelReference],
    declared: Sequence[Parameter],
) -> dict[str | None, dict[str, float]]:
    """One group's parameters in mergekit's words: those of each expert by its name, the shared ones under None."""
    values: dict[str, Coefficient] = {
        parameter.name: group.coefficients.get(parameter.name, parameter.default) for parameter in declared
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
