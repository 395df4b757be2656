"""Run by a test in a process of its own: a search whose machines are announced to be taken away, and go."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from evomerge.config.config import Config
from evomerge.execute.base import Job, Outcome
from evomerge.execute.ray import executor as on_ray
from evomerge.execute.ray.executor import RayExecutor
from evomerge.execute.ray.slots import Queue, Slot
from evomerge.study.search import search
from helpers.executors import executors

PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
LONG_S = 120.0


def until(condition: Callable[[], Any]) -> Any:
    """What the condition comes to as soon as it is true."""
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)
    return found


class Troubled:
    """An executor that begins when all of its workers are up; two of their machines are taken away meanwhile."""

    def __init__(self, executor: RayExecutor, cluster: Cluster, nodes: list[Any]) -> None:
        self.executor, self.cluster, self.nodes = executor, cluster, nodes
        self.workers, self.add_requests, self.close = executor.workers, executor.add_requests, executor.close
        self.found: dict[str, Any] = {}
        self._thread: threading.Thread | None = None

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """As the executor."""
        if self._thread is None:
            while not all(slot.is_up and slot.is_idle for slot in self.executor._slots):
                self.executor._collect(Queue(()))
            self._thread = threading.Thread(target=self.take_away, daemon=True)
            self._thread.start()
        yield from self.executor.run(jobs)

    def take_away(self) -> None:
        """The first machine with its worker, as when a system shuts down; the second once it has nothing to do."""
        first, second = self.nodes
        slot, pid = self.frozen_at_work(first)
        self.drain(first)
        self.found["killed"] = slot.where
        os.kill(pid, signal.SIGKILL)
        slot, pid = self.frozen_at_work(second)
        self.drain(second)
        self.found["left"] = slot.where
        time.sleep(0.2)  # until the others wait for it
        os.kill(pid, signal.SIGCONT)
        # An idle raylet that is drained ends by itself.
        self.found["gone"] = until(lambda: not self.state(second)["Alive"])

    def frozen_at_work(self, node: Any) -> tuple[Slot, int]:
        """The worker of a machine, stopped with a candidate in its hands."""
        slot = next(one for one in self.executor._slots if one.node == node.node_id)
        pid = int(slot.where.rpartition(":")[2])
        while True:
            until(lambda: slot.running is not None)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.2)  # for an answer that was on its way
            if slot.running is not None:
                return slot, pid
            os.kill(pid, signal.SIGCONT)

    def drain(self, node: Any) -> None:
        """Announce that a machine is taken away, in Ray's own way, and see that it is so."""
        client = ray._raylet.GcsClient(address=self.cluster.address)
        accepted, why_not = client.drain_node(node.node_id, PREEMPTION, "taken", int(1000 * (time.time() + LONG_S)))
        assert accepted, why_not
        until(lambda: node.node_id in ray._private.state.state.get_draining_nodes())

    def state(self, node: Any) -> dict[str, Any]:
        """What Ray says of a machine."""
        return next(one for one in ray.nodes() if one["NodeID"] == node.node_id)


def main(config: Path, directory: Path) -> None:
    """Search on three machines, of which one stays."""
    arguments = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    # So small a search might be over before it is looked again.
    on_ray.LOOK_EVERY_S = 0.05
    made: list[Troubled] = []

    def troubled(executor: Any) -> Any:
        made.append(Troubled(executor, cluster, nodes))
        return made[-1]

    with executors(troubled):
        search(Config.from_file(config), directory)
    print(json.dumps(made[0].found))
    cluster.shutdown()


main(Path(sys.argv[1]), Path(sys.argv[2]))
