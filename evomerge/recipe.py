"""Recipes: the complete, declarative description of one merge, as YAML.

A recipe names its models, its method with options, the coefficients of every parameter group, the
dtype and the seed. Realising it needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from evomerge.errors import RecipeError

Kind = Literal["attention", "mlp", "norm", "embedding", "head", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Coefficient = float | Mapping[str, float]
"""One number, or one per expert name."""

FORMAT_VERSION = 1

_EXPONENT = re.compile(r"^[+-]?\d+(\.\d*)?[eE][+-]?\d+$")
"""Numbers that YAML 1.1 takes for text, such as 1e-3."""

VocabularyPolicy = Literal["same", "base", "union"]
"""Whose tokens a merge has: the models must agree, the base's, or those of all models."""
Slice = Mapping[str, tuple[int, int]]
"""Layers of a stack: model names, "base" or experts, with first and last layer, both included, all as many."""
VOCABULARIES: tuple[VocabularyPolicy, ...] = get_args(VocabularyPolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReference:
    """Where a model comes from: a local folder or a hub id with an optional revision."""

    path: str
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The tensors that share coefficients: those of `kinds` in the layers first..last, both included.

    Tensors before the first layer (embeddings) count as layer 0, those after the last (final norm,
    head) as the last layer. None means every layer, or every kind. With `names`, only tensors in whose
    stored name every one of these texts occurs.
    """

    name: str
    layers: tuple[int, int] | None = None
    kinds: tuple[Kind, ...] | None = None
    names: tuple[str, ...] | None = None
    coefficients: Mapping[str, Coefficient] = field(default_factory=dict)

    def contains(self, layer: int, kind: Kind, name: str = "") -> bool:
        """Whether a tensor of this layer, kind and stored name belongs to the group."""
        in_layers = self.layers is None or self.layers[0] <= layer <= self.layers[1]
        of_kind = self.kinds is None or kind in self.kinds
        return in_layers and of_kind and all(part in name for part in self.names or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A complete merge. Each tensor takes the coefficients of the first group that contains it."""

    base: ModelReference
    experts: Mapping[str, ModelReference]
    method: str
    groups: tuple[Group, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    seed: int = 0
    vocabulary: VocabularyPolicy = "same"
    slices: tuple[Slice, ...] = ()
    """The layers that the merge has, in order; none stands for those of the base."""

    def key(self) -> str:
        """A hash of everything that determines the merged tensors; group names don't count."""
        data = self.to_data()
        for group in data["groups"]:
            del group["name"]
        if self.slices:
            # The first model of a slice has a meaning of its own, which sorted keys would lose.
            data["models"]["slices"] = [list(slice_to_data(part).items()) for part in self.slices]
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain lists, dicts and scalars, in the order in which it is written."""
        return {
            "evomerge": FORMAT_VERSION,
            "models": {
                "base": _reference_to_data(self.base),
                "experts": {name: _reference_to_data(ref) for name, ref in self.experts.items()},
                **({"vocabulary": self.vocabulary} if self.vocabulary != "same" else {}),
                **({"slices": [slice_to_data(part) for part in self.slices]} if self.slices else {}),
            },
            "method": self.method,
            "options": dict(self.options),
            "dtype": self.dtype,
            "seed": self.seed,
            "groups": [
                {
                    "name": group.name,
                    **({"layers": list(group.layers)} if group.layers is not None else {}),
                    **({"kinds": list(group.kinds)} if group.kinds is not None else {}),
                    **({"names": list(group.names)} if group.names is not None else {}),
                    "coefficients": {
                        name: dict(value) if isinstance(value, Mapping) else value
                        for name, value in group.coefficients.items()
                    },
                }
                for group in self.groups
            ],
        }

    def to_yaml(self) -> str:
        """The recipe as YAML text. Floats keep every digit, so reading it back gives the same recipe."""
        import yaml

        return yaml.safe_dump(self.to_data(), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str, *, where: str = "recipe") -> Recipe:
        """Read a recipe. Raises: RecipeError naming the key and what was expected."""
        import yaml

        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"{where}: not valid YAML: {error}") from error
        return cls.from_data(data, where=where)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a recipe file; relative model paths are relative to the file's folder."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(f"{path}: can't be read: {error.strerror}") from error
        recipe = cls.from_yaml(text, where=str(path))
        return recipe.relative_to(path.parent)

    def relative_to(self, folder: Path) -> Recipe:
        """The same recipe with model paths that exist below `folder` made absolute."""

        def resolve(reference: ModelReference) -> ModelReference:
            local = folder / reference.path
            if local.is_dir():
                return ModelReference(path=str(local.resolve()), revision=reference.revision)
            return reference

        return replace(
            self,
            base=resolve(self.base),
            experts={name: resolve(reference) for name, reference in self.experts.items()},
        )

    @classmethod
    def from_data(cls, data: Any, *, where: str = "recipe") -> Recipe:
        """Build a recipe from plain data. Raises: RecipeError for unknown, missing or malformed keys."""
        top = _mapping(data, where, {"evomerge", "models", "method", "options", "dtype", "seed", "groups"})
        version = top.get("evomerge")
        if version != FORMAT_VERSION:
            raise RecipeError(f"{where}: evomerge: format version {version!r}; this release reads {FORMAT_VERSION}")
        models = _mapping(top.get("models"), f"{where}: models", {"base", "experts", "vocabulary", "slices"})
        experts = _mapping(models.get("experts"), f"{where}: models.experts", None)
        if not experts:
            raise RecipeError(f"{where}: models.experts: name at least one expert")
        method = top.get("method")
        if not isinstance(method, str):
            raise RecipeError(f"{where}: method: expected a method's name, got {method!r}")
        seed = top.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise RecipeError(f"{where}: seed: expected an integer, got {seed!r}")
        groups = top.get("groups") or []
        if not isinstance(groups, list):
            raise RecipeError(f"{where}: groups: expected a list, got {groups!r}")
        return cls(
            base=_reference(models.get("base"), f"{where}: models.base"),
            experts={
                str(name): _reference(value, f"{where}: models.experts.{name}") for name, value in experts.items()
            },
            method=method,
            options=dict(_mapping(top.get("options") or {}, f"{where}: options", None)),
            dtype=str(top.get("dtype", "auto")),
            seed=seed,
            vocabulary=_vocabulary(models.get("vocabulary", "same"), f"{where}: models.vocabulary"),
            slices=_slices(models.get("slices"), f"{where}: models.slices", ("base", *map(str, experts))),
            groups=tuple(
                _group(group, f"{where}: groups[{index}]", tuple(map(str, experts)))
                for index, group in enumerate(groups)
            ),
        )


def _reference_to_data(reference: ModelReference) -> dict[str, str]:
    data = {"path": reference.path}
    if reference.revision is not None:
        data["revision"] = reference.revision
    return data


def _mapping(value: Any, where: str, known: set[str] | None) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {value!r}")
    unexpected = [key for key in value if known is not None and key not in known]
    if unexpected:
        raise RecipeError(f"{where}: unknown key {unexpected[0]!r}; known keys: {', '.join(sorted(known or ()))}")
    return value


def _reference(value: Any, where: str) -> ModelReference:
    if isinstance(value, str) and value:
        return ModelReference(path=value)
    data = _mapping(value, where, {"path", "revision"})
    path, revision = data.get("path"), data.get("revision")
    if not isinstance(path, str) or not path:
        raise RecipeError(f"{where}.path: expected a folder or a hub id, got {path!r}")
    return ModelReference(path=path, revision=None if revision is None else str(revision))


def _vocabulary(value: Any, where: str) -> VocabularyPolicy:
    for policy in VOCABULARIES:
        if value == policy:
            return policy
    raise RecipeError(f"{where}: expected one of {', '.join(VOCABULARIES)}, got {value!r}")


def slice_to_data(part: Slice) -> dict[str, list[int]]:
    """A slice as plain data."""
    return {model: list(layers) for model, layers in part.items()}


def _slices(value: Any, where: str, models: tuple[str, ...]) -> tuple[Slice, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: expected a list of slices, got {value!r}")
    return tuple(_slice(part, f"{where}[{index}]", models) for index, part in enumerate(value))


def _slice(value: Any, where: str, models: tuple[str, ...]) -> Slice:
    data = _mapping(value, where, set(models))
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
        raise RecipeError(f"{where}: expected [first, last], both included, got {value!r}")
    return value[0], value[1]


def _group(value: Any, where: str, experts: tuple[str, ...]) -> Group:
    data = _mapping(value, where, {"name", "layers", "kinds", "names", "coefficients"})
    layers, kinds, names = data.get("layers"), data.get("kinds"), data.get("names")
    if kinds is not None and (not isinstance(kinds, list) or any(kind not in KINDS for kind in kinds)):
        raise RecipeError(f"{where}.kinds: expected a list of {', '.join(KINDS)}, got {kinds!r}")
    if names is not None and (not isinstance(names, list) or not all(isinstance(part, str) for part in names)):
        raise RecipeError(f"{where}.names: expected a list of texts that occur in tensor names, got {names!r}")
    coefficients: dict[str, Coefficient] = {}
    for name, coefficient in _mapping(data.get("coefficients") or {}, f"{where}.coefficients", None).items():
        place = f"{where}.coefficients.{name}"
        if isinstance(coefficient, Mapping):
            if set(coefficient) != set(experts):
                raise RecipeError(f"{place}: expected one value for each of {', '.join(experts)}, got {coefficient!r}")
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
        raise RecipeError(f"{where}: expected a finite number, got {value!r}")
    return float(value)
