"""Recipes: the complete, declarative description of one merge, as YAML.

A recipe names its models, its method with options, the coefficients of every parameter group, the
dtype and the seed. Realising it needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown
from evomerge.files.outside import check_plain, read_text
from evomerge.recipe.align import parse_align
from evomerge.recipe.group import Group
from evomerge.recipe.parse import (
    parse_group,
    parse_head,
    parse_mapping,
    parse_reference,
    parse_slices,
    parse_vocabulary,
)
from evomerge.recipe.sources import ModelReference, Sources, located, reference_to_data, slice_to_data

FORMAT_VERSION = 1
FLOATING = ("float32", "bfloat16", "float16", "float64")
"""dtypes that a recipe may ask for, beside "auto"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Sources):
    """A complete merge: its sources, and what is made of them.

    Each tensor takes the coefficients of the first group that contains it.
    """

    method: str
    groups: tuple[Group, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    seed: int = 0

    @classmethod
    def of(cls, sources: Sources, **merge: Any) -> Recipe:
        """What is made of these sources; `merge` are the other fields."""
        return cls(**{part.name: getattr(sources, part.name) for part in fields(Sources)}, **merge)

    def key(self) -> str:
        """A hash of everything that determines the merged tensors; group names don't count."""
        data = self.to_data()
        for group in data["groups"]:
            del group["name"]
        if self.slices:
            # The first model of a slice has a meaning of its own, which sorted keys would lose.
            data["models"]["slices"] = [list(slice_to_data(part).items()) for part in self.slices]
        if self.align is not None:
            # Maps are what they are wherever their file lies.
            data["models"]["align"].pop("maps", None)
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_data(self) -> dict[str, Any]:
        """The recipe as plain lists, dicts and scalars, in the order in which it is written."""
        return {
            "evomerge": FORMAT_VERSION,
            "models": {
                "base": reference_to_data(self.base),
                "experts": {name: reference_to_data(ref) for name, ref in self.experts.items()},
                **({"vocabulary": self.vocabulary} if self.vocabulary != "same" else {}),
                **({"head": self.head} if self.head is not None else {}),
                **({"slices": [slice_to_data(part) for part in self.slices]} if self.slices else {}),
                **({"align": self.align.to_data()} if self.align is not None else {}),
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
        from evomerge.files.outside_yaml import parse_yaml

        return cls.from_data(parse_yaml(text, where, RecipeError), where=where)

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a recipe file; relative model paths are relative to the file's folder."""
        path = Path(path)
        recipe = cls.from_yaml(read_text(path, RecipeError), where=str(path))
        return recipe.relative_to(path.parent)

    def relative_to(self, folder: Path) -> Recipe:
        """The same recipe with model paths below `folder` made absolute."""

        def resolve(reference: ModelReference) -> ModelReference:
            return replace(reference, path=located(reference.path, folder))

        return replace(
            self,
            base=resolve(self.base),
            experts={name: resolve(reference) for name, reference in self.experts.items()},
            align=None if self.align is None else self.align.from_folder(folder),
        )

    @classmethod
    def from_data(cls, data: Any, *, where: str = "recipe") -> Recipe:
        """Build a recipe from plain data. Its `name`, by which others of its file call it, is no part of it.

        Raises: RecipeError for unknown, missing or malformed keys.
        """
        check_plain(data, where, RecipeError)
        top = parse_mapping(data, where, {"evomerge", "name", "models", "method", "options", "dtype", "seed", "groups"})
        version = top.get("evomerge")
        if version != FORMAT_VERSION:
            raise RecipeError(
                f"{where}: evomerge: format version {shown(version)}; this release reads {FORMAT_VERSION}"
            )
        models = parse_mapping(
            top.get("models"), f"{where}: models", {"base", "experts", "vocabulary", "head", "slices", "align"}
        )
        experts = parse_mapping(models.get("experts"), f"{where}: models.experts", None)
        if not experts:
            raise RecipeError(f"{where}: models.experts: name at least one expert")
        method = top.get("method")
        if not isinstance(method, str):
            raise RecipeError(f"{where}: method: expected a method's name, got {shown(method)}")
        seed = top.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise RecipeError(f"{where}: seed: expected an integer, got {shown(seed)}")
        groups = top.get("groups") or []
        if not isinstance(groups, list):
            raise RecipeError(f"{where}: groups: expected a list, got {shown(groups)}")
        return cls(
            base=parse_reference(models.get("base"), f"{where}: models.base"),
            experts={
                str(name): parse_reference(value, f"{where}: models.experts.{name}") for name, value in experts.items()
            },
            method=method,
            options=dict(parse_mapping(top.get("options") or {}, f"{where}: options", None)),
            dtype=str(top.get("dtype", "auto")),
            seed=seed,
            vocabulary=parse_vocabulary(models.get("vocabulary", "same"), f"{where}: models.vocabulary"),
            head=parse_head(models.get("head"), f"{where}: models.head", ("base", *map(str, experts))),
            slices=parse_slices(models.get("slices"), f"{where}: models.slices", ("base", *map(str, experts))),
            align=parse_align(models.get("align"), f"{where}: models.align", ("base", *map(str, experts))),
            groups=tuple(
                parse_group(group, f"{where}: groups[{index}]", tuple(map(str, experts)))
                for index, group in enumerate(groups)
            ),
        )
