"""The cluster: connecting to it, and what room it has.

Knows Ray's nodes and tokens. Does not know jobs.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError

import evomerge
from evomerge.errors import ExecutionError, LostClusterError, first_line
from evomerge.execute.ray import forkserver
from evomerge.execute.ray.head import Head, knock
from evomerge.execute.ray.patience import HEAD, MINUTES, half_of
from evomerge.execute.ray.private import (
    draining_nodes,
    listen_patiently,
    say_nothing_of_workers,
    told_ports,
    went_preempted,
)
from evomerge.execute.settings import visible_gpus

_log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_LEAVE_S = 20.0
"""How long leaving a cluster without a head is waited for, so that the loss is told before Ray ends the process."""

FULL = (ObjectStoreFullError, OutOfDiskError)
"""Ray's errors where neither the object store of a machine nor the disk behind it has room."""
ROOM = (
    "make room in Ray's folder for temporary files (/tmp/ray, or what `ray start --temp-dir` says), or start Ray with "
    "more --object-store-memory"
)
"""What to do about it."""
_OWN_PYTHON = frozenset({"conda", "container", "image_uri", "pip", "py_executable", "uv"})
"""Keys of a runtime environment that choose the workers' Python."""


def connect(address: str | None, *, gpus: bool) -> bool:
    """Join the cluster at `address` (or in RAY_ADDRESS), else start a private Ray on this machine.

    Args:
        address: "host:port", "auto" or None.
        gpus: whether workers will want GPUs, so that a machine without any is refused before anything starts.

    Returns: False if Ray was initialised in this process before, and so isn't ours to stop.
    Raises: ExecutionError if the cluster doesn't answer, or there is no GPU; LostClusterError if Ray was initialised
        before and its head is gone since.
    """
    if ray.is_initialized():
        head = head_of(ours=False)
        try:
            head.wait()
        except LostClusterError:
            leave(head)
            raise
        listen_patiently()
        return False
    address = cluster_address(address)
    if address is None:
        if gpus and not visible_gpus():
            raise ExecutionError(_no_gpus("this machine"))
    else:
        _check_reachable(address)
    debug = _log.isEnabledFor(logging.DEBUG)
    settings: dict[str, Any] = {
        "log_to_driver": debug,
        "logging_level": logging.INFO if debug else logging.ERROR,
    }
    if address is None:
        settings |= {"address": "local", "include_dashboard": False}
    else:
        settings["address"] = address
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            # Other nodes then run this very code. A submitted job brings its own.
            settings["runtime_env"] = {
                "py_modules": [str(Path(evomerge.__file__).parent)],
                "excludes": ["__pycache__/"],  # each machine has its own
            }
    try:
        with private_environment() if address is None else nullcontext():
            ray.init(**settings)
    except Exception as error:
        # A Ray that isn't up in time is an Exception of no kind of its own.
        raise ExecutionError(f"Ray can't be started or joined ({address or 'local'}): {first_line(error)}") from error
    listen_patiently()
    if not debug:
        # They are reported as outcomes.
        say_nothing_of_workers()
    return True


def head_of(*, ours: bool) -> Head:
    """The head of the cluster that this process is connected to; `ours` as `connect` returned it."""
    besides = "" if ours else "; Ray was initialised before evomerge used it, so do that again before you go on"
    return Head(ray.get_runtime_context().gcs_address, half_of(HEAD), besides)


def leave(head: Head) -> None:
    """Disconnect from a cluster whose head is gone, for which Ray would soon end this process."""
    # Ray tries to send its last metrics, for some ten seconds. Whoever waits for news of the search waits no longer.
    leaving = Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    if not head.owes_answer:
        leaving.join(_LEAVE_S)
    if leaving.is_alive():
        # What the head is being asked has a connection of its own, which Ray doesn't close.
        _log.warning("Ray isn't left, and may yet end this process; go on in another one")


@contextmanager
def private_environment() -> Iterator[None]:
    """For starting a quiet Ray of one's own: time enough, and environment variables, unless they have a value."""
    values = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Leave accelerators visible to actors that reserve none, as future versions will; avoids a warning.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ray's own choice is 15, at which workers starve wherever anybody else computes.
        "RAY_worker_niceness": "0",
        # A busy machine or a slow disk takes long.
        **MINUTES,
        # A process for each core, which Ray would start at once, and which no worker of an environment of its own uses.
        "RAY_prestart_worker_first_driver": "0",
    }
    if not os.environ.get("RAY_AUTH_MODE") and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Ray closes a new cluster to other users with a token. Its own choice of one goes into the home folder.
        values["RAY_AUTH_TOKEN"] = _token()
    before = {name: os.environ.get(name) for name in (*values, "RAY_AUTH_MODE")}
    os.environ.update({name: value for name, value in values.items() if not before[name]})
    remarks = logging.getLogger("ray._private.authentication.authentication_token_setup")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with told_ports():
            yield
    finally:
        remarks.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@cache
