"""Adapters of other models than a merge's base, which are merged into their models first, as in mergekit.

Knows plain data alone: each such pair becomes a merge of its own, which the file's merge then calls by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError
from evomerge.mergekit.documents import named, with_adapter
from evomerge.recipe.sources import ModelReference


@dataclass(slots=True)
class AdaptedModels:
    """The models with adapters that are merged first, found while documents are rewritten.

    Attributes:
        folder: where local models are looked for after the current folder.
        taken: names that other merges have.
        merges: a merge file's data for each of them, by its name.
    """

    folder: Path
    taken: set[str]
    merges: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _names: dict[tuple[ModelReference, ModelReference], str] = field(default_factory=dict)

    def rewritten(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """A document that calls models with adapters by name, but for adapters of the merge's own base."""
        base = self._read(entry.get("base_model"))
        if base is None:
            first = next(iter(_sources(entry)), None)
            base = None if first is None else self._read(first)
        # A base with an adapter is merged first too, so that no adapter is one of it.
        own = None if base is None or (base[1] is not None and "base_model" in entry) else base[0]
        changed: Mapping[str, Any] = _changed(entry, lambda value: self._called(value, own))
        return changed

    def _called(self, value: Any, base: ModelReference | None) -> Any:
        found = self._read(value)
        if found is None or found[1] is None or found[0] == base:
            return value
        pair = (found[0], found[1])
        if pair not in self._names:
            whole, adapter = (next(iter(named([part]))) for part in pair)
            name, number = f"{whole}-{adapter}", 1
            while name in self.taken:
                number += 1
                name = f"{whole}-{adapter}_{number}"
            self.taken.add(name)
            self._names[pair] = name
            model, lora = (_spelled(part) for part in pair)
            self.merges[name] = {
                "name": name,
                "merge_method": "task_arithmetic",
                "base_model": {"model": model},
                "models": [{"model": {"model": model, "lora": lora}, "parameters": {"weight": 1.0}}],
            }
        return self._names[pair]

    def _read(self, value: Any) -> tuple[ModelReference, ModelReference | None] | None:
        """A model and its adapter; None for what is none, which is refused where it is merged."""
        try:
            return with_adapter(value, "", self.folder)
        except RecipeError:
            return None


def _spelled(model: ModelReference) -> dict[str, str]:
    return {"path": model.path} if model.revision is None else {"path": model.path, "revision": model.revision}


def _sources(value: Any) -> list[Any]:
    """The models of a document, in order."""
    if isinstance(value, Mapping):
        own = [value["model"]] if "model" in value else []
        return [*own, *(model for key, part in value.items() if key != "model" for model in _sources(part))]
    return [model for part in value for model in _sources(part)] if isinstance(value, list) else []


def _changed(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: change(part) if key in {"model", "base_model"} else _changed(part, change)
            for key, part in value.items()
        }
    return [_changed(part, change) for part in value] if isinstance(value, list) else value
