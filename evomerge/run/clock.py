"""How long a run has been driven, and how fast."""

from __future__ import annotations

import time
from pathlib import Path

from evomerge.files.atomic import read_json, write_json


class Clock:
    """Driving time of a run, summed over resumes, and its rate; written to progress.json at most once a second."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "progress.json"
        self._earlier = float(read_json(self._path, missing_ok=True).get("driving_seconds", 0.0))
        self._start = time.monotonic()
        self._phase = "models"
        self._counting_since = self._start
        self._evaluated = 0
        self._first = False
        self._written = float("-inf")

    @property
    def hours(self) -> float:
        """Hours of driving so far, earlier sessions included."""
        return (self._earlier + time.monotonic() - self._start) / 3600

    def phase(self, name: str) -> None:
        """A phase begins."""
        self._phase = name
        self.count_afresh()
        self._write()

    def count_afresh(self) -> None:
        """Evaluations are counted from now: what came before, such as starting workers, says nothing of their rate."""
        self._counting_since, self._evaluated, self._first = time.monotonic(), 0, False

    def evaluated(self, seconds: float = 0.0) -> None:
        """One more candidate was evaluated, in so many seconds; 0 for a copy of another's result.

        The first one tells since when candidates are evaluated: workers may have started after the phase began.
        """
        if self._evaluated == 0 and not self._first:
            self._first = True
            self._counting_since = max(self._counting_since, time.monotonic() - seconds)
            self._evaluated = int(seconds > 0)
        else:
            self._evaluated += 1
        if time.monotonic() - self._written > 1.0:
            self._write()

    def _write(self) -> None:
        now = self._written = time.monotonic()
        elapsed = now - self._counting_since
        rate = round(60 * self._evaluated / elapsed, 2) if self._evaluated and elapsed > 0 else None
        write_json(
            self._path,
            {
                "phase": self._phase,
                "driving_seconds": round(self._earlier + now - self._start, 1),
                "rate_per_minute": rate,
            },
        )
