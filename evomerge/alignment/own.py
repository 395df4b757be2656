"""A spec of one's own, from a YAML or JSON file.

Knows the file's form. Doesn't know whether the maps that it allows leave the model's function unchanged: that is what
whoever writes it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.alignment.family import Shapes
from evomerge.alignment.kinds import Heads, Orthogonal, Permutation, SignedPermutation
from evomerge.alignment.patterns import FIXED, Axes, KindOf, expand, matches
from evomerge.alignment.spec import Axis, AxisLike, Joined, Spec
from evomerge.errors import AlignmentError, shown, unknown
from evomerge.files.outside import parse_json, read_text
from evomerge.files.outside_yaml import parse_yaml
from evomerge.files.places import YAML_ENDS

SUFFIXES = (*YAML_ENDS, ".json")
"""What the name of such a file ends with."""

_KINDS: Mapping[str, Any] = {
    "permutation": Permutation,
    "signed": SignedPermutation,
    "orthogonal": Orthogonal,
    "heads": Heads,
}
_FIXED = "fixed"
_WORD = re.compile(r"\{(\w+)\}")


def read_spec(path: Path, shapes: Shapes) -> Spec:
    """The spec in a file, for the tensors of a model.

    Raises: AlignmentError naming file and key for what the file may not say, tensors that it leaves out or that the
        model hasn't, and shapes that don't fit.
    """
    text = read_text(path, AlignmentError)
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return spec_from(parse(text, str(path), AlignmentError), str(path), shapes)


def spec_from(data: Any, where: str, shapes: Shapes) -> Spec:
    """The spec that plain data describes, for the tensors of a model; `where` they come from, for messages.

    Raises: AlignmentError, as `read_spec`.
    """
    top = _mapping(data, where, ("labels", "tensors"), ("unmatched",))
    labels = {
        str(label): _kind(value, f"{where}: labels.{label}")
        for label, value in _mapping(top["labels"], f"{where}: labels").items()
    }
    tensors = {
        str(pattern): _axes(value, f"{where}: tensors.{pattern}", str(pattern), labels)
        for pattern, value in _mapping(top["tensors"], f"{where}: tensors").items()
    }
    unmatched = _texts(top.get("unmatched", []), f"{where}: unmatched")
    spec = expand(
        where,
        shapes,
        tensors,
        labels,
        unmatched=lambda name: any(matches(pattern, name) for pattern in unmatched),
        whole=True,
    )
    try:
        spec.check(shapes)
    except AlignmentError as error:
        raise AlignmentError(f"{where}: {error}") from error
    return spec


def _kind(value: Any, where: str) -> KindOf:
    """A label's kind; of its units' number, unless it is one of heads."""
    settings = {"kind": value} if isinstance(value, str) else dict(_mapping(value, where, ("kind",), None))
    name = settings.pop("kind")
    if name not in _KINDS:
        raise AlignmentError(f"{where}: {unknown('kind', str(name), _KINDS)}")
    declared = {field.name: field for field in fields(_KINDS[name]) if field.name != "n"}
    for key, found in settings.items():
        if key not in declared:
            raise AlignmentError(f"{where}: {unknown(f'setting of {name}', str(key), declared)}")
        _check_setting(key, found, declared[key].default, f"{where}.{key}")
    if missing := [key for key, field in declared.items() if field.default is MISSING and key not in settings]:
        raise AlignmentError(f"{where}: {', '.join(missing)} is missing")
    return Heads(**settings) if name == "heads" else partial(_KINDS[name], **settings)


def _check_setting(key: str, found: Any, default: Any, where: str) -> None:
    if key == "inside":
        legal: Any = found in ("none", "signs", "rotations")
        right = "none, signs or rotations"
    elif isinstance(default, bool):
        legal, right = isinstance(found, bool), "true or false"
    else:
        least = 0 if default == 0 else 1
        legal = isinstance(found, int) and not isinstance(found, bool) and found >= least
        right = f"a whole number, at least {least}"
    if not legal:
        raise AlignmentError(f"{where}: has to be {right} (found {shown(found)})")


def _axes(value: Any, where: str, pattern: str, labels: Mapping[str, KindOf]) -> Axes:
    if value == _FIXED:
        return FIXED
    if not isinstance(value, list) or not value:
        raise AlignmentError(
            f"{where}: has to be {_FIXED}, or a list with an entry for each axis (found {shown(value)})"
        )
    return tuple(_axis(axis, f"{where}[{place}]", pattern, labels) for place, axis in enumerate(value))


def _axis(value: Any, where: str, pattern: str, labels: Mapping[str, KindOf]) -> AxisLike:
    if not isinstance(value, list):
        return _segment(value, where, pattern, labels, ())[1]
    segments = (_segment(part, f"{where}[{place}]", pattern, labels, ("length",)) for place, part in enumerate(value))
    return Joined(tuple(segments))


def _segment(
    value: Any, where: str, pattern: str, labels: Mapping[str, KindOf], needed: tuple[str, ...]
) -> tuple[int, Axis | None]:
    """The length of a segment, 0 for a whole axis, and what acts on it."""
    if value is None and not needed:
        return 0, None
    if isinstance(value, str):
        label, _, role = value.partition(":")
        value = {"label": label} | ({"role": role} if role else {})
    settings = _mapping(value, where, needed, ("label", "role", "width"))
    for key in ("length", "width"):
        if key in settings:
            _check_setting(key, settings[key], 1, f"{where}.{key}")
    length = settings.get("length", 0)
    if "label" not in settings:
        return length, None
    label = str(settings["label"])
    if label not in labels:
        raise AlignmentError(f"{where}: {unknown('label', label, labels)}")
    if strange := [word for word in _WORD.findall(label) if f"{{{word}}}" not in pattern]:
        raise AlignmentError(f"{where}: {label} has {{{strange[0]}}}, which the tensor's name hasn't")
    return length, Axis(label, str(settings.get("role", "unit")), settings.get("width", 1))


def _mapping(
    value: Any, where: str, needed: tuple[str, ...] = (), more: tuple[str, ...] | None = None
) -> Mapping[str, Any]:
    """A mapping that has what is needed, and nothing but that and `more` if one of them is given."""
    if not isinstance(value, Mapping):
        raise AlignmentError(f"{where}: has to be a mapping (found {shown(value)})")
    if missing := [key for key in needed if key not in value]:
        raise AlignmentError(f"{where}: {missing[0]} is missing")
    legal = (*needed, *(more or ()))
    if more is not None and (strange := [key for key in value if key not in legal]):
        raise AlignmentError(f"{where}: {unknown('key', str(strange[0]), legal)}")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise AlignmentError(f"{where}: has to be a list of names (found {shown(value)})")
    return value
