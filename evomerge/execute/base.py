"""The seam of executors: jobs go in, outcomes come out as they finish, in any order.

A failure is a value. An executor never raises for a bad candidate; it raises ExecutionError only
when no worker can be had at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import Sources
from evomerge.score.requests import Request, Response

LostWorker = Literal["preempted", "machine_lost", "out_of_memory", "store_full", "worker_died"]
"""Why a worker was lost: its machine was announced to be taken away, went without a word, had no memory left or no room
for requests and answers; or none of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything a worker process needs to build itself; plain and picklable."""

    sources: Sources
    """The models, as in recipes."""
    dtype: str
    """Name of the torch dtype that merged weights are rounded to, never "auto"."""
    device: str
    """"cpu", "cuda" or "cuda:N"."""
    gpus: int = 1
    """Over how many GPUs the worker's live model is spread."""
    gpu_share: float = 1.0
    """How much of its one GPU the worker has; below 1, other workers have the rest."""
    threads: int
    """CPU threads for torch in this worker."""
    compute_dtype: str | None = None
    """Name of the live model's torch dtype, in which it computes, the same in all workers; None: that of the
    weights."""
    states: str | None = None
    """A folder in which workers share what a method prepares, with variables and ~ of each worker's machine; None:
    each keeps it in its memory."""
    batch_tokens: int | None = None
    """Padded tokens per forward pass; None sizes it to the device's memory."""
    maps: bytes | None = None
    """Of the models' alignment, which a worker's machine may not have the file of; None: nothing is aligned, or each
    worker finds the maps itself."""
    distances: tuple[str, ...] = ()
    """The models, "base" or experts by name, from which each merge's distance is measured."""
    timeout_s: float | None = None
    """Longest time for one candidate, not counting what a method prepares once; None waits for ever."""

    @property
    def live_dtype(self) -> str:
        """Name of the live model's torch dtype."""
        return self.compute_dtype or self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One candidate to materialise and one named set of requests to answer with it."""

    number: int
    recipe: Recipe
    split: str
    blocks: tuple[int, ...] | None = None
    """Numbers of the blocks of requests to answer, all in one go; None: all requests. Responses are in the order of the
    requests, whatever that of the blocks."""
    spent_s: float = 0.0
    """What earlier blocks took of the candidate's time."""
    requests: tuple[Request, ...] | None = None
    """What is asked, all at once, of a model as it is by itself: one whose recipe has a base of its own, with that
    model's config and tokens. None: the requests that were made known for the split, of the worker's own models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A candidate's responses, in the order of the requests, with seconds per phase and peak bytes."""

    responses: tuple[Response, ...]
    seconds: dict[str, float] = field(default_factory=dict)
    """"prepare" (what a method computes once; about 0 from the second candidate on), "materialise" and "respond"."""
    peak_bytes: int = 0
    worker: str = ""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Of a merge's weights from those of models, by name: see `relative_distance`."""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a candidate has no score. `message` is for people and names tensor, item or worker."""

    reason: Literal["not_finite", "timeout", "error"] | LostWorker
    message: str
    request: int | None = None
    """Place in its split of the request whose answer was at fault, where one was."""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it."""


Outcome = Answers | Failure


class Executor(Protocol):
    """Runs jobs on one or more workers that keep their models resident.

    One that also has `at_work() -> Sequence[WorkerNow]`, to be called from any thread, has `evomerge status` show what
    each of them does.
    """

    workers: int

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Make a set of requests known under a name, once, before jobs refer to it.

        Args:
            split: the name.
            requests: all of them.
            blocks: positions of the requests of each block, if jobs ask for blocks.
        """

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield every job with its outcome as soon as it is known, in any order.

        A None among the jobs means that the next depends on an outcome that isn't known yet. So whoever draws
        the outcomes can go on with a candidate, or let it be, after some of its blocks; a worker that still
        holds the candidate goes on with it at once.

        Closing the iterator early (Ctrl-C) abandons what is still running.
        """

    def close(self) -> None:
        """Release workers and devices. Safe to call twice."""
