"""Elementwise merges on a GPU: a formula in torch, traced and compiled by Triton into one pass over memory.

The formula is called once with stand-ins that note what is done with them (torch.fx); each note becomes a line
of a kernel that reads every source once, computes in float64, rounds once and marks what isn't finite. Products
and sums aren't fused into one rounding, so the bytes are those of the same operations in torch or on the CPU.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cache
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx.proxy import TraceError

from evomerge.kernels.formulas import Formula, unpacked
from evomerge.kernels.gpu.templates import HELPERS, MAGNITUDE, SELECT, SELECT_ONE, rounding
from evomerge.kernels.gpu.trace import HEAVY, HEAVY_STEPS, LIGHT, MergeKernel, compile_text, typed, written

_FLAGS = 1 << 10
"""Results whose marks are made together."""

_FLOAT64, _INT64 = struct.Struct("d"), struct.Struct("q")
_LARGEST_INT32 = (1 << 31) - 1 - max(LIGHT, HEAVY)[0]
_log = logging.getLogger(__name__)


HELPERS += rounding("bfloat16", 7, 8) + rounding("float16", 10, 5)


def fuse(
    formula: Formula, sources: Sequence[Tensor], ranks: Sequence[Tensor], numbers: Any, out: Tensor
) -> Tensor | None:
    """Merge in one kernel, as `evomerge.kernels.fuse.fuse`; all tensors are contiguous and lie on one GPU.

    Returns: whether all that is written will be finite, bool, shape (), on the GPU: nobody has waited for it. None
        if there can't be a kernel of this formula; nothing is written then.
    """
    pattern, singles, arrays = _packed(numbers)
    wide = out.numel() > _LARGEST_INT32
    kernel = _merging(MergeKernel(formula, len(sources), len(ranks), pattern, out.dtype, wide))
    if kernel is None:
        return None
    finite = next(_flags(out.device))
    rows = torch.from_numpy(np.concatenate(arrays)).to(out.device) if arrays else out
    _launch(kernel, out.numel(), *sources, *ranks, out, rows, finite, out.numel(), *singles)
    return finite


@cache
def _flags(device: torch.device) -> Iterator[Tensor]:
    """Truth values, each its own: making many at once takes the time of one."""
    return (flag for _ in count() for flag in torch.ones(_FLAGS, dtype=torch.bool, device=device))


def try_out(device: torch.device) -> None:
    """Make a kernel and see whether its numbers are right. Raises: anything that keeps it from working."""

    def formula(values: list[Tensor], ranks: list[Tensor], index: Tensor, numbers: Any) -> Tensor:
        result: Tensor = values[0] * values[0] + numbers[0]
        return result

    # The square's last bit is lost in float64, and shows where the sum is fused with it, or numbers are shortened.
    values = torch.full((4,), 1.0 + 2.0**-30, dtype=torch.float64, device=device)
    out = torch.full_like(values, torch.nan)
    finite = fuse(formula, [values], [], (-1.0 - 2.0**-29,), out)
    if not (finite and out.eq(0.0).all()):
        raise ArithmeticError(f"Triton's kernels don't compute as they should: {out.tolist()} instead of zeros")


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
    # Counts and what is counted lie together, so that the GPU is waited for once.
    found = torch.zeros(ends[-1], dtype=torch.int32, device=base.device)
    limits = [
        number
        for (_, low, high, most), start in zip(wanted, ends, strict=False)
        for number in (_bits(low), _bits(high), start, most)
    ]
    read = [experts[expert] for expert in sorted(set(which))]
    _launch(_selecting(which), base.numel(), base, *read, found, found.view(torch.float32), base.numel(), *limits)
    filled = found.cpu().numpy()
    return [
        filled[start : start + min(int(many), most)].view(np.float32)
        for many, start, most in zip(filled, ends, room, strict=False)
    ]


def _launch(kernel: Any, size: int, first: Tensor, *arguments: Any) -> None:
    if not size:
        return
    function, (block, warps) = kernel
    grid = (-(-size // block),)
    if first.device.type != "cuda":
        function[grid](first, *arguments, BLOCK=block)
        return
    with nullcontext() if first.get_device() == torch.cuda.current_device() else torch.cuda.device(first.device):
        function[grid](first, *arguments, BLOCK=block, num_warps=warps, enable_fp_fusion=False)


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
def _merging(wanted: MergeKernel) -> Any:
    """The compiled kernel of a formula and its tile; None if it does what kernels can't."""
    try:
        text = written(wanted)
    except (NotImplementedError, TraceError) as error:
        _log.warning("merging on the GPU with torch alone, tens of times slower: %s", error)
        return None
    return compile_text("merge", HELPERS + text), HEAVY if text.count("\n") > HEAVY_STEPS else LIGHT


@cache
def _selecting(which: tuple[int, ...]) -> Any:
    """The compiled kernel that looks for magnitudes of these experts, and its tile."""
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
    return compile_text("select", HELPERS + text), LIGHT
