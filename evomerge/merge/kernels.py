"""Merging loops over whole tensors: float64 inside, rounded once, the same bytes however they run.

On the CPU a compiled loop makes one pass over raw weights, on a GPU a kernel made from the method's formula does
(`evomerge.merge.gpu`); where neither can be had, torch computes the formula block by block. Every element goes
through the same float64 operations in all of them, so threads, block sizes and devices don't show in the result.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.merge.base import Finite
from evomerge.merge.formulas import Formula, for_torch, of_row

TREE = 1024
"""Elements whose products are added as one balanced tree; a power of two."""

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
_CPU_BLOCK, _DEVICE_BLOCK = 1 << 15, 1 << 24

MIN_PART = 1 << 17
"""Elements of the smallest part of a tensor that is worth handing to another thread."""

_STREAMED = 1 << 19
"""Elements of the smallest tensor that is written past the caches: it would only drive out what is read next."""

_use_loops = True
_thread = threading.local()


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


def span(sources: Sequence[Tensor], coefficients: Sequence[float] | NDArray[np.float64], out: Tensor) -> Finite:
    """Write Σ coefficient · source, added in order, into `out`; returns whether all of it is finite.

    Args:
        sources: at least one tensor of any floating dtypes, all of the shape of `out`.
        coefficients: one for each source; or shape (rows, sources), for each of as many equal parts of
            the flattened tensors. A coefficient of 0 still lets NaN and infinities through.
        out: where to write, of any floating dtype and strides; may be one of the sources.
    """
    given = np.asarray(coefficients, dtype=np.float64)
    factors = given[:, None] if given.ndim == 1 else given.T.copy()
    length = max(1, out.numel() // factors.shape[1])
    return fuse("span", _weighted_sum, sources, out, (factors, length), provable=lambda: representable(factors))


def _weighted_sum(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    coefficients, length = numbers
    total = torch.zeros_like(values[0])
    for value, column in zip(values, coefficients, strict=True):
        total = total + value * of_row(column, index, length)
    return total


def fuse(
    loop: str | None,
    formula: Formula,
    sources: Sequence[Tensor],
    out: Tensor,
    numbers: tuple[Any, ...],
    *,
    ranks: Sequence[Tensor] = (),
    provable: Callable[[], bool] = lambda: False,
) -> Finite:
    """Write an elementwise function of the sources into `out`; returns whether all of it is finite.

    Args:
        loop: name of the compiled loop; None if there is none, and torch is fast enough on the CPU.
        formula: the same function in torch.
        sources: tensors of the shape of `out`, of any floating dtypes.
        out: where to write.
        numbers: what the compiled formula computes with: nested tuples of floats, bools and NumPy integers; or, for
            a loop with numbers of its own for each row, arrays.
        ranks: bytes beside the elements, uint8, flattened, that the formula looks at.
        provable: whether the formula's bounds hold for these numbers, so that bfloat16 may be computed in float32.
    """
    target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    finite: Finite | None = _fused_on_gpu(formula, sources, ranks, numbers, target)
    if finite is None:
        finite = _fused_on_cpu(loop, sources, ranks, numbers, target, provable)
    if finite is None:
        _in_blocks(formula, sources, ranks, numbers, target)
        finite = is_finite(target)
    if target is not out:
        out.copy_(target)
    return finite


def _fused_on_gpu(
    formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor
) -> Tensor | None:
    """Merge in one kernel; None where there can't be one."""
    if (gpu := gpu_kernels_for(out)) is None:
        return None
    here = [tensor.to(out.device).contiguous() for tensor in (*sources, *ranks)]
    made: Tensor | None = gpu.fuse(formula, here[: len(sources)], here[len(sources) :], numbers, out)
    return made


def _fused_on_cpu(
    loop: str | None,
    sources: Sequence[Tensor],
    ranks: Sequence[Tensor],
    numbers: tuple[Any, ...],
    out: Tensor,
    provable: Callable[[], bool],
) -> bool | None:
    """Merge in one pass of a compiled loop; None where it can't read the tensors."""
    if loop is None or (compiled := compiled_for(*sources, out)) is None:
        return None
    flat = [flattened(source) for source in sources]
    function, work = getattr(compiled, loop), _work(flat, out, numbers, ranks, provable())
    found: list[bool] = []
    in_parts(lambda start, stop: found.append(function(start, stop, work)), out.numel())
    return all(found)


