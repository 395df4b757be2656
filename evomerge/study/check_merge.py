"""What is wrong with a file of merges, and what they will take, before any of them is made.

Reads names and shapes, no tensor. Does not ask the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from evomerge.config.models import key_of
from evomerge.errors import CheckpointError, RecipeError, listed
from evomerge.files.outside import read_text
from evomerge.materialise.folder import write_outline
from evomerge.materialise.merger import Merger
from evomerge.mergekit.documents import documents_of
from evomerge.mergekit.named import is_merge
from evomerge.mergekit.read import load_recipe
from evomerge.mergekit.several import several_merges
from evomerge.models.hub import whereabouts
from evomerge.models.open import as_outlined_family, notes_of, open_each
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference

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
    recipes: dict[str | None, Recipe] = field(default_factory=dict)
    """By merge, how it is made, with outlines in the place of the merges before it; none of those that lack some."""
    outlines: dict[str | None, Path] = field(default_factory=dict)
    """By merge, a folder that opens as its result will; none of what couldn't be looked at."""


def holds_merges(path: Path) -> bool:
    """Whether a file is of merges, ours or mergekit's, to judge by its keys; not if it can't be read."""
    try:
        return any(map(is_merge, documents_of(read_text(path, RecipeError), str(path))))
    except RecipeError:
        return False


def check_merges(path: Path) -> MergesFound:
    """Look at the merges that `merge` would make of a file. What couldn't be looked at is in `unchecked`.

    Raises: RecipeError, CheckpointError, AlignmentError, MergeError with the place in the file and what would be right.
    """
    with TemporaryDirectory(prefix="evomerge-") as place:
        return look_at_merges(path, Path(place))


Fetch = Callable[[str, ModelReference], object]
"""Is given each model of a merge, by its name there, before it is looked at, and may have it downloaded."""


def look_at_merges(path: Path, place: Path, fetch: Fetch = lambda role, reference: None) -> MergesFound:
    """As `check_merges`, with outlines of the results in the folder `place`, by which later merges are looked at."""
    found = MergesFound()
    steps = several_merges(path)
    if not steps:
        _look(found, None, load_recipe(path, report=found.notes.append), str(path), place, fetch)
        return found
    for step in steps:
        name = None if step is steps[-1] else str(step.name)
        if unseen := [need for need in step.needs.values() if need not in found.outlines]:
            found.unchecked.append(f"{name or _LAST}, before {listed(unseen)} has been made")
            merges = tuple(step.needs.values())
            found.merges.append(MergeFound(name=name, method=None, merges=merges, size_bytes=None))
            continue
        made = {need: found.outlines[need] for need in step.needs.values()}
        _look(found, name, step.recipe(made, report=found.notes.append), step.where, place, fetch)
    return found


def _look(found: MergesFound, name: str | None, recipe: Recipe, where: str, place: Path, fetch: Fetch) -> None:
    """Bind a recipe to its models if they are here, and make an outline of its result."""
    found.recipes[name] = recipe
    stand_ins = {str(folder.resolve()): str(made) for made, folder in found.outlines.items()}
    experts = [(role, reference) for role, reference in recipe.references.items() if role != "base"]
    merges = tuple(stand_ins.get(str(Path(reference.path).resolve()), role) for role, reference in experts)
    for role, reference in recipe.references.items():
        if str(Path(reference.path).resolve()) not in stand_ins:
            fetch(role, reference)
    size = None
    places = {role: whereabouts(reference) for role, reference in recipe.references.items()}
    for role, at in places.items():
        if at.kind == "impossible":
            raise CheckpointError(f"{where}: {key_of(role)}: {at.message}")
    away = {at.message for at in places.values() if at.kind == "unresolved"}
    if away:
        found.unchecked.append(f"whether the models of {name or _LAST} fit each other: {'; '.join(sorted(away))}")
    else:
        try:
            models = as_outlined_family(open_each(recipe), recipe)
            merger = Merger(models)
            bound = merger.bind(recipe)
        except RecipeError as error:
            raise RecipeError(f"{where}: {str(error).removeprefix('recipe: ')}") from error
        size = bound.size_bytes
        if recipe.align is not None:
            of = "" if name is None else f"{name}: "
            found.notes.append(f"{of}the models are aligned by {recipe.align.method} when they are merged")
        found.notes.extend([*notes_of(models), *merger.notes(bound)])
        # A mergekit file calls an expert by its folder's name.
        found.outlines[name] = place / str(len(found.outlines)) / (name or "merge")
        write_outline(recipe, found.outlines[name], merger, bound)
    found.merges.append(MergeFound(name=name, method=recipe.method, merges=merges, size_bytes=size))
