"""The Ray executor: one actor per worker, on this machine or on a cluster.

Each idle actor has at most one job. An actor that dies is replaced and its job tried again; one that
overruns its time is killed and replaced. The only module that imports Ray.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

import evomerge
from evomerge.config import ExecutionConfig
from evomerge.errors import ExecutionError
from evomerge.execute import visible_gpus
from evomerge.execute.base import Failure, Job, Outcome, WorkerSettings
from evomerge.score.requests import Request

_log = logging.getLogger(__name__)

_STARTS = 3
_CONNECT_TIMEOUT_S = 10.0
_PATIENCE_S = 30.0


class RayExecutor:
    """Evaluates jobs on Ray actors that keep their models resident.

    Without an address (here or in RAY_ADDRESS) a private Ray is started on this machine and stopped
    by `close`; a cluster is only connected to. If this process has already initialised Ray, that is used.

    Args:
        settings: of every worker. `device: cuda` means the GPU that Ray assigns.
        workers: number of actors; None: as many as there is room for.
        cpus_per_worker: cores that Ray reserves for each; None: a fair share on this machine,
            `settings.threads` on a cluster.
        gpus_per_worker: GPUs, or a fraction of one, for each; None: one for device cuda, else none.
        retries: how often a job is tried again after its worker died.
        address: "host:port" of a cluster's head, or "auto".
        grace_s: how long past `settings.timeout_s` a worker may take to say itself that time is up,
            before it is killed.

    Raises: ExecutionError if the cluster can't be reached or has not the resources asked for.
    """

    workers: int

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        workers: int | None = None,
        cpus_per_worker: float | None = None,
        gpus_per_worker: float | None = None,
        retries: int = 2,
        address: str | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.settings = settings
        self._retries = retries
        self._grace_s = grace_s
        self._requests: dict[str, Any] = {}
        self._slots: list[_Slot] = []
        self._said: set[str] = set()
        self._closed = False
        gpus = gpus_per_worker if gpus_per_worker is not None else float(settings.device.startswith("cuda"))
        self._started_ray = connect(address, gpus=gpus > 0)
        try:
            nodes = _nodes()
            place = f"the cluster at {_address(address)}" if _address(address) else "this machine"
            cpus = cpus_per_worker or _default_cpus(nodes, workers, settings.threads, gpus)
            self.workers = _check_room(nodes, workers, cpus, gpus, place)
            self._actor_class = ray.remote(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(settings.threads), "TOKENIZERS_PARALLELISM": "false"}},
            )(_Process)
            for index in range(self.workers):
                self._slots.append(_Slot(index=index))
                self._start(self._slots[-1])
        except BaseException:
            self.close()
            raise

    @classmethod
    def from_config(cls, execution: ExecutionConfig, settings: WorkerSettings) -> RayExecutor:
        """Build from the config's execution section; on a cluster, `device: auto` means its GPUs if it has any."""
        if execution.device == "auto" and execution.gpus_per_worker is None and _address(execution.ray_address):
            started = connect(execution.ray_address, gpus=False)
            settings = replace(settings, device="cuda" if any(node.gpus >= 1 for node in _nodes()) else "cpu")
        else:
            started = False
        executor = cls(
            settings,
            workers=execution.workers,
            cpus_per_worker=execution.cpus_per_worker,
            gpus_per_worker=execution.gpus_per_worker,
            retries=execution.retries,
            address=execution.ray_address,
        )
        executor._started_ray |= started
        return executor

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Put a set of requests in the object store, once, and have every worker plan them."""
        self._requests[split] = ray.put((tuple(requests), blocks))
        for slot in self._slots:
            if slot.actor is not None:
                slot.preparing.append(slot.actor.add_requests.remote(split, self._requests[split]))

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield every job with its outcome as soon as it is known; jobs are drawn as workers become free.

        Raises: ExecutionError if the last worker can't be started, or the cluster is lost.
        """
        if self._closed:
            raise ExecutionError("this executor is closed; make a new one")
        for slot in self._slots:
            if slot.actor is None:
                self._start(slot)
        queue = _Queue(jobs)
        try:
            while True:
                idle = [slot for slot in self._slots if slot.is_idle]
                while idle and (attempt := queue.next()) is not None:
                    # The worker that answered a candidate's last block still holds its weights.
                    slot = next((slot for slot in idle if slot.last == attempt.job.number), idle[0])
                    idle.remove(slot)
                    slot.begin(attempt, self._deadline(attempt.job))
                if queue.is_empty and not any(slot.attempt for slot in self._slots):
                    return
                yield from self._collect(queue)
        except RayError as error:
            raise ExecutionError(f"the Ray cluster is lost: {_first_line(error)}") from error
        finally:
            # Abandoned work would hold up whatever is asked next.
            for slot in self._slots:
                if slot.attempt is not None:
                    slot.kill()

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        for slot in self._slots:
            slot.kill()
        self._slots.clear()
        self._requests.clear()
        if self._started_ray:
            ray.shutdown()

    def _collect(self, queue: _Queue) -> list[tuple[Job, Outcome]]:
        """Wait until something is known and return the outcomes; keep actors and queue up to date."""
        waiting = {reference: slot for slot in self._slots for reference in slot.references}
        deadlines = [slot.deadline for slot in self._slots if slot.attempt is not None and slot.deadline is not None]
        now = time.monotonic()
        timeout = max(0.0, min([now + _PATIENCE_S, *deadlines]) - now)
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=timeout)
        if not ready and not any(slot.attempt for slot in self._slots):
            _log.warning("no worker has started yet; waiting for room on the cluster or for models to load")
        outcomes = []
        for reference in ready:
            outcomes += self._receive(waiting[reference], reference, queue)
        # A result that is here counts, however late the caller came to ask for it.
        now = time.monotonic()
        for slot in self._slots:
            if slot.attempt is not None and slot.deadline is not None and slot.deadline < now:
                outcomes.append((slot.attempt.job, self._overrun(slot, slot.attempt.job)))
        return outcomes

    def _receive(self, slot: _Slot, reference: Any, queue: _Queue) -> list[tuple[Job, Outcome]]:
        """Take in one finished call of an actor."""
        if reference not in slot.references:  # of an actor that was replaced meanwhile
            return []
        try:
            value = ray.get(reference)
        except RayActorError as error:
            return self._died(slot, queue, error)
        except RayError as error:
            value = Failure(reason="error", message=str(error).strip().rpartition("\n")[2])  # a traceback
        if reference == slot.running:
            job = slot.finish().job
            return [(job, value)]
        if reference == slot.preparation:
            slot.preparation = None
            if isinstance(value, str) and value not in self._said:
                self._said.add(value)
                _log.warning("worker %d (%s): %s", slot.index, slot.where, value)
            assert slot.attempt is not None
            slot.deadline = self._deadline(slot.attempt.job)
            return []
        slot.preparing.remove(reference)
        if isinstance(value, _Started):
            slot.where = value.where
            slot.starts = 0
        elif isinstance(value, Failure):
            self._drop(slot, value.message)
        return []

    def _died(self, slot: _Slot, queue: _Queue, error: RayActorError) -> list[tuple[Job, Outcome]]:
        """Replace an actor whose process is gone; its job is tried again, or given up."""
        attempt = slot.attempt
        _log.warning("worker %d (%s) died; starting another", slot.index, slot.where)
        _log.debug("%s", error)
        where = slot.where
        self._restart(slot)
        if attempt is None:
            return []
        attempt.deaths += 1
        if attempt.deaths <= self._retries:
            queue.again(attempt)
            return []
        return [
            (
                attempt.job,
                Failure(
                    reason="worker_died",
                    message=f"trial {attempt.job.number}: its worker died {_times(attempt.deaths)}, "
                    f"last on {where}; out of memory is the usual cause (see the Ray and system logs there)",
                ),
            )
        ]

    def _deadline(self, job: Job) -> float | None:
        """When a job that starts now must be done."""
        limit = self.settings.timeout_s
        return None if limit is None else time.monotonic() + max(0.0, limit - job.spent_s) + self._grace_s

    def _overrun(self, slot: _Slot, job: Job) -> Failure:
        """Kill and replace a worker that didn't keep its time limit."""
        where = slot.where
        self._restart(slot)
        return Failure(
            reason="timeout",
            message=f"trial {job.number}: no answer from {where} after execution.timeout_s = "
            f"{self.settings.timeout_s:g} s and {self._grace_s:g} s more; its worker was killed",
        )

    def _start(self, slot: _Slot) -> None:
        slot.actor = self._actor_class.remote()
        slot.starts += 1
        slot.preparing = [slot.actor.start.remote(self.settings)]
        slot.preparing += [slot.actor.add_requests.remote(split, held) for split, held in self._requests.items()]

    def _restart(self, slot: _Slot) -> None:
        """Kill the actor, whatever it is doing, and start another in its place."""
        slot.kill()
        if slot.starts >= _STARTS:
            self._drop(slot, f"its process died {_STARTS} times while starting")
        elif not self._closed:
            self._start(slot)

    def _drop(self, slot: _Slot, message: str) -> None:
        """Go on without a worker that can't be started. Raises: ExecutionError if it was the last one."""
        slot.kill()
        self._slots = [other for other in self._slots if other is not slot]
        self.workers = len(self._slots)
        if not self._slots:
            raise ExecutionError(f"no worker could be started: {message}")
        _log.warning("worker %d could not be started: %s; going on with %d", slot.index, message, self.workers)


