"""Many small tensors in one launch: Python and the launch take tens of microseconds for each, whatever its size.

In a context that gathers, merges of small tensors wait until there are enough, and what has the same kernel goes
together. Everything is as if nothing had waited: before torch does anything else, and before a merge that reads or
writes what another one does, all that waits is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evomerge.kernels.gpu.merges import Merge, Row, launch_together
from evomerge.kernels.gpu.templates import STORED
from evomerge.kernels.gpu.trace import Together

SMALL = 1 << 24
"""Elements of the largest tensor that waits: merging a larger one takes longer than launching it."""

_ENOUGH = 1 << 29
"""Elements of sources that wait at most: reading as many takes a GPU a multiple of the time of a launch."""


class _Waiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Merges that wait. In its context, every operation of torch in this thread launches them first."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows: dict[tuple[int, tuple[torch.dtype, ...], bool, int], list[Row]] = {}
        self._elements = 0
        self._read: set[int] = set()
        self._written: set[int] = set()
        self._beside = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler for that, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not self._beside:
            self.launch()
        return func(*args, **(kwargs or {}))

    def add(self, merge: Merge) -> None:
        """Have a merge wait, if it is small and of a known kind, or launch it."""
        written, size = merge.out.data_ptr(), merge.out.numel()
        read = [tensor.data_ptr() for tensor in (*merge.sources, *merge.ranks)]
        self.before(read, written)
        if size > SMALL or merge.kernel.wide:
            merge.launch()
            return
        united = size | written
        for address in read:
            united |= address
        dtypes = tuple([source.dtype for source in merge.sources])
        # What one kernel is for has one compiled kernel, which is told from others faster than what it is for.
        key = id(merge.compiled), dtypes, united % 16 == 0, merge.out.get_device()
        rows = self._rows.get(key)
        if rows is None:
            if not STORED.keys() >= {*dtypes}:
                merge.launch()
                return
            rows = self._rows[key] = []
        rows.append(Row(merge, [*read, written, merge.finite.data_ptr()], size))
        self._read.update(read)
        self._written.add(written)
        self._elements += size * len(read)
        if self._elements >= _ENOUGH:
            self.launch()

    def before(self, read: Sequence[int], written: int | None) -> None:
        """Launch what waits if it reads or writes at an address that is to be written, or writes at one to be read."""
        if written in self._read or written in self._written or not self._written.isdisjoint(read):
            self.launch()

    def launch(self) -> None:
        """Launch what waits."""
        # Emptied first, since launching itself asks torch for tables.
        waiting, self._rows, self._elements = self._rows, {}, 0
        self._read, self._written = set(), set()
        for (_, dtypes, aligned, _), rows in waiting.items():
            if len(rows) > 1:
                launch_together(Together(rows[0].merge.kernel, dtypes, aligned), rows)
            else:
                rows[0].merge.launch()

    @contextmanager
    def beside(self, read: Sequence[Tensor]) -> Iterator[None]:
        """What torch does in this context concerns nothing that waits, but that these tensors are read."""
        self.before([tensor.data_ptr() for tensor in read], None)
        self._beside, before = True, self._beside
        try:
            yield
        finally:
            self._beside = before


_waiting: ContextVar[_Waiting | None] = ContextVar("waiting", default=None)


@contextmanager
def gathered() -> Iterator[None]:
    """Merges may wait for others in this context; when it ends, all are launched, unless by an error."""
    if _waiting.get() is not None:
        yield
        return
    waiting = _Waiting()
    token = _waiting.set(waiting)
    try:
        with waiting:
            yield
        waiting.launch()
    finally:
        _waiting.reset(token)


def submit(merge: Merge) -> None:
    """Launch a merge, or have it wait in a context that gathers."""
    waiting = _waiting.get()
    if waiting is None:
        merge.launch()
    else:
        waiting.add(merge)


@contextmanager
def beside(*read: Tensor) -> Iterator[None]:
    """What torch does in this context concerns no merge that waits, but that these tensors are read."""
    if (waiting := _waiting.get()) is None:
        yield
    else:
        with waiting.beside(read):
            yield
