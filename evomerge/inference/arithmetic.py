"""In which format a live model computes: that of its weights, or float32 where this machine's CPU is faster in it.

Many CPUs have no arithmetic for 16-bit numbers, and emulate it. Every 16-bit number is a float32 number too, so that
computing in float32 changes no weight.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

HALVES = ("bfloat16", "float16")
"""Formats of 16 bits that CPUs may have to emulate."""

MUCH = 1.5
"""So many times as long must a product take in a 16-bit format for float32 to be worth twice its memory."""

_ROWS, _SIDE, _REPEATS = 64, 256, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """The format that a live model computes in."""

    dtype: str
    """Name of the live parameters' torch dtype."""
    why: str = ""
    """What speaks for it, to follow a colon; empty where it is the weights' own and nothing was to be decided."""


def arithmetic_for(dtype: str, wanted: str, *, on_cpu: bool | None) -> Arithmetic:
    """Decide in which format weights of a dtype are computed with.

    Args:
        dtype: of the weights, a torch dtype's name.
        wanted: "auto", "stored" or "float32", as in `execution.compute_dtype`.
        on_cpu: whether this machine's CPU, or others like it, will compute; None: what computes isn't known here.
    """
    if wanted != "auto":
        return Arithmetic(dtype="float32" if wanted == "float32" else dtype, why=f"execution.compute_dtype is {wanted}")
    if on_cpu is None and dtype in HALVES:
        return Arithmetic(
            dtype=dtype,
            why=f"the workers' machines can't be looked at from here; CPUs without {dtype} arithmetic are faster with "
            "execution.compute_dtype: float32",
        )
    if not on_cpu or dtype not in HALVES:
        return Arithmetic(dtype=dtype)
    times = slowness(dtype)
    return Arithmetic(
        dtype="float32" if times > MUCH else dtype,
        why=f"measured on this CPU, a product in {dtype} takes {times:.2g} times as long as in float32",
    )


@cache
def slowness(dtype: str) -> float:
    """How many times as long as in float32 a matrix product takes in a format, on one core of this machine.

    Measured once in a process, in a few milliseconds of its processor time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _product_s(getattr(torch, dtype)) / _product_s(torch.float32)
    finally:
        torch.set_num_threads(threads)


def _product_s(dtype: torch.dtype) -> float:
    """Processor seconds of one product, the fastest of a few; the first one pays for what is set up once."""
    with torch.inference_mode():
        states, weight = (torch.ones((size, _SIDE), dtype=dtype) for size in (_ROWS, _SIDE))
        torch.nn.functional.linear(states, weight)
        found = []
        for _ in range(_REPEATS):
            start = time.thread_time()
            torch.nn.functional.linear(states, weight)
            found.append(time.thread_time() - start)
    return max(min(found), 1e-7)
