"""Run by a test in a process of its own: a search called from Python, whose cluster loses its head."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import evomerge
from evomerge.config.config import Config
from evomerge.errors import LostClusterError
from evomerge.execute.ray import executor as on_ray
from evomerge.execute.ray.private import draining_nodes
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from helpers.clusters import joined, started


def connected(*, machines: int) -> Cluster:
    """A cluster to which this process is connected, as a notebook may be."""
    cluster = started(num_cpus=1)
    for _ in range(machines - 1):
        joined(cluster, num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    # The cluster's own connection would end this process too.
    cluster.global_state.disconnect()
    return cluster


class Executioner(SilentObserver):
    """Kills the head in the middle of the search."""

    def __init__(self, cluster: Cluster, *, asked: bool) -> None:
        self._cluster = cluster
        self._asked = asked
        self._left = 12

    def trial(self, record: TrialRecord) -> None:
        """Count."""
        self._left -= 1
        if self._left == 0 and not self._asked:
            self._kill()

    def draining_nodes(self) -> set[str]:
        """Ask the head, which has just answered when it was knocked at."""
        if self._left <= 0 and self._asked:
            self._kill()
        return draining_nodes()

    def _kill(self) -> None:
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)


def main(config: Path, directory: Path, when: str) -> None:
    """Search and lose the head; go on in the same process with another cluster, unless it went while it was asked."""
    cluster = connected(machines=2)
    found: dict[str, Any] = {"machines": len(ray.nodes())}
    executioner = Executioner(cluster, asked=when == "asked")
    on_ray.draining_nodes, on_ray.LOOK_EVERY_S = executioner.draining_nodes, 0.05
    try:
        evomerge.search(Config.from_file(config), directory, observer=executioner)
    except LostClusterError as error:
        found |= {"said": str(error), "connected": ray.is_initialized()}
    if when == "asked":
        print(json.dumps(found), flush=True)
        os._exit(0)
    again = connected(machines=1)
    evomerge.resume(directory)
    print(json.dumps(found))
    ray.shutdown()
    again.shutdown()


main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
