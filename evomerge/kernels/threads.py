"""The threads that share out a tensor."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

from evomerge.kernels.machine import cores
from evomerge.kernels.memory import TREE
from evomerge.late import torch

MIN_PART = 1 << 17
"""Elements of the smallest part of a tensor that is worth handing to another thread."""
_thread = threading.local()


def in_parts(part: Callable[[int, int], None], size: int, *, grain: int = TREE, least: int | None = None) -> None:
    """Call `part(start, stop)` over 0..size on as many threads as torch may use.

    Threads of our own rather than numba's: its pools can't be entered by two threads at once, or don't
    survive a fork, and a second OpenMP pool beside torch's fights it for the cores.

    A part that calls this again does all of it by itself.

    Args:
        part: does the work from start up to stop, without holding the interpreter's lock.
        size: where the last part stops.
        grain: parts begin at multiples of this.
        least: a part is at least this long, unless it is the only one; None: worth handing over.
    """
    least = MIN_PART if least is None else least
    threads = min(num_threads(), size // least)
    if threads <= 1 or getattr(_thread, "is_at_work", False):
        part(0, size)
        return

    # More parts than threads, since a thread may have to share its core with a stranger.
    parts = min(4 * threads, size // least)
    edges = [size * index // parts // grain * grain for index in range(parts)] + [size]
    remaining = iter(list(pairwise(edges)))

    def work() -> None:
        _thread.is_at_work = True
        try:
            for start, stop in remaining:
                part(start, stop)
        finally:
            _thread.is_at_work = False

    pool = _pool(os.getpid(), threads - 1)
    helpers = [pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # One that hasn't begun by now has nothing to do; the others still use what the caller may free.
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def num_threads() -> int:
    """As many as torch may use, or would if it were loaded: `usual_threads`."""
    return torch.get_num_threads() if "torch" in sys.modules else usual_threads()


def usual_threads() -> int:
    """Threads of a process that isn't told its own number: those of OMP_NUM_THREADS, or one for each core."""
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(told) if told.isdecimal() and int(told) else cores()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads for this process; a forked child has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")
