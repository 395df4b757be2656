"""Run by a test in a process of its own: a search on machines without memory, and without room for what it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from evomerge.errors import ExecutionError
from evomerge.execute.ray.executor import RayExecutor
from evomerge.score.requests import GenerationRequest
from helpers.clusters import Troubled, joined, search_on, started
from helpers.frozen import freeze
from helpers.patience import until

STORE_BYTES = 75 * 2**20
"""The least that Ray takes."""


def memory_looked_at(every_s: float) -> None:
    """Machines that are started from now on find after so long, again and again, that they have no memory left."""
    often = str(int(1000 * every_s))
    os.environ.update({"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": often})


def refused(executor: RayExecutor) -> str:
    """Why requests can't be held that neither the object store nor the disk has room for."""
    try:
        executor.add_requests("huge", [GenerationRequest(context=(1,), stop=("x" * STORE_BYTES,), max_tokens=1)])
    except ExecutionError as error:
        return str(error)
    return ""


def main() -> None:
    """Search on two machines, of which one never lets a worker come up, and the other ends it with a candidate."""
    os.environ.update({"RAY_local_fs_capacity_threshold": "0.0001"})  # every disk is full
    memory_looked_at(30)
    cluster = started(num_cpus=1, object_store_memory=STORE_BYTES)
    memory_looked_at(0.01)  # a worker that is forked comes up in a few tenths of a second
    other = joined(cluster, num_cpus=1, object_store_memory=STORE_BYTES)
    found: dict[str, Any] = {}

    def troubled(executor: RayExecutor) -> Any:
        def is_ready() -> bool:
            if len(executor._slots) > 1:
                # One may have come up before memory was looked at.
                for slot in executor._slots:
                    if slot.is_up and not Path(f"/proc/{slot.where.rpartition(':')[2]}").exists():
                        executor._restart(slot)
                return False
            if not found:
                found["full"] = refused(executor)
                # Ray would try it there again.
                cluster.remove_node(other)
            return executor._slots[0].is_up and executor._slots[0].is_idle

        def run_out() -> None:
            [slot] = executor._slots
            found["killed"] = slot.where
            # It is idle or at a candidate, and ends none that it is given now.
            pid = int(slot.where.rpartition(":")[2])
            freeze(pid)
            until(lambda: not Path(f"/proc/{pid}").exists())

        return Troubled(executor, is_ready, run_out)

    search_on(cluster, troubled, found)


main()
