"""A stream of tensors into safetensors files of limited size."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from evomerge.errors import ExportError, shown
from evomerge.files.atomic import json_text
from evomerge.kernels.dtypes import Dtype
from evomerge.kernels.raw import RawTensor
from evomerge.materialise.bind import Bound
from evomerge.materialise.merger import Merger
from evomerge.models.headers import INDEX, WEIGHTS

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(size: str | int) -> int:
    """A size such as "5GB", "500 MB", "2GiB" or a number, in bytes. Raises: ExportError if it isn't one."""
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([kmgt]?i?b)?\s*", str(size), re.IGNORECASE)
    unit = (match[2] or "").upper() if match else None
    unit = "" if unit == "B" else unit
    if match is None or unit not in _UNITS or (found := int(float(match[1]) * _UNITS[unit])) < 1:
        raise ExportError(f"shard size {shown(size)}: expected a size such as 5GB, 500MB or 2GiB")
    return found


def write_weights(
    folder: Path,
    merger: Merger,
    bound: Bound,
    limit: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Stream a merge's tensors into one file, or several with an index."""
    dtypes = bound.stored
    sizes = {name: merger.base.tensors[name].num_elements * dtype.itemsize for name, dtype in dtypes.items()}
    shards = _shards(sizes, limit)
    tensors = merger.stream_raw(bound)
    written, total = 0, sum(sizes.values())
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(names, file))
        with (folder / file).open("wb") as stream, ThreadPoolExecutor(1) as writer:
            stream.write(_header({name: (dtypes[name], merger.base.tensors[name].shape) for name in names}))
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
        (folder / INDEX).write_text(
            json_text({"metadata": {"total_size": total}, "weight_map": weight_map}), encoding="utf-8"
        )


def write_header(folder: Path, merger: Merger, bound: Bound) -> None:
    """One file of a merge's form and size, whose numbers are zeros: it is sparse, and takes next to no room."""
    tensors = {name: (dtype, merger.base.tensors[name].shape) for name, dtype in bound.stored.items()}
    header = _header(tensors)
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + bound.size_bytes)


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


def _header(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]]) -> bytes:
    """The head of a safetensors file: its length and JSON, padded so that data starts at a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": dtype.header, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_tensor(stream: BinaryIO, tensor: RawTensor) -> int:
    """Returns the number of bytes."""
    data = tensor.contiguous().bits.reshape(-1)
    stream.write(data.data)
    return data.nbytes
