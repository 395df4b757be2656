"""Tells the observers that a config chooses of its run, besides the one that is looking on.

They are told by a thread of their own, so that the search waits for none of them before its end. What each was told is
in a file of the run directory, so that a later session tells the rest and nothing twice.
"""

from __future__ import annotations

import json
import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evomerge.config.config import Config
from evomerge.errors import ConfigError, EvomergeError, first_line
from evomerge.files.append import append, drop_torn_line
from evomerge.observers import OBSERVERS
from evomerge.observers.base import Ended, RunObserver, Story
from evomerge.report.finding import finding
from evomerge.run.ledger import Ledger
from evomerge.run.observer import Observer
from evomerge.run.records import TrialRecord, record_of

TOLD = "observed.jsonl"
_PATIENCE_S = 60.0
_PATIENCE_STOPPED_S = 5.0


def observers_of(config: Config, *, where: str) -> list[tuple[str, RunObserver]]:
    """The observers that a config chooses, by name. Raises: ConfigError if one isn't known or can't be had."""
    found = []
    for entry in config.observe:
        name, setting = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        try:
            found.append((name, OBSERVERS.get(name)(setting)))
        except EvomergeError as error:
            lead = "" if str(error).startswith("observe:") else "observe: "
            raise ConfigError(f"{where}: {lead}{error}") from error
    return found


def numbers_of(record: TrialRecord) -> dict[str, float]:
    """What is known of a trial in numbers, by name and kind of model."""
    values = {
        f"score/{record.model}": record.score,
        f"fitness/{record.model}": record.fitness if record.is_feasible else None,
        f"validation/{record.model}": record.validation,
        f"test/{record.model}": record.test,
        **{f"{name}/{record.model}": value for name, value in record.measured.items()},
    }
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


class Observed:
    """An observer of the search that tells those of its config.

    Args:
        directory: the run's.
        looking: who looks on, and is told all at once.
        others: the config's observers, by name.
    """

    def __init__(self, directory: Path, looking: Observer, others: list[tuple[str, RunObserver]]) -> None:
        self._directory = directory
        self._looking = looking
        self._others = others
        self._told: set[tuple[str, int, str]] = set()
        self._failed: set[str] = set()
        self._begun = False
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="evomerge-observers", daemon=True)
        if others:
            self._thread.start()

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins."""
        self._looking.phase(name, total)

    def trial(self, record: TrialRecord) -> None:
        """A candidate has been evaluated."""
        if self._begun:
            self._tell(record)
        self._looking.trial(record)

    def generation(self, number: int, best: float, median: float, failed: int) -> None:
        """A generation is complete."""
        self._looking.generation(number, best, median, failed)

    def message(self, text: str) -> None:
        """Something that the user should know."""
        self._looking.message(text)

    def begin(self, config: Config, facts: Mapping[str, Any], ledger: Ledger) -> None:
        """The run is there. Its observers hear what an earlier session couldn't tell them.

        Args:
            config: the run's.
            facts: of its run.json.
            ledger: with the trials so far.
        """
        if not any(observer.takes_points for _, observer in self._others):
            return
        self._begun = True
        self._told = _told_before(self._directory / TOLD)
        story = _story(self._directory, config, facts)
        for name, observer in self._others:
            if observer.takes_points:
                self._put(name, lambda observer=observer: observer.begin(story))  # type: ignore[misc]
        for trial in ledger.trials():
            self._tell(record_of(ledger, trial))

    def end(self, ended: Ended | None) -> None:
        """The session is over; None: there was nothing to do. Waits a minute at most for observers to hear of it."""
        if not self._others:
            return
        if ended is not None:
            for name, observer in self._others:
                self._put(name, lambda observer=observer: observer.end(ended))  # type: ignore[misc]
        self._tasks.put(None)
        patience = _PATIENCE_STOPPED_S if ended is not None and ended.state == "stopped" else _PATIENCE_S
        self._thread.join(patience)
        if self._thread.is_alive():
            self.message(f"observe: observers haven't heard all within {patience:.0f} s and are left behind")

    def _tell(self, record: TrialRecord) -> None:
        values = numbers_of(record)
        for name, observer in self._others:
            news = {key: value for key, value in values.items() if (name, record.number, key) not in self._told}
            if observer.takes_points and news:
                self._told |= {(name, record.number, key) for key in news}
                self._put(name, lambda args=(name, observer, record.number, news): self._point(*args))  # type: ignore[misc]

    def _point(self, name: str, observer: RunObserver, trial: int, values: Mapping[str, float]) -> None:
        observer.point(trial, values)
        append(self._directory / TOLD, json.dumps({"observer": name, "trial": trial, "names": [*values]}) + "\n")

    def _put(self, name: str, task: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                task()
            except Exception as error:
                if name not in self._failed:
                    self._failed.add(name)
                    self.message(f"observe: {name}: {first_line(error)}; the search doesn't depend on it")

        self._tasks.put(guarded)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()


@contextmanager
def observed(directory: Path, looking: Observer, others: list[tuple[str, RunObserver]]) -> Iterator[Observed]:
    """Within, observers are told of a run; then how it ended, where `Observed.begin` was called or it failed."""
    told = Observed(directory, looking, others)
    try:
        yield told
    except BaseException as error:
        told.end(_ended(directory, error))
        raise


def ended_with(directory: Path, result: Mapping[str, Any]) -> Ended:
    """A run that is done."""
    name = directory.resolve().name
    return Ended(
        run=name,
        directory=str(directory.resolve()),
        state="done",
        text=f"{name} is done. {finding(result)}",
        winner=result["winner"]["trial"],
    )


def _ended(directory: Path, error: BaseException) -> Ended:
    """A session that ended before the search did."""
    name, failed = directory.resolve().name, isinstance(error, Exception)
    said = str(error).strip() or type(error).__name__
    return Ended(
        run=name,
        directory=str(directory.resolve()),
        state="failed" if failed else "stopped",
        text=f"{name} has failed: {said}" if failed else f"{name} was stopped before its end.",
        error=said if failed else None,
    )


def _told_before(path: Path) -> set[tuple[str, int, str]]:
    """Which observer was told what of which trial. A damaged line tells nothing: what it had is told again."""
    found: set[tuple[str, int, str]] = set()
    with suppress(OSError):
        drop_torn_line(path)
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, KeyError, TypeError):
                data = json.loads(line)
                found |= {(data["observer"], data["trial"], name) for name in data["names"]}
    return found


def _story(directory: Path, config: Config, facts: Mapping[str, Any]) -> Story:
    tasks = [str(task.get("name", "")) for task in facts.get("benchmark", {}).get("tasks", [])]
    return Story(
        name=directory.resolve().name,
        directory=directory,
        study=str(facts["study"]),
        settings={
            "base": Path(config.models.base.path).name,
            "experts": ", ".join(config.models.experts),
            "method": config.merge.method,
            "algorithm": config.search.algorithm,
            "seed": str(config.search.seed),
            "tasks": ", ".join(filter(None, tasks)),
            "versions": ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items()),
        },
    )
