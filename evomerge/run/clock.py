"""How long a run has been driven, and how fast."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from evomerge.errors import EvomergeError
from evomerge.files.atomic import read_json, write_json

PROGRESS = "progress.json"


def driven_s(directory: Path) -> float:
    """Seconds that earlier sessions drove a run. Raises: RunError if its file is damaged."""
    return float(read_json(directory / PROGRESS, missing_ok=True).get("driving_seconds", 0.0))


def without_preparing(seconds: Mapping[str, float]) -> float:
    """What an evaluation took by its phases, but for what a method computes once."""
    return sum(seconds.values()) - seconds.get("prepare", 0.0)


class Rate:
    """Evaluations a minute, counted from when the first of them began: workers may have started before it."""

    def __init__(self) -> None:
        self.count_afresh()

    def count_afresh(self) -> None:
        """Count from now: what came before, such as starting workers, says nothing of the rate."""
        self._since, self._counted, self._first = time.monotonic(), 0, True

    def count(self, seconds: float) -> None:
        """One more evaluation has ended, which took so long; 0 for a copy of another's result."""
        if self._first:
            self._since = max(self._since, time.monotonic() - seconds)
            self._first, self._counted = False, int(seconds > 0)
        else:
            self._counted += 1

    @property
    def per_minute(self) -> float | None:
        """None as long as nothing was counted."""
        elapsed = time.monotonic() - self._since
        return 60 * self._counted / elapsed if self._counted and elapsed > 0 else None


class Clock:
    """Driving time of a run, summed over resumes, and its rate; written to progress.json at most once a second."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PROGRESS
        self._earlier = driven_s(directory)
        earlier = read_json(self._path, missing_ok=True)
        self._earlier_gpu = float(earlier.get("gpu_seconds", 0.0))
        self._stopped: dict[str, str] = {}
        self._spent: dict[str, Any] = {name: earlier[name] for name in ("candidates", "items") if name in earlier}
        self.gpus = 0.0
        """GPUs that this session's workers use."""
        self._start = time.monotonic()
        self._phase = "models"
        self._rate = Rate()
        self._written = float("-inf")

    @property
    def hours(self) -> float:
        """Hours of driving so far, earlier sessions included."""
        return (self._earlier + time.monotonic() - self._start) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of driving so far times the GPUs used, earlier sessions included."""
        return (self._earlier_gpu + self.gpus * (time.monotonic() - self._start)) / 3600

    def spent(self, candidates: int, items: int, *, at_once: bool = True) -> None:
        """What has ended cost: so many candidates, and search items that they answered.

        Written at once, or with what is written next.
        """
        self._spent = {"candidates": candidates, "items": items}
        if at_once:
            self._write()

    def stopped(self, error: BaseException) -> None:
        """The session ends before the search does: by an error, or because somebody stops it."""
        by = "error" if isinstance(error, Exception) else "interrupt"
        self._stopped = {"by": by} | ({"error": str(error) or type(error).__name__} if by == "error" else {})
        # A disk that can't be written is what is being reported.
        with suppress(EvomergeError):
            self._write()

    def phase(self, name: str) -> None:
        """A phase begins."""
        self._phase = name
        self.count_afresh()
        self._write()

    def count_afresh(self) -> None:
        """The rate is counted from now."""
        self._rate.count_afresh()

    def evaluated(self, seconds: float = 0.0) -> None:
        """One more candidate was evaluated, in so many seconds; 0 for a copy of another's result."""
        self._rate.count(seconds)
        if time.monotonic() - self._written > 1.0:
            self._write()

    def _write(self) -> None:
        now = self._written = time.monotonic()
        rate = self._rate.per_minute
        write_json(
            self._path,
            {
                "phase": self._phase,
                "driving_seconds": round(self._earlier + now - self._start, 1),
                "rate_per_minute": None if rate is None else round(rate, 2),
                **({"gpu_seconds": round(3600 * self.gpu_hours, 1)} if self._earlier_gpu or self.gpus else {}),
                **self._spent,
                **({"stopped": self._stopped} if self._stopped else {}),
            },
        )
