"""Processes that are stopped where they are."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from helpers.patience import LONG_S


def freeze(pid: int) -> None:
    """Stop a process, and return when it does nothing any more.

    The signal reaches one of its threads, which on a busy machine may have to wait for its turn while others go on.
    """
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + LONG_S
    while any(_state(stat) not in "TtZX" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < end, f"process {pid} doesn't stop"
        time.sleep(0.005)


def _state(stat: Path) -> str:
    """Of a thread, by proc(5)'s letters; X for one that has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
