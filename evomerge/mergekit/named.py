"""The merges of one file, ours or mergekit's, and which other merges each of them takes for a model.

Knows what a file says. Does not know in which order merges are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown
from evomerge.files.outside import read_text
from evomerge.files.places import YAML_ENDS, is_folder, is_there, local
from evomerge.mergekit.adapted import AdaptedModels
from evomerge.mergekit.documents import documents_of, mapping
from evomerge.mergekit.read import from_data
from evomerge.recipe.recipe import Recipe

_REFERENCES = ("model", "base_model", "tokenizer_source", "source", "path")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedMerge:
    """One merge of a file.

    Attributes:
        name: as others of the file call its result; None for the last merge of a file, which needs none.
        needs: the names of the file's merges whose results it merges, in the file's order.
        files: other files whose merges' results it merges, by what it calls them.
        where: what to call it in messages.
    """

    name: str | None
    needs: tuple[str, ...]
    files: Mapping[str, Path]
    where: str
    _data: Mapping[str, Any]
    _folder: Path

    def recipe(self, made: Mapping[str, Path], *, report: Callable[[str], None] | None = None) -> Recipe:
        """The recipe, for results that lie in the folders `made`, by what this merge calls them.

        Raises: RecipeError, CheckpointError.
        """
        folders = {called: str(made[called].absolute()) for called in (*self.needs, *self.files)}
        if _is_ours(self._data):
            data = _replaced_in_ours(self._data, folders)
            return Recipe.from_data(data, where=self.where).relative_to(self._folder)
        data = _replaced(self._data, folders)
        return from_data(data, where=self.where, folder=self._folder, report=report)


def merge_of(recipe: Recipe) -> NamedMerge:
    """A recipe that is at hand as the merge of a file in the current folder. Raises: RecipeError, as `merges_in`."""
    return _merge(recipe.to_data(), None, "recipe", Path(), ())


def merges_in(path: Path) -> list[NamedMerge]:
    """The merges that a file holds, in its order; none of a file of one document that is no merge.

    A model with an adapter that isn't its merge's base is a merge of its own, after the others.

    Raises: RecipeError for a file that can't be read or whose documents aren't merges.
    """
    documents = documents_of(read_text(path, RecipeError), str(path))
    if not documents or (len(documents) == 1 and not is_merge(documents[0])):
        return []
    entries = [mapping(document, f"{path}: document {number}", None) for number, document in enumerate(documents, 1)]
    names = [_name(entry, f"{path}: document {number}") for number, entry in enumerate(entries, 1)]
    adapted = AdaptedModels(path.parent, {name for name in names if name is not None})
    entries = [entry if _is_ours(entry) else adapted.rewritten(entry) for entry in entries]
    entries += adapted.merges.values()
    names += adapted.merges
    merges: list[NamedMerge] = []
    for number, (entry, name) in enumerate(zip(entries, names, strict=True), 1):
        where = (
            str(path) if len(documents) == 1 else f"{path}: document {number}" if name is None else f"{path}: {name}"
        )
        if not is_merge(entry):
            raise RecipeError(
                f"{where}: expected a merge of mergekit, with merge_method, or a recipe, with evomerge: 1; give other "
                "files one by one"
            )
        if name in names[: number - 1]:
            raise RecipeError(f"{where}: {'two merges have no name' if name is None else 'two merges have this name'}")
        merges.append(_merge(entry, name, where, path.parent, [other for other in names if other is not None]))
    return merges


def _merge(
    data: Mapping[str, Any], name: str | None, where: str, folder: Path, others: list[str] | tuple[()]
) -> NamedMerge:
    is_ours = _is_ours(data)
    called = list(_called_in_ours(data) if is_ours else _called(data))
    places = [folder] if is_ours else [Path(), folder]
    return NamedMerge(
        name=name,
        needs=tuple(other for other in others if other in called),
        files={
            text: file
            for text in called
            if text not in others and text.endswith(YAML_ENDS) and (file := _file(text, places, where)) is not None
        },
        where=where,
        _data=data,
        _folder=folder,
    )


def _file(text: str, places: list[Path], where: str) -> Path | None:
    """The file that is called so; None for a folder, which is a model."""
    for place in places:
        if is_there(path := place / local(text)):
            return None if is_folder(path) else path
    raise RecipeError(f"{where}: {text}: no such file; a model's folder, a hub id or another file of a merge is meant")


def _is_ours(data: Any) -> bool:
    return isinstance(data, Mapping) and "evomerge" in data


def is_merge(data: Any) -> bool:
    """Whether plain data is a merge, to judge by its keys."""
    return _is_ours(data) or (isinstance(data, Mapping) and "merge_method" in data)


def _name(entry: Mapping[str, Any], where: str) -> str | None:
    name = entry.get("name")
    if name is None:
        return None
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\+@"):
        raise RecipeError(f"{where}: name: expected a word that a folder can be called by, got {shown(name)}")
    return name


def _called_in_ours(data: Mapping[str, Any]) -> Iterator[str]:
    """What models are called in a recipe's data; what isn't right there is for the recipe's reader to refuse."""
    for reference in _models(data).values():
        path = reference.get("path") if isinstance(reference, Mapping) else reference
        if isinstance(path, str):
            yield path


def _replaced_in_ours(data: Mapping[str, Any], folders: Mapping[str, str]) -> Mapping[str, Any]:
    """A recipe's data with folders in place of merges; nothing else is touched."""
    if not folders:
        return data

    def replaced(reference: Any) -> Any:
        path = reference.get("path") if isinstance(reference, Mapping) else reference
        return folders.get(path, reference) if isinstance(path, str) else reference

    models = data["models"]
    experts = {name: replaced(reference) for name, reference in models["experts"].items()}
    return {**data, "models": {**models, "base": replaced(models.get("base")), "experts": experts}}


def _models(data: Mapping[str, Any]) -> Mapping[Any, Any]:
    """The base, under None, and the experts of a recipe's data; none where they aren't mappings."""
    models = data.get("models")
    experts = models.get("experts") if isinstance(models, Mapping) else None
    return {None: models.get("base"), **experts} if isinstance(models, Mapping) and isinstance(experts, Mapping) else {}


def _called(value: Any) -> Iterator[str]:
    """What models are called in a mergekit file's data, without their adapters."""
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
    """A mergekit file's data with folders in place of merges."""
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
