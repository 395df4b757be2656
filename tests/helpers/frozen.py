"""Processes that are stopped where they are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from helpers.patience import until


def freeze(pid: int) -> None:
    """Stop a process, and return when it does nothing any more.

    The signal reaches one of its threads, which on a busy machine may have to wait for its turn while others go on.
    """
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    until(lambda: all(_state(stat) in "TtZX" for stat in threads.glob("*/stat")))


def _state(stat: Path) -> str:
    """Of a thread, by proc(5)'s letters; X for one that has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
