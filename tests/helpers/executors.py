"""Executors as others would bring one, and such as break off or answer in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from evomerge.execute.base import Executor, Job, Outcome
from evomerge.execute.inline import InlineExecutor
from evomerge.study import session


@contextmanager
def executors(wrapped: Callable[[Executor], Executor]) -> Iterator[None]:
    """Searches inside have their executor wrapped."""
    make = session.make_executor
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(session, "make_executor", lambda *args: wrapped(make(*args)))
        yield


@contextmanager
def stopped(*, after: int) -> Iterator[None]:
    """A search inside is interrupted after so many outcomes."""
    with executors(lambda made: Stops(made, after=after)), pytest.raises(KeyboardInterrupt):
        yield


class Theirs(InlineExecutor):
    """Works in this process, and is chosen by its own name alone."""


class Shuffled:
    """An executor that takes jobs in batches and reports their outcomes in any order."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.workers = executor.workers
        self.add_requests = executor.add_requests
        self.close = executor.close

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        source, generator = iter(jobs), random.Random(0)
        while True:
            batch: list[Job] = []
            for job in source:
                if job is None:
                    break
                batch.append(job)
                if len(batch) == 8:
                    break
            if not batch:
                return
            finished = list(self._executor.run(batch))
            generator.shuffle(finished)
            yield from finished


class Stops:
    """An executor whose driver is interrupted after so many outcomes."""

    def __init__(self, executor: Executor, *, after: int) -> None:
        self._executor, self._left = executor, after
        self.workers = executor.workers
        self.add_requests = executor.add_requests
        self.close = executor.close

    def run(self, jobs: Iterable[Job | None]) -> Iterator[tuple[Job, Outcome]]:
        for done in self._executor.run(jobs):
            if self._left == 0:
                raise KeyboardInterrupt
            self._left -= 1
            yield done