def _work(
    flat: Sequence[Tensor], out: Tensor, numbers: tuple[Any, ...], ranks: Sequence[Tensor], provable: bool
) -> tuple[Any, ...]:
    """What compiled loops are told, as `evomerge.merge.loops.fused` takes it."""
    addresses = tuple(tensor.data_ptr() for tensor in flat)
    halves = tuple(tensor.data_ptr() for tensor in flat if tensor.dtype is torch.bfloat16)
    singles = tuple(tensor.data_ptr() for tensor in flat if tensor.dtype is torch.float32)
    # What isn't proved is read again, so it mustn't have been overwritten.
    if not provable or halves + singles != addresses or not halves or out.dtype is not torch.bfloat16:
        provable = False
    provable = provable and out.data_ptr() not in addresses
    return (
        addresses,
        tuple(_CODES[tensor.dtype] for tensor in flat),
        halves if provable else (),
        singles if provable else (),
        tuple(rank.data_ptr() for rank in ranks),
        numbers,
        _in_single(numbers) if provable else None,
        out.data_ptr(),
        _CODES[out.dtype],
        out.numel() >= _STREAMED,
    )


def _in_single(numbers: Any) -> Any:
    """The numbers in float32; loops that choose them row by row convert them by themselves."""
    if isinstance(numbers, tuple):
        return (
            True if numbers and isinstance(numbers[0], np.ndarray) else tuple(_in_single(number) for number in numbers)
        )
    return np.float32(numbers) if isinstance(numbers, float) else numbers


def representable(*numbers: Any) -> bool:
    """Whether coefficients, or arrays of them, take and add less by over- or underflow in float32 than bounds allow."""
    return all(
        bool(((sizes == 0.0) | ((sizes >= 2.0**-20) & (sizes <= 2.0**10))).all())
        for sizes in (np.abs(number) for number in numbers)
    )


def is_finite(tensor: Tensor) -> Finite:
    """Whether a tensor holds neither NaN nor infinity, in one read at the speed of memory."""
    if tensor.is_contiguous() and (compiled := compiled_for(tensor)):
        address, code = tensor.data_ptr(), _CODES[tensor.dtype]
        found: list[bool] = []
        in_parts(lambda start, stop: found.append(compiled.are_finite(start, stop, address, code)), tensor.numel())
        return all(found)
    if not tensor.numel():
        return True
    # The extremes tell in one read, where isfinite().all() takes tens of times as long.
    least, most = torch.aminmax(tensor)
    finite = least.isfinite() & most.isfinite()
    return bool(finite) if tensor.device.type == "cpu" else finite


