"""Where a merge's tensors come from: models, alignment, vocabulary, slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from evomerge.files.places import is_folder, is_there, local
from evomerge.recipe.align import Align

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
class Sources:
    """Where all tensors of a merge come from."""

    base: ModelReference
    experts: Mapping[str, ModelReference]
    vocabulary: VocabularyPolicy = "same"
    slices: tuple[Slice, ...] = ()
    """The layers that the merge has, in order; none stands for those of the base."""
    head: str | None = None
    """"base" or an expert, whose output head the merge has as it is; None: heads are merged like all else."""
    align: Align | None = None
    """How models trained apart are brought together first; None: they are merged as they are."""

    @property
    def references(self) -> dict[str, ModelReference]:
        """The base, as "base", and the experts by name."""
        return {"base": self.base, **self.experts}


def located(path: str, folder: Path) -> str:
    """A model's path or hub id, made absolute if it is a path below `folder`, where nothing need be at its end.

    A mistyped `experts/swahli` looks like a hub id; where there is a folder `experts` it isn't one.
    """
    candidate = folder / local(path)
    return str(candidate.resolve()) if is_there(candidate) or begins_here(path, folder) else path


def begins_here(path: str, folder: Path) -> bool:
    """Whether what looks like a hub id begins with a folder in `folder`, and is of no model in the hub's cache."""
    first, slash, _ = path.partition("/")
    if not (first and slash and is_folder(folder / first)):
        return False
    from huggingface_hub.constants import HF_HUB_CACHE

    return not is_folder(Path(HF_HUB_CACHE) / f"models--{path.replace('/', '--')}")


def reference_to_data(reference: ModelReference) -> dict[str, str]:
    """A reference as plain data."""
    data = {"path": reference.path}
    if reference.revision is not None:
        data["revision"] = reference.revision
    return data


def slice_to_data(part: Slice) -> dict[str, list[int]]:
    """A slice as plain data."""
    return {model: list(layers) for model, layers in part.items()}
