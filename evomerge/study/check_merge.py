"""What is wrong with a file of merges, and what they will take, before any of them is made.

Reads names and shapes, no tensor. Does not ask the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from evomerge.errors import CheckpointError, RecipeError, listed
from evomerge.files.outside import read_text
from evomerge.materialise.merger import Merger
from evomerge.mergekit.documents import documents_of
from evomerge.mergekit.named import is_merge
from evomerge.mergekit.read import load_recipe
from evomerge.mergekit.several import several_merges
from evomerge.models.hub import whereabouts
from evomerge.models.open import as_family, notes_of, open_each
from evomerge.recipe.recipe import Recipe

_LAST = "the last merge"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFound:
    """One merge as its file says it.

    Attributes:
        name: of its result; None for the merge that was asked for.
        merges: what it merges: the names of its models, or of the results of other merges.
        size_bytes: of its weights; None if that couldn't be looked at.
    """

    name: str | None
    method: str | None
    merges: tuple[str, ...]
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergesFound:
    """The merges of a file in the order in which they are made, with a sentence on each thing worth knowing."""

    merges: list[MergeFound] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def holds_merges(path: Path) -> bool:
    """Whether a file is of merges, ours or mergekit's, to judge by its keys; not if it can't be read."""
    try:
        return any(map(is_merge, documents_of(read_text(path, RecipeError), str(path))))
    except RecipeError:
        return False


def check_merges(path: Path) -> MergesFound:
    """Look at the merges that `merge` would make of a file.

    A result that isn't there yet is seen as its base, whose names and shapes it will have unless layers are stacked or
    vocabularies united.

    Raises: RecipeError, CheckpointError, MergeError with the place in the file and what would be right.
    """
    found = MergesFound()
    steps = several_merges(path)
    if not steps:
        _look(found, None, load_recipe(path, report=found.notes.append), str(path), {})
        return found
    made: dict[str, Path] = {}
    with TemporaryDirectory() as place:
        for step in steps:
            name = None if step is steps[-1] else str(step.name)
            if unseen := [need for need in step.needs.values() if need not in made]:
                found.unchecked.append(f"{name or _LAST}, before {listed(unseen)} has been made")
                merges = tuple(step.needs.values())
                found.merges.append(MergeFound(name=name, method=None, merges=merges, size_bytes=None))
                continue
            recipe = step.recipe(made, report=found.notes.append)
            base = _look(
                found, name, recipe, step.where, {str(folder.resolve()): need for need, folder in made.items()}
            )
            if base is not None and name is not None:
                made[name] = _stand_in(Path(place) / name, base)
    return found


def _look(
    found: MergesFound, name: str | None, recipe: Recipe, where: str, stand_ins: Mapping[str, str]
) -> Path | None:
    """Bind a recipe to its models if they are here; the model that its result can be seen as."""
    experts = [(role, reference) for role, reference in recipe.references.items() if role != "base"]
    merges = tuple(stand_ins.get(str(Path(reference.path).resolve()), role) for role, reference in experts)
    size, base = None, None
    places = {role: whereabouts(reference) for role, reference in recipe.references.items()}
    for role, place in places.items():
        if place.kind == "impossible":
            key = "models.base" if role == "base" else f"models.experts.{role}"
            raise CheckpointError(f"{where}: {key}: {place.message}")
    away = {place.message for place in places.values() if place.kind == "unresolved"}
    if away:
        found.unchecked.append(f"whether the models of {name or _LAST} fit each other: {'; '.join(sorted(away))}")
    elif recipe.align is not None:
        found.unchecked.append(f"{name or _LAST}, whose models are aligned when it is made")
    else:
        try:
            models = as_family(open_each(recipe), recipe)
            merger = Merger(models)
            bound = merger.bind(recipe)
        except RecipeError as error:
            raise RecipeError(f"{where}: {str(error).removeprefix('recipe: ')}") from error
        size = bound.size_bytes
        found.notes.extend([*notes_of(models), *merger.notes(bound)])
        if not recipe.slices and recipe.vocabulary == "same":
            base = places["base"].path
    found.merges.append(MergeFound(name=name, method=recipe.method, merges=merges, size_bytes=size))
    return base


def _stand_in(folder: Path, base: Path) -> Path:
    """A folder with the files of another model."""
    folder.mkdir()
    for file in base.absolute().iterdir():
        (folder / file.name).symlink_to(file)
    return folder
