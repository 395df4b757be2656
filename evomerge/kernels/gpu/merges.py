"""Merges as kernels take them: one tensor's, or those of many in a table that one launch goes through."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx.proxy import TraceError

from evomerge.kernels.gpu.templates import HELPERS
from evomerge.kernels.gpu.trace import (
    HEAVY,
    HEAVY_STEPS,
    LIGHT,
    TABLE_COLUMNS,
    MergeKernel,
    Together,
    compile_text,
    written,
    written_together,
)

_log = logging.getLogger(__name__)


class Compiled(NamedTuple):
    """A kernel, the elements that each of its programs is for, and how many times 32 threads work on them."""

    function: Any
    block: int
    warps: int

    def launch(self, size: int, first: Tensor, *arguments: Any) -> None:
        """Have the GPU on which the first argument lies run as many programs as so many elements need."""
        grid = (-(-size // self.block),)
        if first.device.type != "cuda":
            self.function[grid](first, *arguments, BLOCK=self.block)
            return
        here = first.get_device() == torch.cuda.current_device()
        with nullcontext() if here else torch.cuda.device(first.device):
            self.function[grid](first, *arguments, BLOCK=self.block, num_warps=self.warps, enable_fp_fusion=False)


class Merge(NamedTuple):
    """One tensor's merge; all tensors are contiguous and lie on one GPU."""

    kernel: MergeKernel
    compiled: Compiled
    sources: Sequence[Tensor]
    ranks: Sequence[Tensor]
    out: Tensor
    finite: Tensor
    """Where False is written if anything in the result isn't finite; bool, shape ()."""
    singles: list[int]
    """Whole numbers, and the bits of others; for an array, where it begins among all of them."""
    arrays: list[NDArray[np.float64]]

    def launch(self) -> None:
        """Have it done by a kernel for one tensor."""
        rows = torch.from_numpy(np.concatenate(self.arrays)).to(self.out.device) if self.arrays else self.out
        size = self.out.numel()
        self.compiled.launch(size, *self.sources, *self.ranks, self.out, rows, self.finite, size, *self.singles)


class Row(NamedTuple):
    """A merge of those that are launched together."""

    merge: Merge
    addresses: list[int]
    """Of sources, ranks, result and flag."""
    size: int


def launch_together(kind: Together, rows: Sequence[Row]) -> None:
    """Have the merges of tensors of one kind, which none of the others reads or writes, done by one kernel."""
    compiled, device = together(kind), rows[0].merge.out.device
    programs = [-(-row.size // compiled.block) for row in rows]
    firsts = [0, *accumulate(programs)]
    arrays = [array for row in rows for array in row.merge.arrays]
    width = len(rows[0].addresses) + len(TABLE_COLUMNS) + len(rows[0].merge.singles)
    begins = [*accumulate([len(rows) * width, *(sum(map(len, row.merge.arrays)) for row in rows)])]
    filled = [
        [*row.addresses, begin, row.size, first, *row.merge.singles]
        for row, begin, first in zip(rows, begins, firsts, strict=False)
    ]
    # All of it goes to the GPU in one piece, for which nobody waits.
    whole = torch.empty(begins[-1] + -(-firsts[-1] // 2), dtype=torch.int64, pin_memory=device.type == "cuda")
    table = whole.numpy()
    table[: begins[0]] = np.array(filled, dtype=np.int64).reshape(-1)
    table[begins[0] : begins[-1]] = np.concatenate([*arrays, np.empty(0)]).view(np.int64)
    table[begins[-1] :].view(np.int32)[: firsts[-1]] = np.repeat(np.arange(len(rows), dtype=np.int32), programs)
    there = whole.to(device, non_blocking=True)
    compiled.launch(firsts[-1] * compiled.block, there, there[begins[-1] :].view(torch.int32))


@cache
def alone(kernel: MergeKernel) -> Compiled | None:
    """The compiled kernel for one tensor; None if its formula does what kernels can't."""
    try:
        text = written(kernel)
    except (NotImplementedError, TraceError) as error:
        _log.warning("merging on the GPU with torch alone, tens of times slower: %s", error)
        return None
    tile = HEAVY if text.count("\n") > HEAVY_STEPS else LIGHT
    return Compiled(compile_text("merge", HELPERS + text), *tile)


@cache
def together(kind: Together) -> Compiled:
    """The compiled kernel for many tensors, where there is one for one tensor."""
    compiled = alone(kind.kernel)
    assert compiled is not None
    return compiled._replace(function=compile_text("merge", HELPERS + written_together(kind)))
