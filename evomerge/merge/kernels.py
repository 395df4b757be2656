"""Merging loops over whole tensors: float64 inside, rounded once, the same bytes however they run.

On the CPU a compiled loop makes one pass over raw weights; anywhere else torch computes the same
operations in the same order, block by block. Every element goes through the same float64 operations
in both, so threads, block sizes and devices don't show in the result.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Formula = Callable[[list[Tensor], int], Tensor]
"""Merged float64 values of one block: takes each source's block in float64 and its first element's index."""

TREE = 1024
"""Elements whose products are added as one balanced tree; a power of two."""

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_CPU_BLOCK, _DEVICE_BLOCK = 1 << 15, 1 << 24
# Below this many elements handing work to threads costs more than it saves.
_MIN_PART = 1 << 17


def round_once(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 values to nearest, ties to even, without a rounding in between.

    torch's own cast from float64 to a 16-bit type rounds to float32 first, and twice is wrong for about
    one value in 10⁵. Rounding to odd in float32 keeps what the second rounding needs to know
    (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums").

    Args:
        values: float64, any shape.
        dtype: a floating-point dtype.

    Returns: the values in `dtype`, of the same shape. NaN stays NaN; what is too large becomes infinite.
    """
    if dtype in (torch.float64, torch.float32):
        return values.to(dtype)
    near = values.to(torch.float32)
    wide = near.to(torch.float64)
    bits = near.view(torch.int32)
    bits = torch.where(wide.abs() > values.abs(), bits - 1, bits)
    bits = torch.where((wide != values) & ~values.isnan(), bits | 1, bits)
    return bits.view(torch.float32).to(dtype)


def span(sources: Sequence[Tensor], coefficients: Sequence[float] | NDArray[np.float64], out: Tensor) -> None:
    """Write Σ coefficient · source, added in order, into `out`.

    Args:
        sources: at least one tensor of any floating dtypes, all of the shape of `out`.
        coefficients: one for each source. A coefficient of 0 still lets NaN and infinities through.
        out: where to write, of any floating dtype and strides; may be one of the sources.
    """
    factors = np.ascontiguousarray(coefficients, dtype=np.float64)

    def formula(blocks: list[Tensor], first: int) -> Tensor:
        total = torch.zeros_like(blocks[0])
        for factor, block in zip(factors.tolist(), blocks, strict=True):
            total += block * factor
        return total

    fuse("span", formula, sources, out, factors)


def fuse(loop: str, formula: Formula, sources: Sequence[Tensor], out: Tensor, *arguments: Any) -> None:
    """Write an elementwise function of the sources into `out`.

    Args:
        loop: name of the compiled loop, called with (start, stop, addresses, dtype codes, *arguments,
            address of out, its dtype code).
        formula: the same function in torch.
        sources: tensors of the shape of `out`, of any floating dtypes.
        out: where to write.
        arguments: what else the compiled loop takes: arrays and numbers.
    """
    flat = [_flat(source) for source in sources]
    target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    compiled = _loops() if all(tensor.device.type == "cpu" for tensor in (*flat, out)) else None
    if compiled is not None and all(tensor.dtype in _CODES for tensor in (*flat, out)):
        function = getattr(compiled, loop)
        addresses, codes = _addresses(flat)
        where, code = target.data_ptr(), _CODES[target.dtype]

        def part(start: int, stop: int) -> None:
            function(start, stop, addresses, codes, *arguments, where, code)

        in_parts(part, target.numel())
    else:
        _in_blocks(formula, flat, target.view(-1))
    if target is not out:
        out.copy_(target)


