"""Has a run directory say what each worker does, also while the driver waits for one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from evomerge.errors import EvomergeError
from evomerge.execute.base import Executor
from evomerge.run.workers import WorkerNow, Workplace

_EVERY_S = 1.0
_ANYWAY_S = 10.0


class Pulse:
    """Looks at the workers each second and writes down what has changed.

    Args:
        directory: of the run.
        executor: whose workers; one that doesn't say what they do isn't asked.
        gpus: how many GPUs they use now.
    """

    def __init__(self, directory: Path, executor: Executor, gpus: Callable[[], float]) -> None:
        self._directory = directory
        self._at_work = getattr(executor, "at_work", None)
        self._gpus = gpus
        self._busy_s = self._present_s = 0.0
        self._looked = time.monotonic()
        self._written = float("-inf")
        self._said: list[WorkerNow] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="evomerge-pulse", daemon=True)
        if self._at_work is not None:
            self._thread.start()

    def close(self) -> None:
        """Stop looking. Safe to call twice."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Count the time since the last look, and write what each worker does if that has changed."""
        if self._at_work is None:
            return
        workers: tuple[WorkerNow, ...] = tuple(self._at_work())
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self._present_s += passed * len(workers)
        self._busy_s += passed * sum(worker.state == "working" for worker in workers)
        doing = [replace(worker, seconds=0.0) for worker in workers]
        if doing == self._said and now - self._written < _ANYWAY_S:
            return
        self._said, self._written = doing, now
        share = round(self._busy_s / self._present_s, 4) if self._present_s else None
        Workplace(workers=workers, utilisation=share, gpus=self._gpus()).write(self._directory)

    def _beat(self) -> None:
        while not self._stop.wait(_EVERY_S):
            # Whoever records something says that it can't be written.
            with suppress(EvomergeError):
                self.look()
