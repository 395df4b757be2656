"""Worker processes on Ray, and the jobs that each of them has."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from evomerge.execute.base import Failure, Job, LostWorker, Outcome, WorkerSettings
from evomerge.execute.ray.cluster import FULL, ROOM
from evomerge.run.workers import WorkerNow
from evomerge.score.requests import Request

_LOST_NODES = 20
"""How much oftener a job is tried again where nodes were lost with its workers, which is seldom a candidate's doing."""
NO_ROOM = "Ray's object store on its machine and the disk behind it are full"
WORDS: dict[LostWorker, str] = {
    "preempted": "went with its machine, which is taken away",
    "out_of_memory": "was ended by Ray, since its machine ran out of memory",
    "store_full": f"is ended, since {NO_ROOM}",
    "worker_died": "died",
}
"""What becomes of a worker, after its name."""


class WorkerProcess:
    """What runs in an actor: a worker, whose errors travel back as values."""

    def __init__(self) -> None:
        self._worker: Any = None

    def start(self, settings: WorkerSettings) -> Started | Failure:
        """Open the models; who is at work where, or why not."""
        where = f"{socket.gethostname()}:{os.getpid()}"
        try:
            from evomerge.execute.worker import Worker

            self._worker = Worker(settings, name=where)
        except Exception as error:
            return Failure(reason="error", message=f"on {socket.gethostname()}: {type(error).__name__}: {error}")
        return Started(where=where, niceness=os.nice(0), node=ray.get_runtime_context().get_node_id())

    def add_requests(
        self, split: str, held: tuple[tuple[Request, ...], Sequence[Sequence[int]] | None]
    ) -> Failure | None:
        """Make a set of requests known; a failure if it can't be planned."""
        if self._worker is None:
            return None
        try:
            self._worker.add_requests(split, *held)
        except Exception as error:
            return Failure(reason="error", message=f"planning the {split} items: {type(error).__name__}: {error}")
        return None

    def prepare(self, job: Job) -> str | None:
        """Compute what the job's method needs once; what a person should know of it."""
        # What goes wrong goes wrong again, and is reported, in evaluate.
        with suppress(Exception):
            problem: str | None = self._worker.prepare(job)
            return problem
        return None

    def evaluate(self, job: Job) -> Outcome:
        """Materialise and answer one candidate."""
        outcome: Outcome = self._worker.evaluate(job)
        return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A worker that came up, and on which machine."""

    where: str
    niceness: int = 0
    """How readily it lets other processes go first; 0 is as usual, 19 always."""
    node: str = ""
    """Ray's name of the machine."""


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker."""

    node: str
    """Ray's name of its machine."""
    reason: LostWorker = "worker_died"
    """As far as it was known then; that a machine is lost is known some seconds later."""

    @classmethod
    def by(cls, error: RayError, node: str, *, preempted: bool) -> Death:
        """What Ray's error says of a worker on a node, which may be one that is taken away."""
        if preempted or getattr(error, "preempted", False):
            return cls(node, "preempted")
        if isinstance(error, OutOfMemoryError):
            return cls(node, "out_of_memory")
        return cls(node, "store_full" if isinstance(error, FULL) else "worker_died")


