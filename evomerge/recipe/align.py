"""How models trained apart are brought together, as data: part of a merge's sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown, unknown
from evomerge.files.outside import Problem, parse_json, read_text
from evomerge.files.outside_yaml import parse_yaml

BASE = "base"
_KEYS = {"method", "options", "reference", "residual", "heads", "rotations", "hidden", "seed", "spec", "maps", "sha256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Align:
    """How the models of a merge are aligned before they are merged.

    Attributes:
        method: the alignment method's name.
        options: the method's.
        reference: the model that stays as it is: "base" or an expert's name.
        residual: the symmetry of the residual stream, see `align.symmetries`; None: as the architecture allows with
            gains and ties kept.
        heads: whether attention heads may change places.
        rotations: whether heads may be turned inside.
        hidden: whether hidden units may change places.
        seed: of what is random in the method.
        spec: what a spec of one's own says, which maps may act on what, instead of that of the architecture; None:
            that. The symmetries above then stay as they are by default.
        maps: a file with maps found before; None: they are found when the models are opened.
        sha256: of that file.
    """

    method: str = "weight_matching"
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str = BASE
    residual: str | None = None
    heads: bool = True
    rotations: bool = True
    hidden: bool = True
    seed: int = 0
    spec: Mapping[str, Any] | None = None
    maps: str | None = None
    sha256: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As plain data, in the order in which it is written; what is as by default is left out."""
        default = Align()
        names = [name for name in self.__dataclass_fields__ if name not in ("method", "options")]
        other = {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        return {"method": self.method, **({"options": dict(self.options)} if self.options else {}), **other}

    def from_folder(self, folder: Path) -> Align:
        """The same, with a file of maps that lies below `folder` by its absolute path."""
        if self.maps is None or not (folder / self.maps).is_file():
            return self
        return replace(self, maps=str((folder / self.maps).resolve()))


SYMMETRIES = ("residual", "heads", "rotations", "hidden")
"""What an alignment may ask of an architecture's spec, and not of one's own."""


def spec_content(value: Any, problem: Problem) -> Any:
    """What a spec of one's own says, where its YAML or JSON file is named; else the value as it is.

    A merge holds the content, so that it stays what it is when the file changes. Raises: the problem for a file that
    can't be read.
    """
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return parse(read_text(path, problem), str(path), problem)


def asked_besides(settings: Mapping[str, Any]) -> str | None:
    """What is wrong with symmetries that are asked for beside a spec of one's own; None: nothing."""
    if settings.get("spec") is None:
        return None
    other = [key for key in SYMMETRIES if settings.get(key, getattr(Align(), key)) != getattr(Align(), key)]
    return f"{other[0]}: a spec of one's own says itself which maps may act; leave this out" if other else None


def parse_align(value: Any, where: str, models: tuple[str, ...]) -> Align | None:
    """How models are aligned, from plain data. Raises: RecipeError."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, such as {{method: weight_matching}}, got {shown(value)}")
    for key in value:
        if key not in _KEYS:
            raise RecipeError(f"{where}: {unknown('key', str(key), _KEYS)}")
    value = {**value, "spec": spec_content(value.get("spec"), RecipeError)}
    for key, kind, words in (
        ("method", str, "a method's name"),
        ("options", Mapping, "a mapping"),
        ("reference", str, "the name of a model"),
        ("residual", str | None, "a symmetry's name"),
        ("heads", bool, "true or false"),
        ("rotations", bool, "true or false"),
        ("hidden", bool, "true or false"),
        ("seed", int, "an integer"),
        ("spec", Mapping | None, "a file or a mapping"),
        ("maps", str | None, "a file"),
        ("sha256", str | None, "a checksum"),
    ):
        found = value.get(key, getattr(Align(), key))
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise RecipeError(f"{where}.{key}: expected {words}, got {shown(found)}")
    align = Align(**{**value, "options": dict(value.get("options", {}))})
    if align.reference not in models:
        raise RecipeError(f"{where}.reference: {unknown('model', align.reference, models)}")
    if (wrong := asked_besides(value)) is not None:
        raise RecipeError(f"{where}.{wrong}")
    if align.maps is not None and align.sha256 is None:
        raise RecipeError(f"{where}.sha256: is missing; a file of maps is told from another by it")
    return align
