"""Merges of merges: files whose models are merges of the same file, by name, or other files of merges.

Knows the order in which they are to be made. Does not make them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evomerge.errors import RecipeError, unknown
from evomerge.mergekit.named import NamedMerge, merge_of, merges_in
from evomerge.mergekit.read import load_recipe
from evomerge.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of several merges to make.

    Attributes:
        name: what its result is called by, unlike that of every other step; may be None for the last one.
        where: what to call it in messages.
        needs: the names of the steps whose results it merges, by what its file calls them.
    """

    name: str | None
    where: str
    needs: Mapping[str, str]
    _merge: NamedMerge

    def recipe(self, made: Mapping[str, Path], *, report: Callable[[str], None] | None = None) -> Recipe:
        """The recipe, for results that lie in the folders `made`, by step. Raises: RecipeError, CheckpointError."""
        return self._merge.recipe({called: made[step] for called, step in self.needs.items()}, report=report)


def several_merges(source: Path | Recipe, *, name: str | None = None) -> tuple[Step, ...]:
    """The merges to make, one after the other; the last one is the one that was asked for.

    Args:
        source: a recipe or mergekit file, or a recipe, whose paths are then from the current folder.
        name: of the merge of the file to make; None: the one without a name, or else the one that no other merges.

    Returns: nothing for a single merge that needs no other.

    Raises: RecipeError for a file that can't be read or isn't right, a name that isn't there, and merges that are made
    from their own results.
    """
    order = _Order()
    if isinstance(source, Recipe):
        order.add(Path(), merge_of(source), ())
        return tuple(order.steps.values()) if len(order.steps) > 1 else ()
    merges = order.of(source)
    if not merges and name is None:
        return ()
    order.add(source.resolve(), order.last(source, name), ())
    return tuple(order.steps.values()) if len(order.steps) > 1 or name is not None or len(merges) > 1 else ()


def files_of(source: Path) -> tuple[Path, ...]:
    """The file of a merge, and those of the merges that it needs, each once. Raises: RecipeError."""
    order = _Order()
    if order.of(source):
        order.add(source.resolve(), order.last(source), ())
    return tuple(order.files)


_Key = tuple[Path, str | None]


@dataclass(slots=True)
class _Order:
    """Merges of any number of files, each after those whose results it merges."""

    steps: dict[_Key, Step] = field(default_factory=dict)
    files: dict[Path, list[NamedMerge]] = field(default_factory=dict)
    _names: set[str | None] = field(default_factory=set)

    def of(self, path: Path) -> list[NamedMerge]:
        """The merges of a file, which is read once."""
        key = path.resolve()
        if key not in self.files:
            self.files[key] = merges_in(path)
        return self.files[key]

    def last(self, path: Path, name: str | None = None) -> NamedMerge:
        """The merge that is meant by a file, or that of this name."""
        merges = self.of(path)
        known = {merge.name: merge for merge in merges if merge.name is not None}
        if name is not None:
            if name not in known:
                raise RecipeError(f"{path}: {unknown('merge', name, known)}")
            return known[name]
        if not merges:
            # Says what the file is instead.
            load_recipe(path)
            raise RecipeError(f"{path}: holds no merge")
        used = {need for merge in merges for need in merge.needs}
        last = [merge for merge in merges if merge.name is None] or [
            merge for merge in merges if merge.name not in used
        ]
        if len(last) > 1:
            raise RecipeError(
                f"{path}: holds several merges that no other merges, {', '.join(str(merge.name) for merge in last)}; "
                "say which of them to make by its name"
            )
        return (last or merges)[0]

    def add(self, file: Path, merge: NamedMerge, above: tuple[_Key, ...]) -> str:
        """Put a merge of a file behind those that it needs; the name of its step."""
        key = (file, merge.name)
        if key not in self.steps:
            needs: dict[str, str] = {}
            for called, (path, other) in self._needed(file, merge).items():
                if (path, other.name) in (*above, key):
                    raise RecipeError(f"{merge.where}: merges {called}, which is made from its result")
                needs[called] = self.add(path, other, (*above, key))
            name = self._free(merge.name or file.stem) if above else merge.name
            self.steps[key] = Step(name=name, where=merge.where, needs=needs, _merge=merge)
        return str(self.steps[key].name)

    def _needed(self, file: Path, merge: NamedMerge) -> dict[str, tuple[Path, NamedMerge]]:
        own = {other.name: other for other in self.files.get(file, ())}
        return {
            **{need: (file, own[need]) for need in merge.needs},
            **{called: (path.resolve(), self.last(path)) for called, path in merge.files.items()},
        }

    def _free(self, wanted: str) -> str:
        """A name that no other step has."""
        name, number = wanted, 1
        while name in self._names:
            number += 1
            name = f"{wanted}_{number}"
        self._names.add(name)
        return name
