"""What each worker does now, in a file of the run directory that is only looked at.

Knows workers, trials and busy time. Does not know executors. Nothing of it is needed to go on with a run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from evomerge.errors import RunError
from evomerge.files.atomic import read_json, write_json

WORKERS = "workers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerNow:
    """One worker at one moment."""

    name: str
    """Machine and process, or what else its executor calls it."""
    state: Literal["starting", "idle", "working"]
    seconds: float
    """For how long it has been so."""
    trial: int | None = None
    """What it works on."""
    split: str | None = None
    blocks: tuple[int, ...] | None = None
    """Of the items, which it answers in one go; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """All workers of the session that drives a run."""

    workers: tuple[WorkerNow, ...] = ()
    utilisation: float | None = None
    """The share of their time in which workers had a candidate, from the first evaluation of the session on."""
    gpus: float = 0.0
    """GPUs that they use together."""

    def write(self, directory: Path) -> None:
        """Make it the present one. Raises: RunError."""
        write_json(directory / WORKERS, {"at": round(time.time(), 1), **asdict(self)})


def workplace_of(directory: Path) -> Workplace:
    """The workers of a run that is being driven, as of now; empty where its driver doesn't say."""
    try:
        data = read_json(directory / WORKERS, missing_ok=True)
        since = max(0.0, time.time() - data.get("at", 0.0))
        return Workplace(
            workers=tuple(_later(one, since) for one in data.get("workers", ())),
            utilisation=data.get("utilisation"),
            gpus=data.get("gpus", 0.0),
        )
    except (RunError, TypeError):
        # Only looked at: what is damaged here is written anew in a moment.
        return Workplace()


def _later(worker: Mapping[str, Any], since: float) -> WorkerNow:
    return WorkerNow(**{**worker, "seconds": round(worker["seconds"] + since, 1)})
