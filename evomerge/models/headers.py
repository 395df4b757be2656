"""The headers of safetensors files, read without their tensors.

No tensor is loaded and nothing is unpickled; names inside files may not leave their folder.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from evomerge.errors import CheckpointError, listed, shown
from evomerge.files import outside
from evomerge.kernels.dtypes import DTYPES, Dtype
from evomerge.late import torch

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """What a header says of one tensor.

    Attributes:
        name: of the tensor.
        shape: its sides.
        kind: its dtype, known without torch.
        size_bytes: its size in the file.
        file: where it is.
        start: its first byte in the file.
    """

    name: str
    shape: tuple[int, ...]
    kind: Dtype
    size_bytes: int
    file: Path
    start: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype, as torch knows it."""
        return self.kind.torch

    @property
    def num_elements(self) -> int:
        """Number of entries."""
        return prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises: CheckpointError if it can't be read or is none."""
    return outside.read_json(path, CheckpointError)


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Every stored tensor by name, from one file or from the shards of an index."""
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _read_shards(folder)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: holds only pickled weights ({listed(pickles)}), which can run code when read; load the model "
            "in an environment that you trust and write it with save_pretrained, which stores safetensors"
        )
    raise CheckpointError(f"{folder}: holds no weights: neither {WEIGHTS} nor {INDEX}")


def _read_shards(folder: Path) -> dict[str, TensorInfo]:
    index = folder / INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing or empty")
    files: dict[str, None] = {}
    for file in weight_map.values():
        if not isinstance(file, str) or not stays_inside(file):
            raise CheckpointError(f"{index}: refers to {shown(file)}, outside its folder, which isn't safe to follow")
        files[file] = None
    absent = [file for file in files if not _is_file(folder / file)]
    if absent:
        raise CheckpointError(f"{folder}: shards named by {INDEX} are missing: {listed(absent)}; download them again")
    shards = {file: read_header(folder / file) for file in files}
    tensors: dict[str, TensorInfo] = {}
    for file, header in shards.items():
        for name, info in header.items():
            if name in tensors:
                raise CheckpointError(f"{folder}: {name!r} is stored twice, in {tensors[name].file.name} and {file}")
            tensors[name] = info
    lost = [f"{name} ({file})" for name, file in weight_map.items() if name not in shards[file]]
    if lost:
        raise CheckpointError(f"{folder}: tensors named by {INDEX} aren't in their shards: {listed(lost)}")
    return tensors


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is longer than a file system takes
        return False


def stays_inside(file: str) -> bool:
    """Whether a name of a file, as others give it, stays in the folder that it is relative to."""
    path = PurePosixPath(file.replace("\\", "/"))
    return bool(file) and not path.is_absolute() and ".." not in path.parts and ":" not in file and "\0" not in file


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, checked against the file's size. Raises: CheckpointError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= _MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: is not a safetensors file, or was cut short; download it again")
            header = file.read(length)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(header) < length:
        raise CheckpointError(f"{path}: its header can't be read; the file is damaged or was cut short")
    entries = outside.parse_json(header, f"{path}: its header can't be read; the file is damaged", CheckpointError)
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: its header is no JSON object; the file is damaged")
    tensors = {}
    end = 0
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape, dtype, start, stop = _entry(entry, f"{path}: {name}")
        if stop - start != prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path}: {name}: {stop - start} bytes don't hold shape {sides(shape)} of {dtype}")
        tensors[name] = TensorInfo(
            name=name, shape=shape, kind=dtype, size_bytes=stop - start, file=path, start=8 + length + start
        )
        end = max(end, stop)
    if 8 + length + end > size:
        cut = [name for name in tensors if 8 + length + entries[name]["data_offsets"][1] > size]
        raise CheckpointError(
            f"{path}: was cut short: {size:,} of {8 + length + end:,} bytes are there, so {listed(cut)} can't be "
            "read; download it again"
        )
    try:
        safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: is damaged: {error}") from error
    return tensors


def mapped(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, read from the disk where they are looked at. What is written to them isn't written to the file.

    Raises: CheckpointError if it can't be opened.
    """
    try:
        with path.open("rb") as file:
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def _entry(entry: Any, where: str) -> tuple[tuple[int, ...], Dtype, int, int]:
    """Shape, dtype, first byte and end of one tensor. Raises: CheckpointError."""
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: its header entry can't be read ({shown(entry)} is no mapping)")
    shape, name, span = entry.get("shape"), entry.get("dtype"), entry.get("data_offsets")
    if not isinstance(shape, list) or not all(_is_size(side) for side in shape):
        raise CheckpointError(f"{where}: its header entry can't be read (shape {shown(shape)})")
    if not isinstance(name, str) or name not in DTYPES:
        raise CheckpointError(f"{where}: its header entry can't be read (dtype {shown(name)})")
    if not isinstance(span, list) or len(span) != 2 or not all(_is_size(byte) for byte in span):
        raise CheckpointError(f"{where}: its header entry can't be read (data_offsets {shown(span)})")
    return tuple(shape), DTYPES[name], span[0], span[1]


def _is_size(value: Any) -> bool:
    """Whether this is a number of bytes or entries that a file can have."""
    return type(value) is int and 0 <= value < 2**63


def sides(shape: tuple[int, ...] | list[int]) -> str:
    """A shape for people: 4096×1024."""
    return "×".join(map(str, shape)) or "scalar"
