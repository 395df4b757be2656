"""How loops are compiled: numba's decorators, with the options that keep bytes equal."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import numba
from numba import njit
from numba.core.registry import CPUDispatcher

_INLINED: Any = {"nogil": True, "error_model": "numpy", "_nrt": False, "forceinline": True}

_LINKS = numba.__version__.startswith("0.68.")
"""Whether numba's inner workings are those that `linked` knows; others make the same of parts, in twice the time."""


def _compiler(name: str) -> dict[str, Any]:
    """The option that compiles a part by a class of `linked`, where numba can."""
    if not _LINKS:
        return {}
    return {"pipeline_class": getattr(importlib.import_module("evomerge.kernels.loops.linked"), name)}


PART: Any = {**_INLINED, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_compiler("PartCompiler")}
"""numba's options for what becomes a part of each loop that calls it."""

_PROVED = {"contract", "nsz"}


def keep_scipy_out() -> None:
    """Have numba's array functions loaded without SciPy.

    They look whether it is there, for convolutions that no loop makes, and loading it takes as long as all the rest
    of numba. Where somebody else makes a convolution, numba has one without SciPy; its linear algebra looks again.
    """
    from numba.np import linalg

    if "scipy.linalg" in sys.modules or not hasattr(linalg, "ensure_blas"):
        return

    def no_blas() -> None:
        raise ImportError

    look = linalg.ensure_blas
    linalg.ensure_blas = no_blas
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = look


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile on first use, kept on disk where there is a place to write."""
    made: Any = njit(**{"nogil": True, "error_model": "numpy", "_nrt": True, **options})(function)
    with suppress(RuntimeError, AttributeError, ImportError):  # nowhere to write, or numba keeps its files otherwise
        importlib.import_module("evomerge.kernels.loops.kept").keep(made)
    return cast(Callable[..., Any], made)


def inner(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """As `compiled`, for what loops call: arrays aren't counted as in use, which costs as much as a short loop.

    Such a function can't make arrays, not even by carray, and what it is given must live longer.
    """
    return compiled(function, _nrt=False, **options)


def part(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """As `inner`, for what becomes a part of each loop that calls it and isn't kept by itself.

    Only loops can call it: what would let Python do so takes most of the time to compile a loop.
    """
    result: Any = njit(**{**PART, **options})(function)
    if isinstance(result, CPUDispatcher):
        result.__class__ = _Part
    return cast(Callable[..., Any], result)


class _Part(CPUDispatcher):
    """What loops call. Without a wrapper for Python there is nothing but a null pointer to call from there."""

    def __call__(self, *arguments: Any) -> Any:
        raise NotImplementedError("for compiled loops")


def owning(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `part`, for what makes arrays."""
    return part(function, _nrt=True, forceinline=False)


def optimised(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `part`, for loops that would run slower, were they not optimised before they become a part of larger ones."""
    return part(function, **_compiler("OptimisedPartCompiler"))


def contracted(function: Callable[..., Any], *, by_python: bool = False) -> Callable[..., Any]:
    """As `part`, for what is proved: sums of products may be fused, and the sign of zero is left open.

    What is also called `by_python` is compiled for that too.
    """
    if by_python:
        made: Callable[..., Any] = njit(**_INLINED, fastmath=_PROVED)(function)
        return made
    return part(function, fastmath=_PROVED)
