"""A recipe's parts from plain data, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evomerge.errors import RecipeError, shown, unknown
from evomerge.recipe.group import KINDS, Coefficient, Group
from evomerge.recipe.sources import VOCABULARIES, ModelReference, Slice, VocabularyPolicy

_EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")
"""Numbers that YAML 1.1 takes for text, such as 1e-3."""


def parse_mapping(value: Any, where: str, known: set[str] | None) -> Mapping[str, Any]:
    """A mapping without unknown keys. Raises: RecipeError."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    unexpected = [key for key in value if known is not None and key not in known]
    if unexpected:
        raise RecipeError(f"{where}: unknown key {unexpected[0]!r}; known keys: {', '.join(sorted(known or ()))}")
    return value


def parse_reference(value: Any, where: str) -> ModelReference:
    """A model: a path, or a mapping with a revision. Raises: RecipeError."""
    if isinstance(value, str) and value:
        return ModelReference(path=value)
    data = parse_mapping(value, where, {"path", "revision"})
    path, revision = data.get("path"), data.get("revision")
    if not isinstance(path, str) or not path:
        raise RecipeError(f"{where}.path: expected a folder or a hub id, got {shown(path)}")
    return ModelReference(path=path, revision=None if revision is None else str(revision))


def parse_vocabulary(value: Any, where: str) -> VocabularyPolicy:
    """A vocabulary policy. Raises: RecipeError."""
    for policy in VOCABULARIES:
        if value == policy:
            return policy
    raise RecipeError(f"{where}: expected one of {', '.join(VOCABULARIES)}, got {shown(value)}")


def parse_head(value: Any, where: str, models: tuple[str, ...]) -> str | None:
    """Whose head a merge has. Raises: RecipeError for a name that is none of the models'."""
    if value is None or value in models:
        return value  # type: ignore[no-any-return]
    raise RecipeError(f"{where}: {unknown('model', str(value), models)}")


def parse_slices(value: Any, where: str, models: tuple[str, ...]) -> tuple[Slice, ...]:
    """Slices of layers. Raises: RecipeError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: expected a list of slices, got {shown(value)}")
    return tuple(_slice(part, f"{where}[{index}]", models) for index, part in enumerate(value))


def _slice(value: Any, where: str, models: tuple[str, ...]) -> Slice:
    data = parse_mapping(value, where, set(models))
    if not data:
        raise RecipeError(f"{where}: name at least one model with its layers")
    return {str(model): _layers(layers, f"{where}.{model}") for model, layers in data.items()}


def _layers(value: Any, where: str) -> tuple[int, int]:
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in value)
        or value[0] > value[1]
    ):
        raise RecipeError(f"{where}: expected [first, last], both included, got {shown(value)}")
    return value[0], value[1]


def parse_group(value: Any, where: str, experts: tuple[str, ...]) -> Group:
    """A parameter group with its coefficients. Raises: RecipeError."""
    data = parse_mapping(value, where, {"name", "layers", "kinds", "names", "coefficients"})
    layers, kinds, names = data.get("layers"), data.get("kinds"), data.get("names")
    if kinds is not None and (not isinstance(kinds, list) or any(kind not in KINDS for kind in kinds)):
        raise RecipeError(f"{where}.kinds: expected a list of {', '.join(KINDS)}, got {shown(kinds)}")
    if names is not None and (not isinstance(names, list) or not all(isinstance(part, str) for part in names)):
        raise RecipeError(f"{where}.names: expected a list of texts that occur in tensor names, got {shown(names)}")
    coefficients: dict[str, Coefficient] = {}
    for name, coefficient in parse_mapping(data.get("coefficients") or {}, f"{where}.coefficients", None).items():
        place = f"{where}.coefficients.{name}"
        if isinstance(coefficient, Mapping):
            if set(coefficient) != set(experts):
                raise RecipeError(
                    f"{place}: expected one value for each of {', '.join(experts)}, got {shown(coefficient)}"
                )
            coefficients[name] = {expert: _number(coefficient[expert], f"{place}.{expert}") for expert in experts}
        elif isinstance(coefficient, list):
            raise RecipeError(
                f"{place}: expected one number, or one for each expert by its name "
                f"({{{', '.join(f'{expert}: ...' for expert in experts)}}}), got a list of {len(coefficient)}"
            )
        else:
            coefficients[name] = _number(coefficient, place)
    return Group(
        name=str(data.get("name", where.rpartition(": ")[2])),
        layers=None if layers is None else _layers(layers, f"{where}.layers"),
        kinds=None if kinds is None else tuple(kinds),
        names=None if names is None else tuple(names),
        coefficients=coefficients,
    )


def _number(value: Any, where: str) -> float:
    if isinstance(value, str) and _EXPONENT.match(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise RecipeError(f"{where}: expected a finite number, got {shown(value)}")
    return float(value)
