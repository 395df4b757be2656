"""The inline executor: one worker in the driver's own process. Nothing to install, nothing to start."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ExecutionError
from evomerge.execute.base import Job, Outcome, WorkerSettings
from evomerge.execute.worker import Worker
from evomerge.run.workers import WorkerNow
from evomerge.score.requests import Request


class InlineExecutor:
    """Evaluates jobs one after the other, here.

    A crash of the process (a killed worker) can't be survived here; everything else is a value.

    Raises: ExecutionError, CheckpointError as Worker does.
    """

    workers = 1

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._worker: Worker | None = Worker(settings)
        self._now: tuple[Job | None, float] = (None, time.monotonic())

    @classmethod
    def from_config(cls, execution: ExecutionConfig, settings: WorkerSettings) -> InlineExecutor:
        """Build from the config's execution section.

        Raises: ExecutionError if several workers are asked for.
        """
        if (execution.workers or 1) > 1:
            raise ExecutionError(
                f"execution.workers: {execution.workers} workers can't run inline; use backend ray (or auto)"
            )
        return cls(settings)

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Make a set of requests known under a name, once, before jobs refer to it."""
        self._open().add_requests(split, requests, blocks)

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job with its outcome, in order; the next job is drawn when its turn comes."""
        worker = self._open()
        for job in jobs:
            # Nothing runs here while a job is drawn, so no outcome is missing.
            assert job is not None, "waiting for an outcome that was already given"
            self._now = job, time.monotonic()
            outcome = worker.evaluate(job)
            self._now = None, time.monotonic()
            yield job, outcome

    def at_work(self) -> list[WorkerNow]:
        """What the worker does now."""
        job, since = self._now
        seconds = round(time.monotonic() - since, 1)
        if job is None:
            return [WorkerNow(name="inline", state="idle", seconds=seconds)]
        return [
            WorkerNow(
                name="inline", state="working", seconds=seconds, trial=job.number, split=job.split, blocks=job.blocks
            )
        ]

    def close(self) -> None:
        """Let go of the models."""
        self._worker = None

    def _open(self) -> Worker:
        if self._worker is None:
            raise ExecutionError("this executor is closed; make a new one")
        return self._worker