@dataclass(slots=True)
class Attempt:
    """A job, and what became of the workers that were at it."""

    job: Job
    deaths: list[Death] = field(default_factory=list)

    def lost_workers(self, nodes: Collection[str]) -> tuple[LostWorker, ...]:
        """Why each of its workers was lost, given the nodes that are left."""
        return tuple(
            "machine_lost" if death.reason == "worker_died" and death.node not in nodes else death.reason
            for death in self.deaths
        )

    def may_go_on(self, nodes: Collection[str], retries: int) -> bool:
        """Whether the job is tried again, given the nodes that are left.

        Workers that went with their machines, or had no room there, aren't held against it, unless that happens so
        often that no machine seems to do.
        """
        count = Counter(self.lost_workers(nodes))
        own = count["worker_died"] + count["out_of_memory"]
        return own <= retries and len(self.deaths) <= retries + _LOST_NODES

    def finished(self, outcome: Outcome, nodes: Callable[[], Collection[str]]) -> Outcome:
        """What came of the job in the end, with the workers that it took; `nodes` finds those that are left."""
        return replace(outcome, lost_workers=self.lost_workers(nodes())) if self.deaths else outcome

    def given_up(self, where: str, nodes: Collection[str]) -> Failure:
        """Why a job whose workers were lost again and again isn't tried once more."""
        lost, times = self.lost_workers(nodes), len(self.deaths)
        died = f"trial {self.job.number}: its worker died {'once' if times == 1 else f'{times} times'}, last on {where}"
        remedy = {
            "out_of_memory": ", ended by Ray since the machine ran out of memory; use fewer workers for each machine, "
            "or lower execution.batch_tokens",
            "machine_lost": " with its machine; see the system logs there, or use machines that stay longer",
            "store_full": f", since its machine has no room for answers. {ROOM} there",
            "preempted": " with its machine, which was taken away; use machines that stay for longer than a candidate",
        }.get(lost[-1], "; out of memory is the usual cause (see the Ray and system logs there)")
        return Failure(reason=lost[-1], message=died + remedy, lost_workers=lost)


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """The place of one worker: its present actor and what that is doing."""

    index: int
    actor: Any = None
    where: str = "a worker still starting"
    node: str = ""
    """Ray's name of the machine where its actor came up."""
    starts: int = 0
    """Actors started in a row without one that came up."""
    full: int = 0
    """Actors in a row whose machine had no room for what is asked or answered."""
    preparing: list[Any] = field(default_factory=list)
    """Calls that must return before the actor can take a job."""
    prepared: list[Any] = field(default_factory=list)
    """Method, options and seed of what the actor has prepared."""
    preparation: Any = None
    """The call that prepares a job's method for the first time; the time limit counts from its return."""
    running: Any = None
    attempt: Attempt | None = None
    deadline: float | None = None
    last: int | None = None
    """Number of the candidate that the actor answered last."""
    since: float = field(default_factory=time.monotonic)
    """When it began what it does now."""

    @property
    def is_up(self) -> bool:
        """Whether its actor has come up and, as far as is known, lives."""
        return self.actor is not None and self.starts == 0

    @property
    def is_idle(self) -> bool:
        """Whether it can take a job."""
        return not self.preparing and self.running is None

    @property
    def references(self) -> list[Any]:
        """The calls that it hasn't returned from."""
        calls = [*self.preparing, self.preparation, self.running]
        return [call for call in calls if call is not None]

    def at_work(self) -> WorkerNow:
        """What the worker does now."""
        attempt, seconds = self.attempt, round(time.monotonic() - self.since, 1)
        if attempt is None:
            return WorkerNow(name=self.where, state="starting" if self.preparing else "idle", seconds=seconds)
        job = attempt.job
        return WorkerNow(
            name=self.where, state="working", seconds=seconds, trial=job.number, split=job.split, blocks=job.blocks
        )

    def begin(self, attempt: Attempt, deadline: float | None) -> None:
        """Hand a job to the actor."""
        self.attempt, self.since = attempt, time.monotonic()
        self.last = attempt.job.number
        recipe = attempt.job.recipe
        method = (recipe.method, dict(recipe.options), recipe.seed)
        if method in self.prepared and attempt.job.requests is None:
            self.deadline = deadline
        else:
            # A model that is asked as it is by itself is loaded for that, each time.
            self.prepared += [] if method in self.prepared else [method]
            self.preparation = self.actor.prepare.remote(attempt.job)
        self.running = self.actor.evaluate.remote(attempt.job)

    def finish(self) -> Attempt:
        """Take back the job that it was at."""
        attempt = self.attempt
        assert attempt is not None
        self._rest()
        self.full = 0
        return attempt

    def _rest(self) -> None:
        self.attempt, self.preparation, self.running, self.deadline = None, None, None, None
        self.since = time.monotonic()

    def kill(self) -> None:
        """End the actor and forget what it was doing."""
        if self.actor is not None:
            with suppress(Exception):  # dead already, or Ray is gone
                ray.kill(self.actor)
        self.actor, self.preparing, self.prepared, self.last, self.node = None, [], [], None, ""
        self._rest()


class Queue:
    """Jobs still to be done: those whose worker died first, then the caller's, drawn one by one."""

    def __init__(self, jobs: Iterable[Job | None]) -> None:
        self._jobs = iter(jobs)
        self._again: deque[Attempt] = deque()
        self._drawn_all = False

    @property
    def is_empty(self) -> bool:
        """Whether no job is left to be drawn."""
        return self._drawn_all and not self._again

    def next(self) -> Attempt | None:
        """The next job; None if there is none now."""
        if self._again:
            return self._again.popleft()
        if self._drawn_all:
            return None
        try:
            job = next(self._jobs)
        except StopIteration:
            self._drawn_all = True
            return None
        return None if job is None else Attempt(job)

    def again(self, attempt: Attempt) -> None:
        """Have a job done once more, before the others."""
        self._again.append(attempt)
