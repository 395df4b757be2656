"""The jobs that an executor is handed one by one, while outcomes of earlier ones may bring more."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from evomerge.execute.base import Job


class Jobs:
    """Jobs still to be done. Where others may follow an outcome, it ends only when every outcome is known."""

    def __init__(self, *, follow: bool) -> None:
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._follow = follow

    def __iter__(self) -> Iterator[Job | None]:
        while self._waiting or (self._follow and self._running):
            if self._waiting:
                self._running += 1
                yield self._waiting.popleft()
            else:
                yield None

    def done(self) -> None:
        """One that was drawn has an outcome."""
        self._running -= 1

    def first(self, job: Job) -> None:
        """Do this before the others."""
        self._waiting.appendleft(job)

    def last(self, job: Job) -> None:
        """Do this after the others."""
        self._waiting.append(job)