class _Process:
    """What runs in an actor: a worker, whose errors travel back as values."""

    def __init__(self) -> None:
        self._worker: Any = None

    def start(self, settings: WorkerSettings) -> _Started | Failure:
        where = f"{socket.gethostname()}:{os.getpid()}"
        try:
            from evomerge.worker import Worker

            self._worker = Worker(settings, name=where)
        except Exception as error:
            return Failure(reason="error", message=f"on {socket.gethostname()}: {type(error).__name__}: {error}")
        return _Started(where=where)

    def add_requests(
        self, split: str, held: tuple[tuple[Request, ...], Sequence[Sequence[int]] | None]
    ) -> Failure | None:
        if self._worker is None:
            return None
        try:
            self._worker.add_requests(split, *held)
        except Exception as error:
            return Failure(reason="error", message=f"planning the {split} items: {type(error).__name__}: {error}")
        return None

    def prepare(self, job: Job) -> str | None:
        # What goes wrong goes wrong again, and is reported, in evaluate.
        with suppress(Exception):
            problem: str | None = self._worker.prepare(job)
            return problem
        return None

    def evaluate(self, job: Job) -> Outcome:
        outcome: Outcome = self._worker.evaluate(job)
        return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    where: str


@dataclass(slots=True)
class _Attempt:
    job: Job
    deaths: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    """The place of one worker: its present actor and what that is doing."""

    index: int
    actor: Any = None
    where: str = "a worker still starting"
    starts: int = 0
    """Actors started in a row without one that came up."""
    preparing: list[Any] = field(default_factory=list)
    """Calls that must return before the actor can take a job."""
    prepared: list[Any] = field(default_factory=list)
    """Method, options and seed of what the actor has prepared."""
    preparation: Any = None
    """The call that prepares a job's method for the first time; the time limit counts from its return."""
    running: Any = None
    attempt: _Attempt | None = None
    deadline: float | None = None
    last: int | None = None
    """Number of the candidate that the actor answered last."""

    @property
    def is_idle(self) -> bool:
        return not self.preparing and self.running is None

    @property
    def references(self) -> list[Any]:
        calls = [*self.preparing, self.preparation, self.running]
        return [call for call in calls if call is not None]

    def begin(self, attempt: _Attempt, deadline: float | None) -> None:
        self.attempt = attempt
        self.last = attempt.job.number
        recipe = attempt.job.recipe
        method = (recipe.method, dict(recipe.options), recipe.seed)
        if method in self.prepared:
            self.deadline = deadline
        else:
            self.prepared.append(method)
            self.preparation = self.actor.prepare.remote(attempt.job)
        self.running = self.actor.evaluate.remote(attempt.job)

    def finish(self) -> _Attempt:
        attempt = self.attempt
        assert attempt is not None
        self._rest()
        return attempt

    def _rest(self) -> None:
        self.attempt, self.preparation, self.running, self.deadline = None, None, None, None

    def kill(self) -> None:
        if self.actor is not None:
            with suppress(Exception):  # dead already, or Ray is gone
                ray.kill(self.actor)
        self.actor, self.preparing, self.prepared, self.last = None, [], [], None
        self._rest()


