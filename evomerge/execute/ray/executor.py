"""The Ray executor: one actor per worker, on this machine or on a cluster.

Each idle actor has at most one job. An actor that dies is replaced and its job tried again; one that overruns its time
is killed and replaced. Actors for which there is no room yet wait for it, so that workers join as the cluster grows.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayError, RayTaskError

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ExecutionError, first_line
from evomerge.execute.base import Failure, Job, LostWorker, Outcome, WorkerSettings
from evomerge.execute.ray.cluster import (
    FULL,
    ROOM,
    check_room,
    cluster_address,
    cluster_nodes,
    connect,
    default_cpus,
    head_of,
    hold,
    is_preempted,
    leave,
    live_nodes,
    no_room,
    worker_environment,
)
from evomerge.execute.ray.head import LOOK_EVERY_S
from evomerge.execute.ray.private import draining_nodes
from evomerge.execute.ray.slots import NO_ROOM, WORDS, Death, Queue, Slot, Started, WorkerProcess
from evomerge.run.workers import WorkerNow
from evomerge.score.requests import Request

_log = logging.getLogger(__name__)

_STARTS = 3
_PATIENCE_S = 30.0


class RayExecutor:
    """Evaluates jobs on Ray actors that keep their models resident.

    Without an address (here or in RAY_ADDRESS) a private Ray is started on this machine and stopped
    by `close`; a cluster is only connected to. If this process has already initialised Ray, that is used.

    Args:
        settings: of every worker. `device: cuda` means the GPU that Ray assigns.
        workers: number of actors there must be room for; None: as many as there is room for.
        max_workers: up to so many actors work as the cluster gets room for them; None: no more than at the start.
        cpus_per_worker: cores that Ray reserves for each; None: a fair share on this machine,
            `settings.threads` on a cluster.
        gpus_per_worker: GPUs, or a fraction of one, for each; None: one for device cuda, else none.
        retries: how often a job is tried again after its worker died.
        address: "host:port" of a cluster's head, or "auto".
        grace_s: how long past `settings.timeout_s` a worker may take to say itself that time is up,
            before it is killed.
        joined: whether this process was connected to Ray for it already, and `close` is to end that.

    Raises: ExecutionError if the cluster can't be reached or has not the resources asked for.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        workers: int | None = None,
        max_workers: int | None = None,
        cpus_per_worker: float | None = None,
        gpus_per_worker: float | None = None,
        retries: int = 2,
        address: str | None = None,
        grace_s: float = 10.0,
        joined: bool = False,
    ) -> None:
        self.settings = settings
        self._retries = retries
        self._grace_s = grace_s
        self._requests: dict[str, Any] = {}
        self._slots: list[Slot] = []
        self._said: set[str] = set()
        self._draining: set[str] = set()
        self._drains_seen = -LOOK_EVERY_S
        self._closed = False
        gpus = gpus_per_worker if gpus_per_worker is not None else float(settings.device.startswith("cuda"))
        self._started_ray = connect(address, gpus=gpus > 0) or joined
        self._head = head_of(ours=self._started_ray)
        self._live_nodes = partial(self._head.ask, live_nodes)
        try:
            nodes = self._head.ask(cluster_nodes)
            place = f"the cluster at {cluster_address(address)}" if cluster_address(address) else "this machine"
            cpus = cpus_per_worker or default_cpus(nodes, workers, settings.threads, gpus)
            self._least = check_room(nodes, workers, cpus, gpus, place)
            self._actor_class = ray.remote(
                num_cpus=cpus,
                num_gpus=gpus,
                max_restarts=0,
                max_task_retries=0,
                runtime_env=worker_environment(settings.threads),
            )(WorkerProcess)
            for index in range(max(self._least, max_workers or 0)):
                self._slots.append(Slot(index=index))
                self._start(self._slots[-1])
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many there was room for at the start, or more once they have come up."""
        return max(self._least, sum(slot.is_up for slot in tuple(self._slots)))

    @classmethod
    def from_config(cls, execution: ExecutionConfig, settings: WorkerSettings) -> RayExecutor:
        """Build from the config's execution section; on a cluster, `device: auto` means its GPUs if it has any."""
        started = False
        if execution.device == "auto" and execution.gpus_per_worker is None and cluster_address(execution.ray_address):
            started = connect(execution.ray_address, gpus=False)
            nodes = head_of(ours=started).ask(cluster_nodes)
            settings = replace(settings, device="cuda" if any(node.gpus >= 1 for node in nodes) else "cpu")
        return cls(
            settings,
            workers=execution.workers,
            max_workers=execution.max_workers,
            cpus_per_worker=execution.cpus_per_worker,
            gpus_per_worker=execution.gpus_per_worker,
            retries=execution.retries,
            address=execution.ray_address,
            joined=started,
        )

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Put a set of requests in the object store, once, and have every worker plan them. Raises: ExecutionError."""
        self._head.wait()
        self._requests[split] = hold((tuple(requests), blocks), f"the {split} items")
        for slot in self._slots:
            if slot.actor is not None:
                slot.preparing.append(slot.actor.add_requests.remote(split, self._requests[split]))

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield every job with its outcome as soon as it is known; jobs are drawn as workers become free.

        Raises: ExecutionError if the last worker can't be started, LostClusterError if the head is gone.
        """
        if self._closed:
            raise ExecutionError("this executor is closed; make a new one")
        self._head.wait()
        for slot in self._slots:
            if slot.actor is None:
                self._start(slot)
        queue = Queue(jobs)
        try:
            while True:
                self._leave_draining()
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
            raise ExecutionError(f"the Ray cluster is lost: {first_line(error)}") from error
        finally:
            # Abandoned work would hold up whatever is asked next.
            abandoned = [slot for slot in self._slots if slot.attempt is not None]
            if abandoned and self._head.answers():
                for slot in abandoned:
                    slot.kill()

    def at_work(self) -> list[WorkerNow]:
        """What each worker does now."""
        return [slot.at_work() for slot in tuple(self._slots)]

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here or has lost its head. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if not self._head.answers():
            leave(self._head)
        else:
            for slot in self._slots:
                slot.kill()
            self._slots.clear()
            self._requests.clear()
            if self._started_ray:
                ray.shutdown()

    def _collect(self, queue: Queue) -> list[tuple[Job, Outcome]]:
        """Wait until something is known and return the outcomes; keep actors and queue up to date."""
        waiting = {reference: slot for slot in self._slots for reference in slot.references}
        deadlines = [slot.deadline for slot in self._slots if slot.attempt is not None and slot.deadline is not None]
        now = time.monotonic()
        self._head.look()
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        if not ready:
            ready = self._wait(list(waiting), min([now + _PATIENCE_S, *deadlines]))
        if not ready and not any(slot.attempt for slot in self._slots):
            _log.warning("no worker has started yet; waiting for room on the cluster or for models to load")
        outcomes = []
        for reference in ready:
            outcomes += self._receive(waiting[reference], reference, queue)
        # A result that is here counts, however late the caller came to ask for it.
        now = time.monotonic()
        for slot in self._slots:
            if slot.attempt is not None and slot.deadline is not None and slot.deadline < now:
                attempt = slot.attempt
                outcomes.append((attempt.job, attempt.finished(self._overrun(slot, attempt.job), self._live_nodes)))
        return outcomes

    def _wait(self, calls: list[Any], end: float) -> list[Any]:
        """One of the calls that has returned, as soon as one has; none at the end."""
        while True:
            left = max(0.0, end - time.monotonic())
            ready, _ = ray.wait(calls, num_returns=1, timeout=min(left, LOOK_EVERY_S))
            if ready or left <= LOOK_EVERY_S:
                return list(ready)
            self._head.look()

    def _receive(self, slot: Slot, reference: Any, queue: Queue) -> list[tuple[Job, Outcome]]:
        """Take in one finished call of an actor."""
        if reference not in slot.references:  # of an actor that was replaced meanwhile
            return []
        try:
            value = ray.get(reference)
        except (RayActorError, OutOfMemoryError, *FULL) as error:
            if isinstance(error, FULL) and not isinstance(error, RayTaskError):  # not the worker's machine
                raise no_room("answers") from error
            return self._died(slot, queue, error)
        except ObjectLostError as error:
            if reference == slot.running:
                return self._died(slot, queue, error)
            value = Failure(reason="error", message=first_line(error))
        except RayError as error:
            value = Failure(reason="error", message=str(error).strip().rpartition("\n")[2])  # a traceback
        if reference == slot.running:
            attempt = slot.finish()
            return [(attempt.job, attempt.finished(value, self._live_nodes))]
        if reference == slot.preparation:
            slot.preparation = None
            if isinstance(value, str) and value not in self._said:
                self._said.add(value)
                _log.warning("worker %d (%s): %s", slot.index, slot.where, value)
            assert slot.attempt is not None
            slot.deadline = self._deadline(slot.attempt.job)
            return []
        slot.preparing.remove(reference)
        if isinstance(value, Started):
            slot.where, slot.node = value.where, value.node
            slot.starts = 0
            self._check_niceness(value.niceness)
        elif isinstance(value, Failure):
            self._drop(slot, value.message)
        return []

    def _check_niceness(self, niceness: int) -> None:
        """Say once that workers go behind what else their machines do."""
        if niceness > os.nice(0) and "niceness" not in self._said:
            self._said.add("niceness")
            _log.warning(
                "workers run at nice %d on this cluster, behind whatever else its machines do; to give them their "
                "share, start Ray with RAY_worker_niceness=0 in its environment",
                niceness,
            )

    def _died(self, slot: Slot, queue: Queue, error: RayError) -> list[tuple[Job, Outcome]]:
        """Replace an actor whose process is gone, or its answers; its job is tried again, or given up."""
        self._head.wait()
        attempt, where, node = slot.attempt, slot.where, slot.node
        death = Death.by(error, node, preempted=self._head.ask(lambda: is_preempted(node)))
        _log.warning("worker %d (%s) %s; starting another", slot.index, where, WORDS[death.reason])
        _log.debug("%s", error)
        if death.reason == "preempted":
            slot.starts = 0
        slot.full += death.reason == "store_full"
        self._restart(slot, death.reason)
        if attempt is None:
            return []
        attempt.deaths.append(death)
        nodes = self._live_nodes()
        if attempt.may_go_on(nodes, self._retries):
            queue.again(attempt)
            return []
        return [(attempt.job, attempt.given_up(where, nodes))]

    def _leave_draining(self) -> None:
        """Start workers elsewhere whose machines are announced to be taken away, as soon as they are idle."""
        if time.monotonic() - self._drains_seen >= LOOK_EVERY_S:
            self._draining, self._drains_seen = self._head.ask(draining_nodes), time.monotonic()
        for slot in tuple(self._slots):
            if slot.is_up and slot.is_idle and slot.node in self._draining:
                _log.warning("worker %d (%s): its machine is taken away; starting it elsewhere", slot.index, slot.where)
                self._restart(slot)

    def _deadline(self, job: Job) -> float | None:
        """When a job that starts now must be done."""
        limit = self.settings.timeout_s
        return None if limit is None else time.monotonic() + max(0.0, limit - job.spent_s) + self._grace_s

    def _overrun(self, slot: Slot, job: Job) -> Failure:
        """Kill and replace a worker that didn't keep its time limit."""
        where = slot.where
        self._restart(slot)
        return Failure(
            reason="timeout",
            message=f"trial {job.number}: no answer from {where} after execution.timeout_s = "
            f"{self.settings.timeout_s:g} s and {self._grace_s:g} s more; its worker was killed",
        )

    def _start(self, slot: Slot) -> None:
        slot.actor = self._actor_class.remote()
        slot.starts += 1
        slot.preparing = [slot.actor.start.remote(self.settings)]
        slot.preparing += [slot.actor.add_requests.remote(split, held) for split, held in self._requests.items()]

    def _restart(self, slot: Slot, reason: LostWorker = "worker_died") -> None:
        """Kill the actor, whatever it is doing, and start another in its place."""
        self._head.wait()
        slot.kill()
        if slot.full >= _STARTS:
            self._drop(slot, f"{slot.where}: {NO_ROOM}, {_STARTS} times in a row; {ROOM} there")
        elif slot.starts >= _STARTS:
            self._drop(slot, f"its process {WORDS[reason]}, {_STARTS} times while starting")
        elif not self._closed:
            self._start(slot)

    def _drop(self, slot: Slot, message: str) -> None:
        """Go on without a worker that can't be started. Raises: ExecutionError if it was the last one."""
        self._head.wait()
        slot.kill()
        self._slots = [other for other in self._slots if other is not slot]
        self._least = min(self._least, len(self._slots))
        if not self._slots:
            raise ExecutionError(f"no worker could be started: {message}")
        _log.warning("worker %d could not be started: %s; going on with %d", slot.index, message, len(self._slots))
