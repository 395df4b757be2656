"""What tells the merge of a file from others, whatever the file, its form and the merges before it are called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.files.places import local
from evomerge.recipe.portable import is_local
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.study.check_merge import look_at_merges


def merge_key(path: Path) -> str:
    """A hash of what the merges of a file merge, how, and in which order: of models' places, not of their content.

    So a mergekit file and the recipe that an export has of it have the same.

    Raises: RecipeError, CheckpointError, AlignmentError, MergeError for merges that can't be made, or whose models have
        to be on this machine for it.
    """
    with TemporaryDirectory(prefix="evomerge-") as place:
        found = look_at_merges(path, Path(place))
    keys: dict[str, str] = {}
    for name, recipe in found.recipes.items():
        content = json.dumps(_content(recipe, keys))
        key = hashlib.sha256(content.encode()).hexdigest()
        if name is None:
            return key
        if name in found.outlines:
            keys[str(found.outlines[name])] = key
    raise CheckpointError(f"{path}: can't be told from other merges: {'; '.join(found.unchecked)}")


def _content(recipe: Recipe, keys: Mapping[str, str]) -> Any:
    """A recipe as plain data, with keys in the place of merges, experts by number, and nothing of where a file lies."""
    numbers = {name: number for number, name in enumerate(recipe.experts)}

    def numbered(section: Mapping[str, Any]) -> dict[str, Any]:
        return {key: _by_number(value, numbers) for key, value in section.items()}

    data = recipe.to_data()
    # Only here are experts named: elsewhere the same word is a kind of tensors, a group or a method.
    naming = {key: data["models"][key] for key in ("head", "slices") if key in data["models"]}
    align = None if recipe.align is None else {**recipe.align.to_data(), "maps": None}
    return [
        [_place(reference, keys) for reference in recipe.references.values()],
        {
            **data,
            "models": {"vocabulary": recipe.vocabulary, "align": align, **numbered(naming)},
            "options": numbered(data["options"]),
            "groups": [{**group, "coefficients": numbered(group["coefficients"])} for group in data["groups"]],
        },
    ]


def _place(reference: ModelReference, keys: Mapping[str, str]) -> list[str | None]:
    if reference.path in keys:
        return ["merge", keys[reference.path]]
    path = str(local(reference.path).resolve()) if is_local(reference) else reference.path
    return [path, reference.revision]


def _by_number(value: Any, numbers: Mapping[str, int]) -> Any:
    """Plain data with an expert's number wherever its name is a key or a value."""
    if isinstance(value, Mapping):
        return [[_by_number(key, numbers), _by_number(entry, numbers)] for key, entry in value.items()]
    if isinstance(value, list | tuple):
        return [_by_number(entry, numbers) for entry in value]
    return ["expert", numbers[value]] if isinstance(value, str) and value in numbers else value