class _Queue:
    """Jobs still to be done: those whose worker died first, then the caller's, drawn one by one."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = iter(jobs)
        self._again: deque[_Attempt] = deque()
        self._drawn_all = False

    @property
    def is_empty(self) -> bool:
        return self._drawn_all and not self._again

    def next(self) -> _Attempt | None:
        if self._again:
            return self._again.popleft()
        if self._drawn_all:
            return None
        try:
            job = next(self._jobs)
        except StopIteration:
            self._drawn_all = True
            return None
        return None if job is None else _Attempt(job)

    def again(self, attempt: _Attempt) -> None:
        self._again.append(attempt)


def connect(address: str | None, *, gpus: bool) -> bool:
    """Join the cluster at `address` (or in RAY_ADDRESS), else start a private Ray on this machine.

    Args:
        address: "host:port", "auto" or None.
        gpus: whether workers will want GPUs, so that a machine without any is refused before anything starts.

    Returns: False if Ray was initialised in this process before, and so isn't ours to stop.
    Raises: ExecutionError if the cluster doesn't answer, or there is no GPU.
    """
    if ray.is_initialized():
        return False
    address = _address(address)
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
                "excludes": ["__pycache__/"],  # compiled loops are large, and each machine has its own
            }
    try:
        with private_environment() if address is None else nullcontext():
            ray.init(**settings)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise ExecutionError(f"Ray can't be started or joined ({address or 'local'}): {_first_line(error)}") from error
    if not debug:
        # log_to_driver doesn't cover the raylet's remarks on dead workers, which are reported as outcomes.
        ray._private.worker._worker_logs_enabled = False
    return True


@contextmanager
def private_environment() -> Iterator[None]:
    """Environment variables for starting a quiet Ray of one's own; those that have a value keep it."""
    values = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Leave accelerators visible to actors that reserve none, as future versions will; avoids a warning.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
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


