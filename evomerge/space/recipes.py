"""Recipes read for their coefficients: what a tensor of a given place has, and whether two merge alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import RecipeError
from evomerge.methods.declared import build_method, checked_coefficients
from evomerge.recipe.recipe import Recipe
from evomerge.space.groups import Place

_ALIKE = 1e-9
"""Relative difference of coefficients that rounding explains."""


def coefficients_at(recipe: Recipe, places: Sequence[Place]) -> list[Mapping[str, NDArray[np.float64]]] | None:
    """The coefficients of a tensor of each place, defaults filled in; None where that can't be said.

    Raises: RecipeError for a method or coefficients that there aren't.
    """
    experts = tuple(recipe.experts)
    method = type(build_method(recipe.method, recipe.options, experts=experts, seed=recipe.seed))
    groups = [
        checked_coefficients(f"recipe: groups[{index}]", group.coefficients, method, experts)
        for index, group in enumerate(recipe.groups)
    ]
    found: list[Mapping[str, NDArray[np.float64]]] = []
    for layer, kind, *text in places:
        for group, coefficients in zip(recipe.groups, groups, strict=True):
            if group.contains(layer, kind, *text):
                found.append(coefficients)
                break
            # Which tensors of a place a text in names selects isn't known, unless places are told apart by it.
            if group.names is not None and not text and replace(group, names=None).contains(layer, kind):
                return None
        else:
            if method.parameters:
                return None
            found.append({})
    return found


def same_but_groups(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes differ in their groups alone, options with their defaults filled in."""
    try:
        first, second = (
            replace(
                recipe,
                groups=(),
                options=build_method(
                    recipe.method, recipe.options, experts=tuple(recipe.experts), seed=recipe.seed
                ).option,
            )
            for recipe in (one, other)
        )
    except RecipeError:
        return False
    return first.key() == second.key()


def merge_alike(one: Recipe, other: Recipe, places: Sequence[Place]) -> bool:
    """Whether tensors of all places get the same coefficients of the same method, but for rounding."""
    if not same_but_groups(one, other):
        return False
    ours, theirs = coefficients_at(one, places), coefficients_at(other, places)
    if ours is None or theirs is None:
        return False
    return all(
        np.allclose(first[name], second[name], rtol=_ALIKE, atol=_ALIKE)
        for first, second in zip(ours, theirs, strict=True)
        for name in first
    )
