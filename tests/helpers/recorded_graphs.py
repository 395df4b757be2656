"""A stand-in for CUDA graphs on a CPU: what is captured is replayed on the very memory that it was captured with."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph:
    """The operations of a pass, as a CUDA graph keeps its kernels: nothing of Python is done again."""

    made: list[RecordedGraph]

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        type(self).made.append(self)

    def replay(self) -> None:
        self.replays += 1
        for work, arguments, settings, before in self.calls:
            found = work(*arguments, **settings)
            for old, new in zip(tree_leaves(before), tree_leaves(found), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self._graph = graph

    def __torch_dispatch__(self, work: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        if work in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        found = work(*arguments, **(settings or {}))
        self._graph.calls.append((work, arguments, settings or {}, found))
        return found


@contextmanager
def _capture(graph: RecordedGraph, pool: Any = None) -> Any:
    with _Recorder(graph):
        yield


def record_graphs(monkeypatch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """Let torch's CUDA graphs be recorded ones. Returns: those that are made from now on."""
    RecordedGraph.made = []

    class _Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", _capture)
    return RecordedGraph.made
