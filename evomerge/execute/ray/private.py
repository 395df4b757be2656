"""What Ray tells or does by interfaces of its own that may change with any release: where one lacks them, we go on.

What is lost then: a machine that is taken away counts as one that was lost, Ray's remarks are printed, and a Ray of
one's own has half a minute to come up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

_AGAIN_S = 0.2


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


@contextmanager
def starts_in(seconds: float) -> Iterator[None]:
    """Give machines that this process starts meanwhile so long to come up, instead of Ray's fixed half a minute.

    On a busy machine what Ray starts with each imports for longer, and Ray would take it for failed.
    """
    services: Any = getattr(ray._private, "services", None)
    told_of = getattr(services, "get_node", None)
    if told_of is None:
        yield
        return
    end = time.monotonic() + seconds

    def awaited(*arguments: Any, **named: Any) -> Any:
        while True:
            try:
                return told_of(*arguments, **named)
            except RuntimeError:  # the head hasn't heard of it yet
                if time.monotonic() > end:
                    raise
                time.sleep(_AGAIN_S)

    services.get_node = awaited
    try:
        yield
    finally:
        services.get_node = told_of
