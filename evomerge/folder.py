"""Merged models as folders in Hugging Face layout: streamed in shards, complete or not there at all.

Knows recipes and files. Does not know runs or scores.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from evomerge.checkpoint import DTYPES, INDEX, WEIGHTS, Checkpoint
from evomerge.errors import ExportError
from evomerge.fresh import fresh_folder
from evomerge.materialise import Materialiser
from evomerge.mergekit.read import load_recipe
from evomerge.models import notes_of, open_models
from evomerge.recipe import Recipe

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def write_folder(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    shard_size: str | int = "5GB",
    progress: Callable[[int, int], None] | None = None,
    files: Mapping[str, str] | None = None,
    report: Callable[[str], None] | None = None,
    device: torch.device | str = "cpu",
    states: Path | None = None,
) -> Path:
    """Realise a recipe as a model folder that transformers loads.

    Holds weights, config, generation config, the base's or the united tokenizer and recipe.yaml. Tensors are
    merged and written one at a time. The folder appears by one rename when everything is written.

    Args:
        recipe: the merge, or the path of a recipe or mergekit file.
        out: the folder to make; it must not exist, or be empty.
        shard_size: largest weight file, such as "5GB", "500MB" or a number of bytes; a larger tensor
            gets a file of its own.
        progress: called with bytes written and bytes in all after each tensor.
        files: further text files by name, such as a model card as README.md.
        report: called before anything is written with each sentence that a person should know of the models and the
            recipe, such as the tokens that were added.
        device: where tensors are merged.
        states: a folder that may hold what the method prepares, as that of a run does; None: nothing is.

    Returns: `out` as a path.

    Raises:
        ExportError: `out` is taken, its disk is too small or can't be written to.
        CheckpointError, RecipeError, MergeError: as from `Materialiser`.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, report=report)
    out = Path(out).expanduser().absolute()
    limit = parse_size(shard_size)
    _refuse_taken(out)
    base, experts = open_models(recipe.base, recipe.experts, vocabulary=recipe.vocabulary, slices=recipe.slices)
    materialiser = Materialiser(base, experts, device=device, states=states)
    materialiser.check(recipe)
    if report is not None:
        for note in (*notes_of(base, experts), *materialiser.notes(recipe)):
            report(note)
    needed = materialiser.size_bytes(recipe)
    try:
        with fresh_folder(out) as folder:
            _refuse_small_disk(out, needed)
            _write_weights(folder, materialiser, recipe, limit, progress)
            _write_texts(folder, base, recipe, materialiser.dtype(recipe), files or {})
    except OSError as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(
            f"{out}: can't be written: {error.strerror or error}; it needs {_gigabytes(needed)}"
            f"{_free_space(out)}. Nothing was left there"
        ) from error
    return out


def parse_size(size: str | int) -> int:
    """A size such as "5GB", "500 MB", "2GiB" or a number, in bytes. Raises: ExportError if it isn't one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)?\s*", str(size), re.IGNORECASE)
    unit = (match[2] or "").upper() if match else None
    unit = "" if unit == "B" else unit
    if match is None or unit not in _UNITS or (found := int(float(match[1]) * _UNITS[unit])) < 1:
        raise ExportError(f"shard size {size!r}: expected a size such as 5GB, 500MB or 2GiB")
    return found


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


def _write_weights(
    folder: Path,
    materialiser: Materialiser,
    recipe: Recipe,
    limit: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    dtypes = materialiser.stored(recipe)
    sizes = {name: materialiser.base.tensors[name].num_elements * dtype.itemsize for name, dtype in dtypes.items()}
    shards = _shards(sizes, limit)
    tensors = materialiser.stream(recipe, reuse=True)
    written, total = 0, sum(sizes.values())
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file))
        with (folder / file).open("wb") as stream, ThreadPoolExecutor(1) as writer:
            stream.write(_header({name: (dtypes[name], materialiser.base.tensors[name].shape) for name in names}))
            # A tensor is written while the next one is merged.
            writing: Future[int] | None = None
            for name in names:
                merged, tensor = next(tensors)
                assert merged == name
                if writing is not None:
                    written += writing.result()
                    if progress is not None:
                        progress(written, total)
                writing = writer.submit(_write_tensor, stream, tensor)
            assert writing is not None
            written += writing.result()
            if progress is not None:
                progress(written, total)
    if len(shards) > 1:
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Consecutive names, as many to a file as fit in `limit` bytes."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _header(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    """The head of a safetensors file: its length and JSON, padded so that data starts at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_tensor(stream: BinaryIO, tensor: Tensor) -> int:
    """Returns the number of bytes."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    stream.write(data.data)
    return int(data.nbytes)


def _write_texts(folder: Path, base: Checkpoint, recipe: Recipe, dtype: torch.dtype, files: Mapping[str, str]) -> None:
    base.write_tokenizer(folder)
    if (generation := base.folder / "generation_config.json").is_file():
        shutil.copyfile(generation, folder / generation.name)
    _write_json(folder / "config.json", _with_dtype(base.config, str(dtype).removeprefix("torch.")))
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    for name, text in files.items():
        if Path(name).name != name:
            raise ExportError(f"{name!r}: further files lie in the folder itself; give a plain name")
        (folder / name).write_text(text, encoding="utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with its dtype replaced under every key that states it."""
    stated = {key: dtype if key in {"dtype", "torch_dtype"} else value for key, value in config.items()}
    if isinstance(text := stated.get("text_config"), Mapping):
        stated["text_config"] = _with_dtype(text, dtype)
    return {**stated, "dtype": dtype}


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