def in_parts(part: Callable[[int, int], None], size: int) -> None:
    """Call `part(start, stop)` over 0..size on as many threads as torch may use.

    Threads of our own rather than numba's: its pools can't be entered by two threads at once, or don't
    survive a fork, and a second OpenMP pool beside torch's fights it for the cores.
    """
    threads = min(torch.get_num_threads(), max(1, size // _MIN_PART))
    if threads == 1:
        part(0, size)
        return
    # More parts than threads, since a thread may have to share its core with a stranger.
    parts = min(4 * threads, size // _MIN_PART)
    edges = [size * index // parts // TREE * TREE for index in range(parts)] + [size]
    pool = _pool(os.getpid(), threads)
    for future in [pool.submit(part, start, stop) for start, stop in pairwise(edges)]:
        future.result()


def gram(sources: Sequence[Tensor]) -> NDArray[np.float64]:
    """Inner products of all pairs of sources, flattened.

    Args:
        sources: tensors of the same shape and any floating dtypes.

    Returns: float64, shape (len(sources), len(sources)), symmetric. Added as one balanced tree, whatever
    the threads and the device, with an error of a few units in the last place.
    """
    flat = [_flat(source) for source in sources]
    size, count = flat[0].numel(), len(flat)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    partial = np.zeros((len(pairs), -(-size // TREE)), dtype=np.float64)
    compiled = _loops() if all(tensor.device.type == "cpu" and tensor.dtype in _CODES for tensor in flat) else None
    if compiled is not None:
        addresses, codes = _addresses(flat)
        in_parts(lambda start, stop: compiled.gram(start, stop, addresses, codes, partial), size)
    else:
        block = _block_size(flat[0])
        for first in range(0, size, block):
            rows = [_rows(tensor[first : first + block]) for tensor in flat]
            for index, (i, j) in enumerate(pairs):
                sums = _folded((rows[i] * rows[j]).T)
                partial[index, first // TREE : first // TREE + len(sums)] = sums.cpu().numpy()
    result = np.zeros((count, count), dtype=np.float64)
    for (i, j), value in zip(pairs, _tree_sum(partial), strict=True):
        result[i, j] = result[j, i] = value
    return result


def _tree_sum(values: NDArray[np.float64]) -> list[float]:
    """Sums along the last axis, as a balanced tree of additions."""
    width = 1 << max(0, values.shape[1] - 1).bit_length()
    padded = np.zeros((values.shape[0], width), dtype=np.float64)
    padded[:, : values.shape[1]] = values
    while width > 1:
        width //= 2
        padded = padded[:, :width] + padded[:, width : 2 * width]
    return [float(value) for value in padded[:, 0]]


def _rows(values: Tensor) -> Tensor:
    """float64 values in rows of TREE, the last filled up with zeros."""
    rows = torch.zeros(-(-values.numel() // TREE) * TREE, dtype=torch.float64, device=values.device)
    rows[: values.numel()] = values
    return rows.view(-1, TREE)


def _folded(values: Tensor) -> Tensor:
    """Sum over the first axis, whose length is a power of two, by adding its halves until one is left."""
    while values.shape[0] > 1:
        half = values.shape[0] // 2
        values = values[:half] + values[half:]
    return values[0]


def _in_blocks(formula: Formula, sources: list[Tensor], out: Tensor) -> None:
    size = _block_size(out)
    for first in range(0, out.numel(), size):
        blocks = [source[first : first + size].to(device=out.device, dtype=torch.float64) for source in sources]
        out[first : first + size] = round_once(formula(blocks, first), out.dtype)


def _block_size(tensor: Tensor) -> int:
    return _CPU_BLOCK if tensor.device.type == "cpu" else _DEVICE_BLOCK


def _flat(tensor: Tensor) -> Tensor:
    flat = tensor.detach().contiguous().view(-1)
    # A file's tensors may start at any byte.
    return flat if flat.data_ptr() % flat.element_size() == 0 else flat.clone()


def _addresses(tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    addresses = np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
    return addresses, np.array([_CODES[tensor.dtype] for tensor in tensors], dtype=np.int64)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads for this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


@cache
def _loops() -> ModuleType | None:
    """The compiled loops, or None where numba doesn't run."""
    try:
        from evomerge.merge import compiled
    except ImportError as error:
        logging.getLogger(__name__).warning("merging with torch alone, several times slower: %s", error)
        return None
    return compiled
