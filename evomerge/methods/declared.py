"""A recipe's options and coefficients, checked against what its method declares."""

from __future__ import annotations

import math
from typing import Any

from evomerge.errors import EvomergeError, RecipeError, UnknownNameError, unknown
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod, Option, Parameter
from evomerge.recipe.recipe import Recipe

FLOATING = ("float32", "bfloat16", "float16", "float64")
"""dtypes that a recipe may ask for, beside "auto"."""


def method_of(recipe: Recipe) -> type[MergeMethod]:
    """The class of a recipe's method. Raises: RecipeError if unknown or not made for as many experts."""
    try:
        method: type[MergeMethod] = METHODS.get(recipe.method)
    except UnknownNameError as error:
        raise RecipeError(f"recipe: method: {error}") from error
    count = len(recipe.experts)
    if count < method.min_experts:
        raise RecipeError(f"recipe: models.experts: {recipe.method} merges at least {method.min_experts}, got {count}")
    if method.max_experts is not None and count > method.max_experts:
        raise RecipeError(f"recipe: models.experts: {recipe.method} merges at most {method.max_experts}, got {count}")
    return method


def checked_options(recipe: Recipe) -> dict[str, Any]:
    """A value for every option that the recipe's method declares, defaults filled in.

    Raises: RecipeError for an unknown option or a value that the method doesn't take.
    """
    method = method_of(recipe)
    declared = {option.name: option for option in method.options}
    for name in recipe.options:
        if name not in declared:
            raise RecipeError(f"recipe: options: {unknown('option', str(name), declared)}")
    options = {
        name: _checked_option(f"recipe: options.{name}", recipe.options.get(name, option.default), option)
        for name, option in declared.items()
    }
    try:
        method(options, experts=tuple(recipe.experts), seed=recipe.seed)
    except RecipeError:
        raise
    except EvomergeError as error:
        raise RecipeError(f"recipe: options: {error}") from error
    return options


def _checked_option(where: str, value: Any, option: Option) -> Any:
    kind = type(option.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{where}: expected {kind.__name__}, got {value!r}")
    if option.choices is not None and value not in option.choices:
        raise RecipeError(f"{where}: {value!r} is none of {', '.join(map(repr, option.choices))}")
    if not isinstance(value, str):
        check_range(where, value, option)
    return value


def check_range(where: str, number: float, declared: Option | Parameter) -> None:
    """Refuse a number outside what is declared. Raises: RecipeError."""
    if not math.isfinite(number):
        raise RecipeError(f"{where}: {number} is not a finite number")
    if declared.minimum is not None and number < declared.minimum:
        raise RecipeError(f"{where}: {number:g} is below {declared.minimum:g}, the least it may be")
    if declared.maximum is not None and number > declared.maximum:
        raise RecipeError(f"{where}: {number:g} is above {declared.maximum:g}, the most it may be")
