"""The plain data of mergekit's files: mappings, lists and models, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError, shown, unknown
from evomerge.files.outside_yaml import parse_documents
from evomerge.files.places import is_folder, local
from evomerge.recipe.sources import ModelReference

_RESERVED = {"base", "uniform", "winner", "mean"}


def parsed(text: str, where: str) -> Any:
    """YAML as plain data. Raises: RecipeError, also for several documents."""
    documents = documents_of(text, where)
    if len(documents) > 1:
        raise RecipeError(f"{where}: holds {len(documents)} documents, separated by ---; give one of them")
    return documents[0] if documents else None


def documents_of(text: str, where: str) -> list[Any]:
    """Each YAML document that isn't empty as plain data. Raises: RecipeError."""
    return [document for document in parse_documents(text, where, RecipeError) if document is not None]


def reference(value: Any, where: str, folder: Path | None) -> ModelReference:
    """A model as mergekit spells it; a local folder is looked for from here and from `folder`, and made absolute.

    Raises: RecipeError, also for a model with an adapter.
    """
    model, adapter = with_adapter(value, where, folder)
    if adapter is not None:
        raise RecipeError(
            f"{where}: {model.path} with the adapter {adapter.path}: adding an adapter isn't supported here; "
            "merge it into its model first"
        )
    return model


def with_adapter(value: Any, where: str, folder: Path | None) -> tuple[ModelReference, ModelReference | None]:
    """A model as `reference` gives it, and the adapter that mergekit would first merge into it, if any.

    Raises: RecipeError, also for a replaced architecture, which isn't supported.
    """
    if isinstance(value, Mapping):
        data = mapping(value, where, {"model", "lora", "override_architecture"})
        if data.get("override_architecture") is not None:
            raise RecipeError(f"{where}.override_architecture: isn't supported; remove it")
        adapter = data.get("lora")
        found = None if adapter is None else _one_model(adapter, f"{where}.lora", folder)
        return _one_model(data.get("model"), f"{where}.model", folder), found
    if not isinstance(value, str) or value.count("+") != 1:
        return _one_model(value, where, folder), None
    model, _, adapter = value.partition("+")
    return _one_model(model, where, folder), _one_model(adapter, where, folder)


def _one_model(value: Any, where: str, folder: Path | None) -> ModelReference:
    if isinstance(value, Mapping):
        data = mapping(value, where, {"path", "revision"})
        path, revision = data.get("path"), data.get("revision")
        if not isinstance(path, str) or not path:
            raise RecipeError(f"{where}.path: expected a folder or a hub id, got {shown(path)}")
        return _local(path, revision, folder)
    if not isinstance(value, str) or not value:
        raise RecipeError(f"{where}: expected a folder or a hub id, got {shown(value)}")
    if "+" in value:
        raise RecipeError(f"{where}: {value!r}: has more than one +, which stands between a model and one adapter")
    path, _, revision = value.partition("@")
    return _local(path, revision or None, folder)


def _local(path: str, revision: Any, folder: Path | None) -> ModelReference:
    for place in (local(path), *(() if folder is None else (folder / path,))):
        if is_folder(place):
            return ModelReference(path=str(place.resolve()))
    return ModelReference(path=path, revision=None if revision is None else str(revision))


def mapping(value: Any, where: str, known: set[str] | None) -> Mapping[str, Any]:
    """The value, if it is a mapping of known keys; None knows every key. Raises: RecipeError."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where}: expected a mapping, got {shown(value)}")
    for key in value:
        if known is not None and key not in known:
            raise RecipeError(f"{where}: {unknown('key', str(key), known)}")
    return value


def sequence(value: Any, where: str) -> list[Any]:
    """The value, if it is a list with something in it. Raises: RecipeError."""
    if not isinstance(value, list) or not value:
        raise RecipeError(f"{where}: expected a list with at least one entry, got {shown(value)}")
    return value


def named(models: Iterable[ModelReference]) -> dict[str, ModelReference]:
    """Give each model a short name, made from the last part of its path, that recipes and configs accept."""
    experts: dict[str, ModelReference] = {}
    for model in models:
        last = model.path.rstrip("/").rpartition("/")[2]
        plain = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in last) or "model"
        name, number = plain, 1
        while name in experts or name in _RESERVED:
            number += 1
            name = f"{plain}_{number}"
        experts[name] = model
    return experts
