"""Searches on a cluster of Ray's in trouble, for scripts that tests run in processes of their own."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from evomerge.config.config import Config
from evomerge.execute.base import Job, Outcome
from evomerge.execute.ray.executor import RayExecutor
from evomerge.execute.ray.private import told_ports
from evomerge.execute.ray.slots import Queue, Slot
from evomerge.study.search import search
from helpers.executors import executors
from helpers.frozen import freeze
from helpers.patience import LONG_S, until

_QUIET = {"include_log_monitor": False, "no_monitor": True}
"""Without processes that only people look at, each of which imports for seconds."""


def started(**arguments: Any) -> Cluster:
    """A cluster of one machine.

    Args:
        arguments: of its node, as Ray's parameters are called.
    """
    with told_ports():
        return Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **_QUIET, **arguments})


def joined(cluster: Cluster, **arguments: Any) -> Any:
    """Another machine of a cluster, with such arguments."""
    with told_ports():
        return cluster.add_node(**_QUIET, **arguments)


def frozen_at_work(slot: Slot) -> int:
    """Stop a worker with a candidate in its hands. Returns: its process."""
    # Stopped first: with small models a candidate may come and go between two looks of a busy machine.
    pid = int(slot.where.rpartition(":")[2])
    freeze(pid)
    time.sleep(0.2)  # for an answer that was on its way
    until(lambda: slot.running is not None)
    return pid


class Troubled:
    """An executor that begins when its workers are ready, and has trouble meanwhile.

    Args:
        executor: does the work.
        is_ready: whether it begins.
        trouble: what happens once it has begun, in a thread of its own.
    """

    def __init__(self, executor: RayExecutor, is_ready: Callable[[], bool], trouble: Callable[[], None]) -> None:
        self.workers, self.add_requests, self.close = executor.workers, executor.add_requests, executor.close
        self._executor, self._is_ready, self._trouble = executor, is_ready, trouble
        self._has_begun = False

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """As the executor."""
        if not self._has_begun:
            self._has_begun = True
            end = time.monotonic() + 2 * LONG_S
            while not self._is_ready():
                # Whoever waits for this process may have given up by then.
                assert time.monotonic() < end, "its workers were never ready"
                if any(slot.references for slot in self._executor._slots):
                    self._executor._collect(Queue(()))
                else:
                    time.sleep(0.05)
            threading.Thread(target=self._trouble, daemon=True).start()
        yield from self._executor.run(jobs)


def search_on(cluster: Cluster, troubled: Callable[[RayExecutor], Any], found: dict[str, Any]) -> None:
    """Search as the script's arguments say, by a config into a directory, and print what was found on the way.

    Args:
        cluster: where, and shut down in the end.
        troubled: puts an executor in trouble.
        found: filled meanwhile.
    """
    config, directory = map(Path, sys.argv[1:])
    os.environ["RAY_ADDRESS"] = cluster.address
    with executors(troubled):
        search(Config.from_file(config), directory)
    print(json.dumps(found))
    cluster.shutdown()
