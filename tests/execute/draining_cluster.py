"""Run by a test in a process of its own: a search whose machines are announced to be taken away, and go."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from evomerge.execute.ray import executor as on_ray
from evomerge.execute.ray.executor import RayExecutor
from evomerge.execute.ray.slots import Slot
from helpers.clusters import Troubled, frozen_at_work, joined, search_on, started
from helpers.patience import LONG_S, until

PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


def drain(cluster: Cluster, node: Any) -> None:
    """Announce that a machine is taken away, in Ray's own way, and see that it is so."""
    client = ray._raylet.GcsClient(address=cluster.address)
    accepted, why_not = client.drain_node(node.node_id, PREEMPTION, "taken", int(1000 * (time.time() + LONG_S)))
    assert accepted, why_not
    until(lambda: node.node_id in ray._private.state.state.get_draining_nodes())


def is_alive(node: Any) -> bool:
    """Whether Ray takes a machine for a part of the cluster."""
    return next(bool(one["Alive"]) for one in ray.nodes() if one["NodeID"] == node.node_id)


def main() -> None:
    """Search on three machines, of which one stays."""
    cluster = started(num_cpus=1)
    first, second = (joined(cluster, num_cpus=1) for _ in range(2))
    # So small a search might be over before it is looked again.
    on_ray.LOOK_EVERY_S = 0.05
    found: dict[str, Any] = {}

    def troubled(executor: RayExecutor) -> Any:
        def on(node: Any) -> Slot:
            return next(one for one in executor._slots if one.node == node.node_id)

        def take_away() -> None:
            # The first goes with its worker, whose process ends before Ray does, as when a system shuts down.
            pid = frozen_at_work(on(first))
            drain(cluster, first)
            found["killed"] = on(first).where
            os.kill(pid, signal.SIGKILL)
            # The second lets its worker end what it has. An idle machine that is drained ends by itself.
            pid = frozen_at_work(on(second))
            drain(cluster, second)
            found["left"] = on(second).where
            time.sleep(0.2)  # until the others wait for it
            os.kill(pid, signal.SIGCONT)
            found["gone"] = until(lambda: not is_alive(second))

        def is_ready() -> bool:
            return all(slot.is_up and slot.is_idle for slot in executor._slots)

        return Troubled(executor, is_ready, take_away)

    search_on(cluster, troubled, found)


main()
