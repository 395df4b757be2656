"""What is wrong with a config, in words: a line for each mistake, with its key, what was found and what is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from evomerge.errors import counted, shown, unknown

_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "int_type": lambda _: "expected a whole number",
    "int_parsing": lambda _: "expected a whole number",
    "int_from_float": lambda _: "expected a whole number",
    "float_type": lambda _: "expected a number",
    "float_parsing": lambda _: "expected a number",
    "finite_number": lambda _: "expected a finite number",
    "bool_type": lambda _: "expected true or false",
    "bool_parsing": lambda _: "expected true or false",
    "string_type": lambda _: "expected text",
    "string_too_short": lambda limits: f"expected at least {counted(limits['min_length'], 'character')}",
    "string_pattern_mismatch": lambda _: "isn't written as it must be",
    "list_type": lambda _: "expected a list",
    "tuple_type": lambda _: "expected a list",
    "too_short": lambda limits: f"expected at least {counted(limits['min_length'], 'entry', 'entries')}",
    "too_long": lambda limits: f"expected at most {counted(limits['max_length'], 'entry', 'entries')}",
    "dict_type": lambda _: "expected keys with values",
    "greater_than": lambda limits: f"must be above {limits['gt']:g}",
    "greater_than_equal": lambda limits: f"must be at least {limits['ge']:g}",
    "less_than": lambda limits: f"must be below {limits['lt']:g}",
    "less_than_equal": lambda limits: f"must be at most {limits['le']:g}",
    "literal_error": lambda limits: f"must be {limits['expected'].replace(chr(39), '')}",
}
"""By pydantic's name of a mistake, the same in words."""

_FORMS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "keys with values",
    "tuple": "a list",
}


def explain(error: ValidationError, root: type[BaseModel], where: str) -> str:
    """One line for each mistake: file, key, what is wrong, the value found.

    Args:
        error: of pydantic's, over the whole config.
        root: the config's class.
        where: the config's file.
    """
    lines: list[str] = []
    unions: dict[tuple[int | str, ...], list[str]] = {}
    for problem in error.errors():
        place = _place(problem["loc"], root)
        form = problem["loc"][len(place) :]
        if form:
            # Each form that a value may have is a mistake of its own; together they are one.
            unions.setdefault(place, []).append(_FORMS.get(str(form[0]).partition("[")[0], str(form[0])))
            continue
        lines.append(f"{where}: {_path(place)}: {_words(problem, root)}")
    for place, forms in unions.items():
        allowed = [form for form in dict.fromkeys(forms) if form != _FORMS["int"] or _FORMS["float"] not in forms]
        *others, last = allowed
        lines.append(f"{where}: {_path(place)}: expected {', '.join(others)}{' or ' if others else ''}{last}")
    return "\n".join(lines)


def _words(problem: Mapping[str, Any], root: type[BaseModel]) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _unknown_key(problem["loc"], root)
    if kind == "missing":
        return "missing" if isinstance(problem["loc"][-1], int) else "missing; this key is required"
    if kind in {"model_type", "model_attributes_type"}:
        section = _at(problem["loc"], root)
        known = f", such as {', '.join([*section.model_fields][:3])}" if section is not None else ""
        message = f"expected keys with values{known}"
    else:
        words = _WORDS.get(kind)
        message = words(problem.get("ctx", {})) if words is not None else problem["msg"].removeprefix("Value error, ")
    return message + _found(value)


def _found(value: Any) -> str:
    if value is None:
        return " (found nothing)"
    if isinstance(value, Mapping | list | tuple):
        return "" if value else " (found none)"
    return f" (found {shown(value)})"


def _path(location: tuple[int | str, ...]) -> str:
    """A key as messages write it: benchmark.tasks[0].metric."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or "(top level)"


def _place(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[int | str, ...]:
    """The part of a location that is keys and indices, without pydantic's names for the forms of a value."""
    for length, part in enumerate(location):
        if isinstance(part, str) and length and (part in _FORMS or part.startswith(("dict[", "tuple["))):
            section = _at(location[:length], root)
            if section is None or part not in section.model_fields:
                return location[:length]
    return location


def _unknown_key(location: tuple[int | str, ...], root: type[BaseModel]) -> str:
    """Name the key that isn't known and those that are, in its section."""
    section = _at(location[:-1], root)
    return unknown("key", str(location[-1]), list(section.model_fields) if section is not None else [])


def _at(location: tuple[int | str, ...], root: type[BaseModel]) -> type[BaseModel] | None:
    """The section at a location, or that of the entries of a mapping or list there."""
    section: type[BaseModel] | None = root
    for part in location:
        field = section.model_fields.get(str(part)) if section is not None else None
        # A part that is no field is a key or an index inside the section's own mapping or list.
        section = _section_of(field.annotation) if field else section
    return section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section inside an annotation such as `dict[str, ParameterConfig]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