def in_parts(part: Callable[[int, int], None], size: int, *, grain: int = TREE, least: int | None = None) -> None:
    """Call `part(start, stop)` over 0..size on as many threads as torch may use.

    Threads of our own rather than numba's: its pools can't be entered by two threads at once, or don't
    survive a fork, and a second OpenMP pool beside torch's fights it for the cores.

    A part that calls this again does all of it by itself.

    Args:
        part: does the work from start up to stop, without holding the interpreter's lock.
        size: where the last part stops.
        grain: parts begin at multiples of this.
        least: a part is at least this long, unless it is the only one; None: worth handing over.
    """
    least = MIN_PART if least is None else least
    threads = min(torch.get_num_threads(), size // least)
    if threads <= 1 or getattr(_thread, "is_at_work", False):
        part(0, size)
        return

    # More parts than threads, since a thread may have to share its core with a stranger.
    parts = min(4 * threads, size // least)
    edges = [size * index // parts // grain * grain for index in range(parts)] + [size]
    remaining = iter(list(pairwise(edges)))

    def work() -> None:
        _thread.is_at_work = True
        try:
            for start, stop in remaining:
                part(start, stop)
        finally:
            _thread.is_at_work = False

    pool = _pool(os.getpid(), threads - 1)
    helpers = [pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # One that hasn't begun by now has nothing to do; the others still use what the caller may free.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def gram(sources: Sequence[Tensor], *, origin: Tensor | None = None, rows: int = 1) -> NDArray[np.float64]:
    """Inner products of all pairs of sources.

    Args:
        sources: tensors of the same shape and any floating dtypes.
        origin: taken from each source first; None: nothing is.
        rows: number of equal parts into which the flattened tensors are cut, each with its own products.

    Returns: float64, shape (rows, len(sources), len(sources)), symmetric. Added as one balanced tree, whatever
    the threads and the device, with an error of a few units in the last place of Σ |products|.
    """
    flat = [flattened(tensor) for tensor in ((*sources, origin) if origin is not None else sources)]
    count, length = len(sources), flat[0].numel() // rows
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    blocks = max(1, -(-length // TREE))
    partial = np.zeros((rows, blocks, len(pairs)), dtype=np.float64)
    if compiled := compiled_for(*flat):
        addresses, codes = addresses_of(flat)
        start_at = (int(addresses[count]), int(codes[count])) if origin is not None else (0, 0)

        def part(start: int, stop: int) -> None:
            compiled.gram(start, stop, addresses[:count], codes[:count], *start_at, length, partial)

        in_parts(part, rows * blocks, grain=1, least=MIN_PART // TREE)
    else:
        units = _block_size(flat[0].device) // TREE
        for row in range(0, rows, max(1, units // blocks)):
            row_part = slice(row, row + max(1, units // blocks))
            for block in range(0, blocks, units):
                here = slice(block * TREE, (block + units) * TREE)
                values = [tensor.view(rows, -1)[row_part, here].to(torch.float64) for tensor in flat]
                if origin is not None:
                    values = [value - values[count] for value in values[:count]]
                for index, (i, j) in enumerate(pairs):
                    partial[row_part, block : block + units, index] = leaf_sums(values[i] * values[j]).cpu().numpy()
    sums = tree_sums(partial, axis=1)
    result = np.empty((rows, count, count), dtype=np.float64)
    for index, (i, j) in enumerate(pairs):
        result[:, i, j] = result[:, j, i] = sums[:, index]
    return result


def tree_sums(values: NDArray[np.float64], *, axis: int) -> NDArray[np.float64]:
    """Sums along an axis as a balanced tree of additions: halves are added until one is left."""
    values = np.moveaxis(values, axis, 0)
    width = 1 << max(0, values.shape[0] - 1).bit_length()
    padded = np.zeros((width, *values.shape[1:]), dtype=np.float64)
    padded[: values.shape[0]] = values
    with np.errstate(invalid="ignore"):  # what isn't finite is the caller's to notice
        while width > 1:
            width //= 2
            padded = padded[:width] + padded[width : 2 * width]
    return np.asarray(padded[0])


def leaf_sums(values: Tensor) -> Tensor:
    """Sums of TREE float64 elements each along the last axis, as balanced trees; the last is filled up with zeros."""
    blocks = max(1, -(-values.shape[-1] // TREE))
    padded = torch.nn.functional.pad(values, (0, blocks * TREE - values.shape[-1]))
    return _folded(padded.view(*values.shape[:-1], blocks, TREE))


def _folded(values: Tensor) -> Tensor:
    """Sums over the last axis, of length TREE, by adding halves until one is left."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def _in_blocks(formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor) -> None:
    target, plain = out.view(-1), for_torch(numbers, out.device)
    for part, values, beside, index in blocks_of(sources, ranks, out.device):
        target[part] = round_once(formula(values, beside, index, plain), out.dtype)


def blocks_of(
    sources: Sequence[Tensor], ranks: Sequence[Tensor], device: torch.device
) -> Iterator[tuple[slice, list[Tensor], list[Tensor], Tensor]]:
    """What a formula takes, block by block of a multiple of TREE elements: where it is, values, ranks and indices."""
    flat = [flattened(source) for source in sources]
    size, block = flat[0].numel(), _block_size(device)
    for first in range(0, size, block):
        part = slice(first, min(size, first + block))
        values = [source[part].to(device=device, dtype=torch.float64) for source in flat]
        beside = [rank[part].to(device=device, dtype=torch.int32) for rank in ranks]
        yield part, values, beside, torch.arange(part.start, part.stop, device=device)


def _block_size(device: torch.device) -> int:
    return _CPU_BLOCK if device.type == "cpu" else _DEVICE_BLOCK


def flattened(tensor: Tensor) -> Tensor:
    """One dimension, contiguous, aligned: as compiled loops need it. A view where that is possible."""
    flat = tensor.detach().contiguous().view(-1)
    # A file's tensors may start at any byte.
    return flat if flat.data_ptr() % flat.element_size() == 0 else flat.clone()


def addresses_of(tensors: Sequence[Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses and dtype codes, as compiled loops take them. The tensors must outlive the loop."""
    addresses = np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
    return addresses, np.array([_CODES[tensor.dtype] for tensor in tensors], dtype=np.int64)


@contextmanager
def torch_only() -> Iterator[None]:
    """Merge without compiled loops and kernels inside this context, in every thread."""
    global _use_loops
    before, _use_loops = _use_loops, False
    try:
        yield
    finally:
        _use_loops = before


def compiled_for(*tensors: Tensor) -> ModuleType | None:
    """The compiled loops if they can read and write these tensors, else None."""
    if not _use_loops or any(tensor.device.type != "cpu" or tensor.dtype not in _CODES for tensor in tensors):
        return None
    return _loops()


def gpu_kernels_for(*tensors: Tensor) -> ModuleType | None:
    """What makes kernels for the GPU on which these tensors lie, else None."""
    if not _use_loops or any(tensor.device.type != "cuda" or tensor.dtype not in _CODES for tensor in tensors):
        return None
    return _kernels()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads for this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


@cache
def _loops() -> ModuleType | None:
    """The compiled loops, or None where numba doesn't run."""
    try:
        from evomerge.merge import loops
    except ImportError as error:
        logging.getLogger(__name__).warning("merging with torch alone, several times slower: %s", error)
        return None
    return loops


@cache
def _kernels() -> ModuleType | None:
    """What makes kernels for GPUs, or None where that doesn't work: Triton needs a C compiler and a place for files."""
    from evomerge.merge import gpu

    try:
        gpu.try_out(torch.device("cuda"))
    except Exception as error:
        logging.getLogger(__name__).warning("merging on the GPU with torch alone, tens of times slower: %r", error)
        return None
    return gpu
