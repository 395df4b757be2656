"""Merged models as folders in Hugging Face layout: streamed in shards, complete or not there at all.

Knows recipes and files. Does not know runs or scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.errors import ExportError
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import fresh_folder
from evomerge.files.obstacles import is_full, obstacle
from evomerge.files.places import local
from evomerge.kernels.dtypes import Dtype
from evomerge.late import torch
from evomerge.materialise.bind import Bound
from evomerge.materialise.loads import check_loads
from evomerge.materialise.merger import Merger
from evomerge.materialise.shards import parse_size, write_header, write_weights
from evomerge.models.carried import carry, with_dtype, without_code
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import as_family, maps_of, notes_of, open_each
from evomerge.models.private_paths import without_places
from evomerge.recipe.portable import portable
from evomerge.recipe.recipe import Recipe

RECIPE = "recipe.yaml"
"""The merge that a folder holds."""
MAPS = "alignment/maps.safetensors"
"""Where a folder holds the maps of the alignment that it was made with."""


def write_folder(
    recipe: Recipe,
    out: str | Path,
    *,
    shard_size: str | int = "5GB",
    progress: Callable[[int, int], None] | None = None,
    files: Mapping[str, str] | None = None,
    report: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    states: Path | None = None,
    carry_code: bool = False,
    maps: bytes | None = None,
    made_by: Mapping[str, str] | None = None,
) -> Path:
    """Realise a recipe as a model folder that transformers loads.

    Holds weights, config, the other files of the base but for what `carried` leaves out, the base's or the united
    tokenizer and recipe.yaml. That transformers loads config and tokenizer as it does the base's is tried before any
    weight is written. Tensors are merged and written one at a time. The folder appears by one rename at the end.

    Args:
        recipe: the merge.
        out: the folder to make; it must not exist, or be empty.
        shard_size: largest weight file, such as "5GB", "500MB" or a number of bytes; a larger tensor
            gets a file of its own.
        progress: called with bytes written and bytes in all after each tensor.
        files: further text files by name, such as a model card as README.md.
        report: called before anything is written with each sentence that a person should know of the models and the
            recipe, such as the tokens that were added.
        device: where tensors are merged.
        states: a folder that may hold what the method prepares, as that of a run does; None: nothing is.
        carry_code: take Python files of the base along, and the `auto_map` that names them. They aren't run here.
        maps: of the alignment that the recipe asks for, if they are at hand; None: as `maps_of` has them.
        made_by: by paths of models, those of `files` that hold their recipes, which recipe.yaml names in their place.

    Returns: `out` as a path.

    Raises:
        ExportError: `out` is taken, its disk is too small or can't be written to, or what loads of the base wouldn't
            load of the folder.
        CheckpointError, RecipeError, AlignmentError, MergeError: as from `open_models` and `Merger`.
    """
    out = local(out).absolute()
    limit = parse_size(shard_size)
    _refuse_taken(out)
    opened = open_each(recipe)
    maps = maps_of(opened, recipe) if maps is None else maps
    models = as_family(opened, recipe, maps)
    merger = Merger(models, device=device, states=states)
    bound = merger.bind(recipe)
    notes = [*notes_of(models), *merger.account(), *merger.notes(bound)]
    try:
        with fresh_folder(out) as folder:
            _refuse_small_disk(out, bound.size_bytes)
            if maps is not None:
                recipe = _write_maps(folder, recipe, maps)
            notes += _write_texts(folder, out, models.base, recipe, bound.kind, files or {}, carry_code, made_by or {})
            if report is not None:
                for note in notes:
                    report(note)
            check_loads(models.base, folder)
            write_weights(folder, merger, bound, limit, progress)
    except OSError as error:
        if isinstance(error, ExportError):
            raise
        room = f"; it needs {_gigabytes(bound.size_bytes)}{_free_space(out)}" if is_full(error) else ""
        raise ExportError(f"{out}: can't be written: {obstacle(error, out)}{room}. Nothing was left there") from error
    return out


def write_outline(recipe: Recipe, folder: Path, merger: Merger, bound: Bound) -> None:
    """Make a folder that opens as the merge will, whose tensors read as zeros and take no room.

    Args:
        recipe: the merge.
        folder: to make, for a while.
        merger: over the recipe's models.
        bound: the recipe, bound by it.
    """
    folder.mkdir(parents=True)
    _write_texts(folder, folder, merger.base, recipe, bound.kind, {}, False, {})
    write_header(folder, merger, bound)


def _write_maps(folder: Path, recipe: Recipe, maps: bytes) -> Recipe:
    """Put the maps of an alignment into a folder; the recipe that names them there."""
    from evomerge.models.alignment import digest

    assert recipe.align is not None
    (folder / MAPS).parent.mkdir(exist_ok=True)
    (folder / MAPS).write_bytes(maps)
    return replace(recipe, align=replace(recipe.align, maps=MAPS, sha256=digest(maps)))


def _refuse_taken(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ExportError(f"{out}: already holds files; choose another folder or empty this one")
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out}: is a file; give the name of a folder to make")


def _refuse_small_disk(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise ExportError(f"{out}: needs {_gigabytes(needed)}, and its disk has {_gigabytes(free)} free")


def _free_space(out: Path) -> str:
    """How much room there is, as the end of a sentence; empty if that can't be found out."""
    try:
        return f", and its disk has {_gigabytes(shutil.disk_usage(out.parent).free)} free"
    except OSError:
        return ""


def _gigabytes(size: int) -> str:
    return f"{size / 10**9:.2f} GB" if size >= 10**7 else f"{size / 10**6:.2f} MB"


def _write_texts(
    folder: Path,
    out: Path,
    base: Checkpoint,
    recipe: Recipe,
    kind: Dtype,
    files: Mapping[str, str],
    code: bool,
    made_by: Mapping[str, str],
) -> list[str]:
    """Write everything but the weights of `out` into `folder`; what a person should know of it, a sentence each."""
    notes = carry(base.folder, folder, code=code)
    if not base.has_own_tokenizer:
        base.write_tokenizer(folder)
    config = with_dtype(base.config if code else without_code(base.config), kind.name)
    (folder / "config.json").write_text(json_text(config), encoding="utf-8")
    notes += without_places(folder)
    named = {path: f"./{file}" for path, file in made_by.items()}
    (folder / RECIPE).write_text(portable(recipe, out, named).to_yaml(), encoding="utf-8")
    for name, text in files.items():
        if Path(name).name != name and Path(name).parent != Path(MAPS).parent:
            raise ExportError(f"{name!r}: further files lie in the folder itself; give a plain name")
        (folder / name).write_text(text, encoding="utf-8")
    return notes
