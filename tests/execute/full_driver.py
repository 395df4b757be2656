"""Run by a test in a process of its own: a search whose own machine has no room left for the answers that come back."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import OutOfDiskError

from evomerge.config.config import Config
from evomerge.errors import ExecutionError
from evomerge.execute.ray.executor import RayExecutor
from evomerge.study.search import search
from helpers.clusters import Troubled, frozen_at_work, joined, started
from helpers.executors import executors

STORE_BYTES = 75 * 2**20
"""The least that Ray takes."""


def filled() -> list[Any]:
    """Arrays that take all of this machine's store, in use, so that they can't be put on disk."""
    held: list[Any] = []
    for size in (2**20, 2**17, 2**14, 2**11):
        try:
            while True:
                held.append(ray.get(ray.put(np.ones(size, dtype=np.uint8))))
        except OutOfDiskError:
            continue
    return held


def main(config: Path, directory: Path) -> None:
    """Search with a worker on another machine, fill the store here while it has a candidate, and go on with room."""
    settings = {
        "RAY_local_fs_capacity_threshold": "0.0001",  # the disk is full
        "RAY_max_direct_call_object_size": "8192",  # so small answers go through the store
    }
    os.environ.update(settings)
    cluster = started(num_cpus=0, object_store_memory=STORE_BYTES)
    joined(cluster, num_cpus=1, object_store_memory=STORE_BYTES)
    os.environ["RAY_ADDRESS"] = cluster.address
    found: dict[str, Any] = {}
    held: list[Any] = []

    def troubled(executor: RayExecutor) -> Any:
        def fill() -> None:
            [slot] = executor._slots
            pid = frozen_at_work(slot)
            held.extend(filled())
            found["arrays"] = len(held)
            os.kill(pid, signal.SIGCONT)

        return Troubled(executor, lambda: executor._slots[0].is_up and executor._slots[0].is_idle, fill)

    with executors(troubled):
        try:
            search(Config.from_file(config), directory)
        except ExecutionError as error:
            found["said"] = str(error)
    held.clear()
    for name in settings:
        del os.environ[name]
    search(Config.from_file(config), directory)
    print(json.dumps(found))
    cluster.shutdown()


main(*map(Path, sys.argv[1:]))
