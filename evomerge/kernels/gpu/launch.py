"""Elementwise merges on a GPU: a formula in torch, traced and compiled by Triton into one pass over memory.

The formula is called once with stand-ins that note what is done with them (torch.fx); each note becomes a line
of a kernel that reads every source once, computes in float64, rounds once and marks what isn't finite. Products
and sums aren't fused into one rounding, so the bytes are those of the same operations in torch or on the CPU.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomerge.kernels.formulas import Formula, unpacked
from evomerge.kernels.gpu import gather
from evomerge.kernels.gpu.merges import Compiled, Merge, alone
from evomerge.kernels.gpu.templates import HELPERS, MAGNITUDE, SELECT, SELECT_ONE
from evomerge.kernels.gpu.trace import HEAVY, LIGHT, MergeKernel, compile_text, typed

_FLAGS = 1 << 10
"""Results whose marks are made together."""

_FLOAT64, _INT64 = struct.Struct("d"), struct.Struct("q")
_LARGEST_INT32 = (1 << 31) - 1 - max(LIGHT, HEAVY)[0]
_log = logging.getLogger(__name__)


def fuse(
    formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor
) -> Tensor | None:
    """Merge in one kernel, as `evomerge.kernels.fuse.fuse`; all tensors are contiguous and lie on one GPU.

    In a context that gathers, a small tensor waits for others that have the same kernel.

    Returns: whether all that is written will be finite, bool, shape (), on the GPU: nobody has waited for it. None
        if there can't be a kernel of this formula; nothing is written then.
    """
    pattern, singles, arrays = _packed(numbers)
    wide = out.numel() > _LARGEST_INT32
    kernel = MergeKernel(formula, len(sources), len(ranks), pattern, out.dtype, wide)
    compiled = alone(kernel)
    if compiled is None:
        return None
    finite = next(_flags(out.device))
    if out.numel():
        gather.submit(Merge(kernel, compiled, sources, ranks, out, finite, singles, arrays))
    return finite


def gathered(devices: Iterable[torch.device]) -> AbstractContextManager[None]:
    """Many small tensors on these GPUs may be merged by one kernel, in this context and this thread."""
    return gather.gathered() if all(map(_gathers, devices)) else nullcontext()


@cache
def _flags(device: torch.device) -> Iterator[Tensor]:
    """Truth values, each its own: making many at once takes the time of one."""
    return (flag for _ in count() for flag in torch.ones(_FLAGS, dtype=torch.bool, device=device))


_TRIED = 1.0 + 2.0**-30
"""Its square's last bit is lost in float64, and shows where the sum is fused with it, or numbers are shortened."""


def _square_plus(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
    result: Tensor = values[0] * values[0] + numbers[0]
    return result


def try_out(device: torch.device) -> None:
    """Make kernels and see whether their numbers are right. Raises: anything that keeps those for one from working."""
    values = torch.full((4,), _TRIED, dtype=torch.float64, device=device)
    out = torch.full_like(values, torch.nan)
    finite = fuse(_square_plus, [values], [], (-1.0 - 2.0**-29,), out)
    if not (finite and out.eq(0.0).all()):
        raise ArithmeticError(f"Triton's kernels don't compute as they should: {out.tolist()} instead of zeros")
    _gathers(values.device)


@cache
def _gathers(device: torch.device) -> bool:
    """Whether kernels for many tensors work on a GPU; if not, it is said once."""
    try:
        _try_out_together(device)
    except Exception as error:
        _log.warning("merging on the GPU with a launch for each tensor, slower for small ones: %r", error)
        return False
    return True


def _try_out_together(device: torch.device) -> None:
    """Merge tensors of several sizes together. Raises: anything that keeps that from working."""
    sizes = (16, 5000, 4096, 1)
    # Powers of two keep what their squares lose.
    values = [torch.full((size,), _TRIED * 2.0**k, dtype=torch.float64, device=device) for k, size in enumerate(sizes)]
    values[1][-1] = torch.inf
    outs = [torch.full_like(tensor, torch.nan) for tensor in values]
    flags: list[Tensor | None] = []
    with gather.gathered():
        for k, (tensor, out) in enumerate(zip(values, outs, strict=True)):
            flags.append(fuse(_square_plus, [tensor], [], ((-1.0 - 2.0**-29) * 4.0**k,), out))
    outs[1][-1] = 0.0
    found = [bool(flag) for flag in flags]
    if found != [True, False, True, True] or any(bool(out.any()) for out in outs):
        raise ArithmeticError("Triton's kernels for many tensors don't compute as they should")


def select(
    base: Tensor, experts: Sequence[Tensor], wanted: Sequence[tuple[int, float, float, int]]
) -> list[NDArray[np.float32]]:
    """Magnitudes |expert − base| in some intervals, rounded to float32, in any order, in one read of the tensors.

    Args:
        base: contiguous, on a GPU, as the experts.
        experts: those that are looked at.
        wanted: an expert's number each, the least magnitude, one that is too large, and how many there are at most.
    """
    which, room = tuple(expert for expert, *_ in wanted), [most for *_, most in wanted]
    ends = np.cumsum([len(wanted), *room]).tolist()
    limits = [
        number
        for (_, low, high, most), start in zip(wanted, ends, strict=False)
        for number in (_bits(low), _bits(high), start, most)
    ]
    read = [experts[expert] for expert in sorted(set(which))]
    with gather.beside(base, *read):
        # Counts and what is counted lie together, so that the GPU is waited for once.
        found = torch.zeros(ends[-1], dtype=torch.int32, device=base.device)
        if size := base.numel():
            _selecting(which).launch(size, base, *read, found, found.view(torch.float32), size, *limits)
        filled = found.cpu().numpy()
    return [
        filled[start : start + min(int(many), most)].view(np.float32)
        for many, start, most in zip(filled, ends, room, strict=False)
    ]


def _packed(numbers: Any) -> tuple[Any, list[int], list[NDArray[np.float64]]]:
    """What a formula computes with, for a kernel to take.

    Returns: its pattern, the kind and the place of each number; whole numbers, or the bits of others, in these places;
        arrays, to be joined: at their places stands where they begin.
    """
    singles: list[int] = []
    arrays: list[NDArray[np.float64]] = []

    def single(number: Any) -> tuple[str, int]:
        if isinstance(number, float):
            singles.append(_bits(number))
            return "float", len(singles) - 1
        singles.append(int(number))
        return type(number).__name__, len(singles) - 1

    def array(values: NDArray[np.float64]) -> tuple[str, int]:
        singles.append(sum(map(len, arrays)))
        arrays.append(values)
        return "array", len(singles) - 1

    return unpacked(numbers, single, array), singles, arrays


def _bits(number: float) -> int:
    bits: int = _INT64.unpack(_FLOAT64.pack(number))[0]
    return bits


@cache
def _selecting(which: tuple[int, ...]) -> Compiled:
    """The compiled kernel that looks for magnitudes of these experts."""
    read = sorted(set(which))
    limits = [f"{kind}_{k}" for k in range(len(which)) for kind in ("low", "high", "start", "most")]
    steps = [MAGNITUDE.format(expert=expert) for expert in read]
    steps += [SELECT_ONE.format(k=k, expert=expert) for k, expert in enumerate(which)]
    text = SELECT.format(
        arguments=", ".join(f"expert_{expert}" for expert in read),
        limits=limits,
        typed=typed(limits),
        lines="".join(steps),
    )
    return Compiled(compile_text("select", HELPERS + text), *LIGHT)
