"""One merge, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from evomerge.materialise.folder import write_folder
from evomerge.mergekit.read import load_recipe
from evomerge.recipe.recipe import Recipe


def merge(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    shard_size: str | int = "5GB",
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    carry_code: bool = False,
) -> Path:
    """Realise a recipe as a model folder that transformers loads.

    Args:
        recipe: the merge, or the path of a recipe or mergekit file.
        out: the folder to make; it must not exist, or be empty.
        shard_size: largest weight file, such as "5GB", "500MB" or a number of bytes.
        progress: called with bytes written and bytes in all after each tensor.
        report: called with each sentence that a person should know, before anything is written.
        device: where tensors are merged.
        carry_code: take Python files of the base along, and the `auto_map` that names them. They aren't run here.

    Returns: `out` as a path.

    Raises: ExportError, CheckpointError, RecipeError, MergeError: as `write_folder`.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, report=report)
    return write_folder(
        recipe, out, shard_size=shard_size, progress=progress, report=report, device=device, carry_code=carry_code
    )