def _token() -> str:
    """One for the whole process: Ray remembers the first that it has read."""
    return secrets.token_hex(32)


def cluster_address(address: str | None) -> str | None:
    """Address of the cluster to join; None for a private Ray on this machine."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    return None if address == "local" else address


def _check_reachable(address: str) -> None:
    """Knock at the head's door: Ray itself would wait for many minutes. Raises: ExecutionError."""
    where = f"Ray cluster at {address!r} (execution.ray_address or RAY_ADDRESS)"
    if "://" in address:
        raise ExecutionError(
            f"{where}: give host:port of the head, such as 10.0.0.1:6379; from outside the cluster, "
            "submit the search with `ray job submit`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        if address == "auto":
            return
        raise ExecutionError(f"{where}: give host:port of the head, such as 10.0.0.1:6379")
    try:
        knock(address, _CONNECT_TIMEOUT_S)
    except OSError as error:
        raise ExecutionError(f"{where} doesn't answer: {error}; start it with `ray start --head`") from error


def worker_environment(threads: int) -> dict[str, Any]:
    """Ray's runtime environment of workers that compute with so many threads."""
    environment: dict[str, Any] = {
        "env_vars": {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
    }
    # A job that brings a Python of its own has its workers started with that.
    if not _OWN_PYTHON.intersection(ray.get_runtime_context().runtime_env) and (command := forkserver.command()):
        environment["py_executable"] = command
    return environment


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of the cluster offers."""

    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """How many workers fit."""
        rooms = [self.cpus / cpus] + ([self.gpus / gpus] if gpus else [])
        return math.floor(min(rooms) + 1e-6)


def cluster_nodes() -> list[Node]:
    """What each node of the cluster has."""
    return [
        Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def hold(value: Any, what: str) -> Any:
    """Put a value in the object store, from where every worker has it.

    Args:
        value: anything.
        what: its name for people.

    Raises: ExecutionError if neither the store nor the disk, where Ray puts what the store can't hold, has room.
    """
    try:
        return ray.put(value)
    except FULL as error:
        raise no_room(what) from error


def no_room(what: str) -> ExecutionError:
    """The error where neither the object store of this machine nor its disk has room for something."""
    return ExecutionError(
        f"{what} don't fit into Ray's object store on this machine, and its disk is full as well; {ROOM}"
    )


def live_nodes() -> set[str]:
    """The machines in the cluster, by Ray's names for them. One that is lost is known to be after some seconds."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def is_preempted(node: str) -> bool:
    """Whether a machine is, or was when it went, one of `draining_nodes`, where Ray tells."""
    # In this order: one that goes meanwhile is found among those that have gone.
    return node in draining_nodes() or any(
        one["NodeID"] == node and went_preempted(one)
        for one in ray.nodes()  # type: ignore[no-untyped-call]
    )


def default_cpus(nodes: Sequence[Node], workers: int | None, threads: int, gpus: float) -> float:
    """Cores to reserve for a worker: its threads, or less where that would leave GPUs or workers out."""
    limits = [float(threads), max(node.cpus for node in nodes)]
    if workers is not None:
        limits.append(sum(node.cpus for node in nodes) / workers)
    limits += [node.cpus / math.floor(node.gpus / gpus) for node in nodes if gpus and node.gpus >= gpus]
    share = min(limits)
    return float(math.floor(share)) if share >= 1 else max(math.floor(share * 1000), 1) / 1000


def check_room(nodes: Sequence[Node], workers: int | None, cpus: float, gpus: float, place: str) -> int:
    """Number of workers to start. Raises: ExecutionError if they don't fit."""
    if gpus and not any(node.gpus >= gpus for node in nodes):
        if not any(node.gpus for node in nodes):
            raise ExecutionError(_no_gpus(place))
        raise ExecutionError(
            f"execution.gpus_per_worker: no node of {place} has {gpus:g} GPUs; "
            f"the most is {max(node.gpus for node in nodes):g}"
        )
    room = sum(node.holds(cpus, gpus) for node in nodes)
    if workers is None and room:
        return room
    if workers is None or workers > room:
        each = f"{cpus:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        total = f"{sum(node.cpus for node in nodes):g} CPUs and {sum(node.gpus for node in nodes):g} GPUs"
        raise ExecutionError(
            f"execution.workers: {workers or 1} of {each} each don't fit on {place}, which has {total} on "
            f"{len(nodes)} nodes: room for {room}. Ask for fewer, or lower cpus_per_worker or gpus_per_worker"
        )
    return workers


def _no_gpus(place: str) -> str:
    return (
        f"GPUs are asked for (execution.device or gpus_per_worker), but {place} has none. "
        "Set execution.device: cpu, or give the address of a cluster with GPUs in execution.ray_address"
    )