def _address(address: str | None) -> str | None:
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
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ExecutionError(f"{where} doesn't answer: {error}; start it with `ray start --head`") from error


@dataclass(frozen=True, slots=True)
class _Node:
    cpus: float
    gpus: float

    def holds(self, cpus: float, gpus: float) -> int:
        """How many workers fit."""
        rooms = [self.cpus / cpus] + ([self.gpus / gpus] if gpus else [])
        return math.floor(min(rooms) + 1e-6)


def _nodes() -> list[_Node]:
    return [
        _Node(cpus=node["Resources"].get("CPU", 0.0), gpus=node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    ]


def _default_cpus(nodes: Sequence[_Node], workers: int | None, threads: int, gpus: float) -> float:
    """Cores to reserve for a worker: its threads, or less where that would leave GPUs or workers out."""
    limits = [float(threads), max(node.cpus for node in nodes)]
    if workers is not None:
        limits.append(sum(node.cpus for node in nodes) / workers)
    limits += [node.cpus / math.floor(node.gpus / gpus) for node in nodes if gpus and node.gpus >= gpus]
    share = min(limits)
    return float(math.floor(share)) if share >= 1 else max(math.floor(share * 1000), 1) / 1000


def _check_room(nodes: Sequence[_Node], workers: int | None, cpus: float, gpus: float, place: str) -> int:
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


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
