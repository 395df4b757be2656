"""Options and coefficients, checked against what a merge method declares.

Knows methods and names. Does not know recipes, files or models; messages say "recipe:" since that is where people
write what is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import EvomergeError, RecipeError, UnknownNameError, unknown
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod, Option, Parameter


def method_class(name: str, num_experts: int) -> type[MergeMethod]:
    """The class of a merge method. Raises: RecipeError if unknown or not made for as many experts."""
    try:
        method: type[MergeMethod] = METHODS.get(name)
    except UnknownNameError as error:
        raise RecipeError(f"recipe: method: {error}") from error
    if num_experts < method.min_experts:
        raise RecipeError(f"recipe: models.experts: {name} merges at least {method.min_experts}, got {num_experts}")
    if method.max_experts is not None and num_experts > method.max_experts:
        raise RecipeError(f"recipe: models.experts: {name} merges at most {method.max_experts}, got {num_experts}")
    return method


def build_method(name: str, options: Mapping[str, Any], *, experts: Sequence[str], seed: int) -> MergeMethod:
    """A method with a checked value for every option that it declares, defaults filled in.

    Args:
        name: in the registry of methods.
        options: those that aren't to have their defaults.
        experts: names, in config order.
        seed: for methods that draw.

    Raises: RecipeError for an unknown method or option, a value that the method doesn't take, or as many experts.
    """
    method = method_class(name, len(experts))
    declared = {option.name: option for option in method.options}
    for option_name in options:
        if option_name not in declared:
            raise RecipeError(f"recipe: options: {unknown('option', str(option_name), declared)}")
    checked = {
        option.name: _checked_option(f"recipe: options.{option.name}", options.get(option.name, option.default), option)
        for option in method.options
    }
    try:
        return method(checked, experts=tuple(experts), seed=seed)
    except RecipeError:
        raise
    except EvomergeError as error:
        raise RecipeError(f"recipe: options: {error}") from error


def checked_coefficients(
    where: str, values: Mapping[str, float | Mapping[str, float]], method: type[MergeMethod], experts: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """A value for every coefficient that a method declares, defaults filled in.

    Args:
        where: the place of `values`, for messages.
        values: one number for each coefficient, or one for each expert by its name.
        method: declares them.
        experts: names, in config order.

    Returns: by name, an array of shape (num_experts,) for a coefficient per expert, else ().
    Raises: RecipeError for an unknown coefficient, or a value out of its range or of the wrong shape.
    """
    declared = {parameter.name: parameter for parameter in method.parameters}
    for name in values:
        if name not in declared:
            raise RecipeError(f"{where}: {unknown('coefficient', name, declared)}")
    return {
        name: _checked_coefficient(f"{where}.{name}", values.get(name, parameter.default), parameter, experts)
        for name, parameter in declared.items()
    }


def _checked_option(where: str, value: Any, option: Option) -> Any:
    kind = type(option.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise RecipeError(f"{where}: expected {kind.__name__}, got {value!r}")
    if option.choices is not None and value not in option.choices:
        raise RecipeError(f"{where}: {value!r} is none of {', '.join(map(repr, option.choices))}")
    if not isinstance(value, str):
        _check_range(where, value, option)
    return value


def _checked_coefficient(where: str, value: Any, parameter: Parameter, experts: Sequence[str]) -> NDArray[np.float64]:
    if isinstance(value, Mapping):
        if not parameter.per_expert:
            raise RecipeError(f"{where}: one number for all experts, got one per expert")
        if set(value) != set(experts):
            raise RecipeError(f"{where}: expected one value for each of {', '.join(experts)}")
        values = np.array([value[expert] for expert in experts], dtype=np.float64)
    elif np.ndim(value) or isinstance(value, str):
        raise RecipeError(
            f"{where}: expected one number, or one for each expert by its name ({', '.join(experts)}), got {value!r}"
        )
    else:
        values = np.full((len(experts),) if parameter.per_expert else (), value, dtype=np.float64)
    for number in values.flat:
        _check_range(where, float(number), parameter)
    return values


def _check_range(where: str, number: float, declared: Option | Parameter) -> None:
    if not math.isfinite(number):
        raise RecipeError(f"{where}: {number} is not a finite number")
    if declared.minimum is not None and number < declared.minimum:
        raise RecipeError(f"{where}: {number:g} is below {declared.minimum:g}, the least it may be")
    if declared.maximum is not None and number > declared.maximum:
        raise RecipeError(f"{where}: {number:g} is above {declared.maximum:g}, the most it may be")
