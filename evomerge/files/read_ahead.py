"""Hints to the system about memory: what will be read soon, and what large pages suit.

Only hints: where the system doesn't know them, nothing happens, and it takes a little longer.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import Any

from torch import Tensor

_POPULATE_READ = 22
"""MADV_POPULATE_READ, since Linux 5.14, which Python doesn't name."""

_LEAST = 1 << 16
"""Bytes below which a hint costs more than it saves."""


def read_ahead(tensor: Tensor) -> None:
    """Have a memory-mapped tensor read from the disk and mapped in one go, not page by page when it is used."""
    _advise(tensor, _POPULATE_READ)


def prefer_large_pages(tensor: Tensor) -> None:
    """Have new memory handed out in large pages, of which there are far fewer to fetch."""
    _advise(tensor, getattr(mmap, "MADV_HUGEPAGE", None))


def _advise(tensor: Tensor, advice: int | None) -> None:
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
