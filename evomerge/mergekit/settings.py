"""mergekit's parameter settings: numbers and switches, by filter on tensor names and over depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import RecipeError, shown
from evomerge.mergekit.documents import mapping


def evaluate(setting: Any, name: str, depth: float, where: str, *, number: bool) -> Any:
    """One parameter for one tensor.

    Args:
        setting: a value, a list of values over depth, or conditions with a value each, the first of which holds.
        name: the tensor's name, in which a filter's text is looked for.
        depth: the tensor's position in its stretch of layers, from 0 to 1; numbers are interpolated.
        where: what to call the setting in messages.
        number: whether a number is expected, or else a switch.

    Returns: None if no filter matches or nothing is said.

    Raises: RecipeError.
    """
    conditions = conditions_of(setting)
    if conditions:
        for condition in conditions:
            wanted = condition.get("filter")
            if wanted is None or wanted == "*" or wanted in name:
                return evaluate(condition["value"], name, depth, where, number=number)
        return None
    convert = _to_number if number else to_switch
    if not isinstance(setting, list):
        return convert(setting, where)
    if not setting:
        return None
    values = [convert(value, where) for value in setting]
    position = depth * (len(values) - 1)
    below = int(position)
    if not number:
        return values[below]
    above = min(below + 1, len(values) - 1)
    return (1.0 - (position - below)) * values[below] + (position - below) * values[above]


def conditions_of(setting: Any) -> list[Mapping[str, Any]]:
    """A setting's conditions, in order; none if it has none."""
    if isinstance(setting, Mapping):
        return [setting]
    return list(setting) if isinstance(setting, list) and setting and isinstance(setting[0], Mapping) else []


def _to_number(value: Any, where: str) -> float:
    # YAML reads 1e-3 as text, and mergekit takes it for a number.
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{where}: expected a number, got {shown(value)}") from None


def to_switch(value: Any, where: str) -> bool:
    """A switch as mergekit takes it, also as a number: mergekit itself writes 1.0 for true. Raises: RecipeError."""
    known = {
        **dict.fromkeys(("true", "1", "yes", "on", "t", "y", "1.0"), True),
        **dict.fromkeys(("false", "0", "no", "off", "f", "n", "0.0"), False),
    }
    if str(value).lower() not in known:
        raise RecipeError(f"{where}: expected true or false, got {shown(value)}")
    return known[str(value).lower()]


def to_whole(value: Any, where: str) -> int:
    """A whole number as mergekit takes it, also written as 4.0. Raises: RecipeError."""
    try:
        number = _to_number(value, where)
        if number == int(number):
            return int(number)
    except (RecipeError, ValueError, OverflowError):
        pass
    raise RecipeError(f"{where}: expected a whole number, got {shown(value)}")


def joined(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of two scopes as one: what the inner one says nothing of, for a tensor, the outer one says."""
    found = {**outer, **{name: setting for name, setting in inner.items() if setting is not None and setting != []}}
    for name, setting in inner.items():
        if (conditions := conditions_of(setting)) and name in outer:
            found[name] = [*conditions, *(conditions_of(outer[name]) or [{"value": outer[name]}])]
    return found


def parameters_of(value: Any, where: str) -> Mapping[str, Any]:
    """Settings by parameter, if they are well formed. Raises: RecipeError."""
    parameters = mapping(value or {}, where, None)
    for name, setting in parameters.items():
        place = f"{where}.{name}"
        nested = [isinstance(entry, Mapping) for entry in setting] if isinstance(setting, list) else []
        if any(nested) and not all(nested):
            raise RecipeError(f"{place}: a list holds either values over depth or filters, not both")
        for condition in conditions_of(setting):
            data = mapping(condition, place, {"value", "filter"})
            if "value" not in data or isinstance(data["value"], Mapping):
                raise RecipeError(f"{place}: a filter needs a value, or a list of values over depth")
            if not isinstance(data.get("filter", "*"), str | None):
                raise RecipeError(f"{place}: filter: expected part of a tensor's name, got {data['filter']!r}")
        for condition in conditions_of(setting) or [{"value": setting}]:
            value = condition["value"]
            if any(isinstance(entry, list | Mapping) or entry is None for entry in _listed(value)):
                raise RecipeError(f"{place}: expected a value or a list of values, got {shown(value)}")
    return parameters


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
