"""Files of mergekit-multi: several merges, some of which merge the results of others, which they call by name.

Knows the order in which they are to be made. Does not make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown, unknown
from evomerge.files.outside import read_text
from evomerge.mergekit.adapted import AdaptedModels
from evomerge.mergekit.documents import documents_of, mapping
from evomerge.mergekit.read import from_data
from evomerge.recipe.recipe import Recipe

_REFERENCES = ("model", "base_model", "tokenizer_source", "source", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMerge:
    """One merge of a file that holds several.

    Attributes:
        name: as others call its result; None for the last merge of a file, which needs none.
        needs: the names of the merges whose results it merges, in the file's order.
        where: what to call it in messages.
    """

    name: str | None
    needs: tuple[str, ...]
    where: str
    _data: Mapping[str, Any]
    _folder: Path

    def recipe(self, made: Mapping[str, Path], *, report: Callable[[str], None] | None = None) -> Recipe:
        """The recipe, for results that lie in the folders `made`, by name. Raises: RecipeError, CheckpointError."""
        data = _replaced(self._data, {name: str(made[name].absolute()) for name in self.needs})
        return from_data(data, where=self.where, folder=self._folder, report=report)


def several_merges(path: Path, *, name: str | None = None) -> tuple[NamedMerge, ...]:
    """The merges of a file to make, one after the other; the last one is the one that was asked for.

    Args:
        path: the file.
        name: of the merge to make; None: the one without a name, or else the one that no other merges.

    Returns: nothing for a file that holds one merge at most, whose name is then its own affair. A model with an adapter
    that isn't the merge's base is a merge of its own.

    Raises: RecipeError for a file that can't be read or isn't right, and for a name that isn't there.
    """
    merges = _merges(path)
    if len(merges) <= 1 and name is None:
        return ()
    known = {merge.name: merge for merge in merges if merge.name is not None}
    used = {need for merge in merges for need in merge.needs}
    last = [merge for merge in merges if merge.name is None] or [merge for merge in merges if merge.name not in used]
    if name is not None:
        if name not in known:
            raise RecipeError(f"{path}: {unknown('merge', name, known)}")
        last = [known[name]]
    if len(last) > 1:
        raise RecipeError(
            f"{path}: holds several merges that no other merges, {', '.join(str(merge.name) for merge in last)}; say "
            "which of them to make by its name"
        )
    found: dict[str | None, NamedMerge] = {}
    for merge in last or merges[:1]:
        _add(merge, known, found, ())
    return tuple(found.values())


def _merges(path: Path) -> list[NamedMerge]:
    documents = documents_of(read_text(path, RecipeError), str(path))
    if len(documents) <= 1 and not (
        documents
        and isinstance(documents[0], Mapping)
        and "merge_method" in documents[0]
        and "evomerge" not in documents[0]
    ):
        return []
    merges: list[NamedMerge] = []
    entries = [mapping(document, f"{path}: document {number}", None) for number, document in enumerate(documents, 1)]
    names = [_name(entry, f"{path}: document {number}") for number, entry in enumerate(entries, 1)]
    adapted = AdaptedModels(path.parent, {name for name in names if name is not None})
    entries = [adapted.rewritten(entry) for entry in entries]
    entries += adapted.merges.values()
    names += adapted.merges
    for number, (entry, name) in enumerate(zip(entries, names, strict=True), 1):
        where = (
            str(path) if len(documents) == 1 else f"{path}: document {number}" if name is None else f"{path}: {name}"
        )
        if "merge_method" not in entry or "evomerge" in entry:
            raise RecipeError(f"{where}: expected a merge of mergekit, with merge_method; give other files one by one")
        if name in names[: number - 1]:
            raise RecipeError(f"{where}: {'two merges have no name' if name is None else 'two merges have this name'}")
        called = set(_called(entry))
        needs = tuple(other for other in names if other is not None and other in called)
        merges.append(NamedMerge(name=name, needs=needs, where=where, _data=entry, _folder=path.parent))
    return merges


def _name(entry: Mapping[str, Any], where: str) -> str | None:
    name = entry.get("name")
    if name is None:
        return None
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\+@"):
        raise RecipeError(f"{where}: name: expected a word that a folder can be called by, got {shown(name)}")
    return name


def _add(
    merge: NamedMerge, known: Mapping[str, NamedMerge], found: dict[str | None, NamedMerge], above: tuple[str, ...]
) -> None:
    """Put a merge behind those whose results it merges."""
    for need in merge.needs:
        if need == merge.name or need in above:
            raise RecipeError(f"{merge.where}: merges {need}, which is made from its result")
        if need not in found:
            _add(known[need], known, found, (*above, *([] if merge.name is None else [merge.name])))
    found[merge.name] = merge


def _called(value: Any) -> Iterator[str]:
    """What models are called in a file's data, without their adapters."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key in _REFERENCES and isinstance(entry, str):
                yield entry.partition("+")[0]
            else:
                yield from _called(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _called(entry)


def _replaced(value: Any, folders: Mapping[str, str]) -> Any:
    """The data with folders in place of the names of merges."""
    if isinstance(value, Mapping):
        return {
            key: _in_folder(key, entry, folders)
            if key in _REFERENCES and isinstance(entry, str)
            else _replaced(entry, folders)
            for key, entry in value.items()
        }
    return [_replaced(entry, folders) for entry in value] if isinstance(value, list) else value


def _in_folder(key: str, text: str, folders: Mapping[str, str]) -> Any:
    name, plus, adapter = text.partition("+")
    if name not in folders:
        return text
    if key == "path":
        return folders[name]
    # As a mapping, since a folder's own path may hold + or @.
    path = {"path": folders[name]}
    return {"model": path, "lora": adapter} if plus else {"model": path}
