"""CUDA graphs of passes over a model: captured once for each size, replayed with one launch.

A graph reads and writes the memory that it was captured with. Weights that are rewritten in place keep theirs, so that
graphs outlive candidates; where a model's tensors are others than before, its graphs are let go.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from evomerge.kernels.device_memory import is_out_of_memory

_log = logging.getLogger(__name__)

Pass = Callable[[], tuple[Tensor, ...]]
"""Reads and writes memory that stays where it is, may be done twice, and returns tensors of its rows."""


class Graphs:
    """Graphs by size, in one pool of memory; on a CPU, and where capturing fails, passes are run as they are.

    Args:
        device: where passes run.

    Attributes:
        refusal: why nothing is captured; empty while that isn't known to fail.
    """

    def __init__(self, device: torch.device) -> None:
        self.refusal = "" if device.type == "cuda" else f"a {device.type} has no CUDA graphs"
        self._captured: dict[tuple[int, int], Any] = {}
        self._outputs: tuple[Tensor, ...] = ()
        self._pointers: tuple[int, ...] = ()
        self._pool: Any = None

    def keep_for(self, model: torch.nn.Module, *others: Tensor) -> None:
        """Let graphs go that were captured with other memory than a model's and the others' is now."""
        if self.refusal:
            return
        pointers = tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers(), *others))
        if pointers != self._pointers:
            self.clear()
            self._pointers = pointers

    def clear(self) -> None:
        """Let all graphs and their memory go."""
        self._captured.clear()
        self._outputs, self._pool, self._pointers = (), None, ()

    def run(self, size: tuple[int, int], most_rows: int, work: Pass) -> tuple[Tensor, ...]:
        """What a pass returns; its tensors hold until the next one.

        Args:
            size: rows and columns of the pass.
            most_rows: of any.
            work: the pass, always the same one for a size.
        """
        if self.refusal:
            return work()
        if size not in self._captured:
            try:
                self._captured[size] = self._capture(size[0], most_rows, work)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.clear()
                self.refusal = str(error).partition("\n")[0] or type(error).__name__
                _log.warning("generation goes on without CUDA graphs: capturing a pass failed: %s", self.refusal)
                torch.cuda.synchronize()
                return work()
        self._captured[size].replay()
        return tuple(output[: size[0]] for output in self._outputs)

    def _capture(self, rows: int, most_rows: int, work: Pass) -> Any:
        # Once before, on a stream of its own, so that libraries set themselves up outside of the graph.
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = work()
        torch.cuda.current_stream().wait_stream(stream)
        if not self._outputs:
            self._outputs = tuple(tensor.new_empty((most_rows, *tensor.shape[1:])) for tensor in found)
            self._pool = torch.cuda.graph_pool_handle()
        del found
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            for output, tensor in zip(self._outputs, work(), strict=True):
                output[:rows].copy_(tensor)
        return graph
