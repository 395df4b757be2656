"""What Ray tells or does by interfaces of its own that may change with any release: where one lacks them, we go on.

What is lost then: a machine that is taken away counts as one that was lost, Ray's remarks are printed, a Ray of one's
own may not come up on a busy machine, and a core is kept busy while the head is gone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from random import SystemRandom
from threading import Event
from typing import Any

import ray

from evomerge.execute.ray.head import AGAIN_S

_IN_A_FILE = "dashboard_agent_listen_port"
_PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", _IN_A_FILE)
"""Of the agents of a machine."""
_NOT_WAITED_S = 0.1
"""What is answered so soon wasn't waited for."""
_NO_ERROR = (None, (None, None))
"""What a subscriber to errors answers where there is none."""


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


class _Patient:
    """A subscriber to errors that the head tells, for Ray's thread, which asks again at once where it got no answer."""

    def __init__(self, subscriber: Any, stopped: Event) -> None:
        self._subscriber = subscriber
        self._stopped = stopped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subscriber, name)

    def poll(self, *arguments: Any, **named: Any) -> Any:
        """As Ray's own, which waits for an error; but where it couldn't, since the head is gone, wait here."""
        begin = time.monotonic()
        answer = self._subscriber.poll(*arguments, **named)
        if answer in _NO_ERROR and time.monotonic() - begin < _NOT_WAITED_S:
            self._stopped.wait(AGAIN_S)
        return answer


def listen_patiently() -> None:
    """Have Ray not take a core for asking a head that is gone for its errors, thousands of times a second."""
    worker: Any = getattr(getattr(ray._private, "worker", None), "global_worker", None)
    subscriber, stopped = (getattr(worker, name, None) for name in ("gcs_error_subscriber", "threads_stopped"))
    if subscriber is not None and stopped is not None and not isinstance(subscriber, _Patient):
        worker.gcs_error_subscriber = _Patient(subscriber, stopped)


@contextmanager
def told_ports() -> Iterator[None]:
    """Have machines that this process starts come up while the agents that Ray starts with each still import.

    Ray waits 15 seconds for an agent to say where it listens, and ends the machine otherwise: too short for a busy one
    or a slow disk. Here both are told where.
    """
    services: Any = getattr(ray._private, "services", None)
    start: Any = getattr(services, "start_raylet", None)
    persist = getattr(ray._raylet, "persist_port", None)
    parameters = signature(start).parameters if start is not None else {}
    if persist is None or not {"session_dir", "node_id", *_PORTS} <= parameters.keys():
        yield
        return

    def start_told(*arguments: Any, **named: Any) -> Any:
        call = signature(start).bind(*arguments, **named)
        for name, port in zip(_PORTS, free_ports(), strict=False):
            call.arguments[name] = call.arguments.get(name) or port
        # The machine has no parameter for this one, but looks for it in a file.
        persist(call.arguments["session_dir"], call.arguments["node_id"], _IN_A_FILE, call.arguments[_IN_A_FILE])
        return start(*call.args, **call.kwargs)

    services.start_raylet = start_told
    try:
        yield
    finally:
        services.start_raylet = start


def free_ports() -> Iterator[int]:
    """Ports of this machine that nobody listens at, above those of Ray's workers and below those that Linux gives; each
    once.
    """
    generator, drawn = SystemRandom(), set[int]()
    while True:
        port = generator.randrange(20_000, 32_768)
        if port in drawn:
            continue
        drawn.add(port)
        with socket.socket() as door:
            try:
                door.bind(("", port))
            except OSError:
                continue
        yield port
