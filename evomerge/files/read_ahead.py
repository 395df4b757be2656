"""Hints to the system about memory: what will be read soon, and what large pages suit.

Only hints: where the system doesn't know them, nothing happens, and it takes a little longer.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any, Protocol

_POPULATE_READ = 22
"""MADV_POPULATE_READ, since Linux 5.14, which Python doesn't name."""

_LEAST = 1 << 16
"""Bytes below which a hint costs more than it saves."""


class InMemory(Protocol):
    """A tensor somewhere in memory."""

    @property
    def device(self) -> Any:
        """Where it is: its `type` is "cpu" for what a hint can be given of."""

    def numel(self) -> int:
        """Number of entries."""

    def element_size(self) -> int:
        """Bytes of an entry."""

    def data_ptr(self) -> int:
        """Address of the first entry."""

    def is_contiguous(self) -> bool:
        """Whether entries lie one after the other."""


def read_ahead(tensor: InMemory) -> None:
    """Have a memory-mapped tensor read from the disk and mapped in one go, not page by page when it is used."""
    _advise(tensor, _POPULATE_READ)


def prefer_large_pages(tensor: InMemory) -> None:
    """Have new memory handed out in large pages, of which there are far fewer to fetch."""
    _advise(tensor, getattr(mmap, "MADV_HUGEPAGE", None))


def _advise(tensor: InMemory, advice: int | None) -> None:
    size = tensor.numel() * tensor.element_size()
    advise = _madvise()
    if advise is None or advice is None or size < _LEAST or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    # Whole pages, since the system takes no others.
    start = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    advise(start, tensor.data_ptr() + size - start, advice)


@cache
def _madvise() -> Any:
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function
