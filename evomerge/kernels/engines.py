"""Which engine computes: compiled loops, GPU kernels, or torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from evomerge.kernels.dtypes import code_of
from evomerge.late import Tensor, torch

_use_loops = True


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
    if not _use_loops or any(tensor.device.type != "cpu" or code_of(tensor.dtype) is None for tensor in tensors):
        return None
    return _loops()


def gpu_kernels_for(*tensors: Tensor) -> ModuleType | None:
    """What makes kernels for the GPU on which these tensors lie, else None."""
    if not _use_loops or any(tensor.device.type != "cuda" or code_of(tensor.dtype) is None for tensor in tensors):
        return None
    return _kernels()


@cache
def _loops() -> ModuleType | None:
    """The compiled loops, or None where numba doesn't run."""
    try:
        from evomerge.kernels import loops
    except ImportError as error:
        logging.getLogger(__name__).warning("merging with torch alone, several times slower: %s", error)
        return None
    return loops


@cache
def _kernels() -> ModuleType | None:
    """What makes kernels for GPUs, or None where that doesn't work: Triton needs a C compiler and a place for files."""
    from evomerge.kernels.gpu import launch

    try:
        launch.try_out(torch.device("cuda"))
    except Exception as error:
        logging.getLogger(__name__).warning("merging on the GPU with torch alone, tens of times slower: %r", error)
        return None
    return launch
