"""Run by a test in a process of its own: a command whose workers are on a cluster that loses its head."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from evomerge.cli import main
from evomerge.config.execution import ExecutionConfig
from evomerge.errors import LostClusterError
from evomerge.execute import EXECUTORS
from evomerge.execute.base import Job, Outcome, WorkerSettings
from evomerge.run.workers import WorkerNow


class Beheaded:
    """Takes requests, and loses its head at the first job."""

    workers = 1

    @classmethod
    def from_config(cls, execution: ExecutionConfig, settings: WorkerSettings) -> Beheaded:
        """Need nothing."""
        return cls()

    def add_requests(self, split: str, requests: Sequence[Any], blocks: Any = None) -> None:
        """Take them."""

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        """Raises: LostClusterError."""
        next(iter(jobs))
        raise LostClusterError("the head is gone")
        yield

    def at_work(self) -> list[WorkerNow]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Nothing to stop."""


sys.modules["beheaded"] = sys.modules[__name__]
with EXECUTORS.extended({"beheaded": "beheaded:Beheaded"}):
    main()
