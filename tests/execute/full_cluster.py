"""Run by a test in a process of its own: a search on machines of which one has no room left for answers."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import ray
from ray.exceptions import OutOfDiskError

from evomerge.execute.ray.executor import RayExecutor
from helpers.clusters import Troubled, frozen_at_work, joined, search_on, started

STORE_BYTES = 75 * 2**20
"""The least that Ray takes."""


class Hog:
    """Somebody else's data, in use, so that they can't be put on disk."""

    def fill(self) -> int:
        """Take all of the store of its machine; how many arrays that was."""
        self.held: list[Any] = []
        for size in (2**20, 2**17, 2**14, 2**11):
            try:
                while True:
                    self.held.append(ray.get(ray.put(np.ones(size, dtype=np.uint8))))
            except OutOfDiskError:
                continue
        return len(self.held)


def main() -> None:
    """Search on two machines; one's store is filled while its worker has a candidate."""
    cluster = started(num_cpus=1)
    settings = {
        "RAY_local_fs_capacity_threshold": "0.0001",  # its disk is full
        "RAY_max_direct_call_object_size": "8192",  # so small answers go through its store, and errors don't
    }
    os.environ.update(settings)
    node = joined(cluster, num_cpus=1, object_store_memory=STORE_BYTES, resources={"full": 1})
    for name in settings:
        del os.environ[name]
    found: dict[str, Any] = {}
    hogs: list[Any] = []  # one that nobody refers to is ended

    def troubled(executor: RayExecutor) -> Any:
        def fill() -> None:
            slot = next(one for one in executor._slots if one.node == node.node_id)
            pid = frozen_at_work(slot)
            found["full"] = slot.where
            hogs.append(ray.remote(num_cpus=0, resources={"full": 1})(Hog).remote())
            found["arrays"] = ray.get(hogs[0].fill.remote())
            os.kill(pid, signal.SIGCONT)

        def is_ready() -> bool:
            return all(slot.is_up and slot.is_idle for slot in executor._slots)

        return Troubled(executor, is_ready, fill)

    search_on(cluster, troubled, found)


main()
