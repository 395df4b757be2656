"""Single values of an experiment given beside its file, as `search.evaluations=50`.

Knows how places in a config are written and which keys its sections have. Values are checked with the whole config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from evomerge.errors import ConfigError, shown, unknown
from evomerge.files.outside_yaml import parse_yaml

_PART = re.compile(r'(?P<dot>^|\.)(?:"(?P<quoted>[^"]+)"|(?P<name>[^."\[\]]+))|\[(?P<index>\d+)\]')


def with_settings(data: Any, settings: Sequence[str], root: type[BaseModel]) -> Any:
    """Plain data of a config with other values at some places; `data` stays as it is.

    Args:
        data: of the file; where it has a short form of a section, such as a bare path, keys inside can still be set.
        settings: each a place, `=` and a value as YAML writes it. Keys are parted by dots, entries of lists are numbers
            (`benchmark.tasks.0.weight=2`), and a key with a dot or bracket stands in double quotes. `null` leaves a key
            out that has no such value.
        root: the config's class.

    Raises: ConfigError for one that isn't so written, or whose place isn't in a config.
    """
    if not isinstance(data, Mapping):
        return data
    for setting in settings:
        place, equals, text = setting.partition("=")
        where = f"--set {place}"
        if not equals:
            raise ConfigError(f"{where}: give a value, as in --set search.evaluations=50")
        value = parse_yaml(text, where, ConfigError)
        data = _placed(data, root, _parts(place, where), value, where, "")
    return data


def _parts(place: str, where: str) -> list[str]:
    parts: list[str] = []
    position = 0
    while position < len(place) or not parts:
        match = _PART.match(place, position)
        if match is None or match.end() == position:
            raise ConfigError(f"{where}: write a place as keys with dots between, such as benchmark.tasks.0.weight")
        parts.append(match["quoted"] or match["name"] or match["index"])
        position = match.end()
    return parts


def _placed(data: Any, annotation: Any, parts: Sequence[str], value: Any, where: str, before: str) -> Any:
    """The data at one place, with the value at a place inside it.

    Args:
        data: what is there, None where nothing is.
        annotation: of what may be there.
        parts: the way from here.
        value: what to put there.
        where: the setting, for messages.
        before: the way to here, for messages.
    """
    if not parts:
        return value
    part, here = parts[0], f"{before}.{parts[0]}" if before else parts[0]
    forms = _forms(annotation)
    section = next((form for form in forms if isinstance(form, type) and issubclass(form, BaseModel)), None)
    if section is not None:
        if part not in section.model_fields:
            raise ConfigError(f"{where}: {unknown('key', part, section.model_fields)}")
        inner: Any = section.model_fields[part].annotation
        data = _spelled_out(data, section)
    else:
        inner = _inside(forms, in_list=isinstance(data, list))
    if isinstance(data, list):
        if not part.isdecimal() or int(part) >= len(data):
            has = f"numbers 0 to {len(data) - 1}" if data else "no entries"
            raise ConfigError(f"{where}: {before} is a list and has {has}, not {part!r}; or give the whole list")
        entry = _placed(data[int(part)], inner, parts[1:], value, where, here)
        return [*data[: int(part)], entry, *data[int(part) + 1 :]]
    if data is not None and not isinstance(data, Mapping):
        raise ConfigError(f"{where}: {before} is {shown(data)}, which has no keys; give its whole value")
    if inner is None:
        raise ConfigError(f"{where}: {before} has no keys; give its whole value")
    found = dict(data or {})
    if value is None and len(parts) == 1 and not {Any, NoneType}.intersection(_forms(inner)):
        found.pop(part, None)
        return found
    return {**found, part: _placed(found.get(part), inner, parts[1:], value, where, here)}


def _spelled_out(data: Any, section: type[BaseModel]) -> Any:
    """A section's short form, such as a bare path, with its keys; anything else as it is."""
    if data is None or isinstance(data, Mapping | list):
        return data
    try:
        return section.model_validate(data).model_dump(exclude_unset=True)
    except ValidationError:
        return data


def _forms(annotation: Any) -> list[Any]:
    """The forms that a value may have, without what is only said about them."""
    if get_origin(annotation) is Annotated:
        return _forms(get_args(annotation)[0])
    if annotation is Any or isinstance(annotation, type) or get_origin(annotation) in {dict, tuple}:
        return [annotation]
    return [form for argument in get_args(annotation) for form in _forms(argument)]


def _inside(forms: Sequence[Any], *, in_list: bool) -> Any:
    """What the entries of a mapping or list are, of these forms; None if none of them has entries."""
    wanted = tuple if in_list else dict
    for form in forms:
        if form is Any:
            return Any
        if get_origin(form) is wanted:
            return get_args(form)[0 if in_list else 1]
    return None
