"""Merges of models with vocabularies of their own, and their rows token by token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from evomerge.models.open import Models, open_models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference, Sources

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def opened(folders: Mapping[str, Path], vocabulary: Any) -> Models:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return open_models(Sources(base=references.pop("base"), experts=references, vocabulary=vocabulary))


def recipe_of(folders: Mapping[str, Path], vocabulary: Any = "union", **weights: float) -> Recipe:
    references = {name: ModelReference(path=str(folder)) for name, folder in folders.items()}
    return Recipe(
        base=references.pop("base"),
        experts=references,
        method="task_arithmetic",
        groups=(Group(name="all", coefficients={"weight": weights}),),
        vocabulary=vocabulary,
    )


def rows(folder: Path, name: str = EMBEDDING) -> dict[str, Tensor]:
    """A row of a stored tensor for each token, in float64."""
    stored = load_file(folder / "model.safetensors")
    tensor = stored[name]
    return {
        token: tensor[number].double() for token, number in AutoTokenizer.from_pretrained(folder).get_vocab().items()
    }
