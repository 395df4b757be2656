"""What Ray tells or does by interfaces of its own that may change with any release: where one lacks them, we go on.

What is lost then: a machine that is taken away counts as one that was lost, and Ray's remarks are printed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray


def draining_nodes() -> set[str]:
    """Machines that are announced to be taken away, by Ray's names, where Ray tells. Nothing new is started there."""
    # ray.nodes() and Ray's state API tell only of machines that have gone.
    try:
        return set(ray._private.state.state.get_draining_nodes())
    except AttributeError:
        return set()


def went_preempted(node: Mapping[str, Any]) -> bool:
    """Whether a machine, as ray.nodes() describes it, had been announced to be taken away when it went."""
    try:
        from ray.core.generated.common_pb2 import NodeDeathInfo  # type: ignore[attr-defined]

        return bool(node["DeathReason"] == NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)
    except (ImportError, AttributeError, KeyError):
        return False


def say_nothing_of_workers() -> None:
    """Have Ray print nothing on workers that died. Its settings don't cover the raylet's own remarks."""
    try:
        ray._private.worker._worker_logs_enabled = False
    except AttributeError:
        return
