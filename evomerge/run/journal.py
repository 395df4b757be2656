"""Where an Optuna study lies: a storage by its URL, or the file in the run directory.

The file is Optuna's own journal file, with a number and checksum at the end of each line.

Optuna reads it with its own classes, which pass over both. The driver alone adds to what is there of trials, so no lock
file is needed, nor left behind; attributes that Optuna's dashboard adds between our lines are taken as they are.
"""

from __future__ import annotations

import gc
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend

from evomerge.errors import RunError
from evomerge.files.append import wait_for_disk
from evomerge.files.lines import Lines, remedy

JOURNAL = "study.journal"

CREATE_STUDY, SET_STUDY_SYSTEM_ATTRIBUTE = 0, 3
"""Optuna's codes of the first two operations of a run."""

FACTS = "evomerge"
"""The attribute of the study that holds a copy of run.json."""

_ATTRIBUTES = frozenset({2, 3, 8, 9})
"""Optuna's codes for setting an attribute of a study or trial, by a user or Optuna itself; ours come with the trial."""


class Journal(BaseJournalBackend):
    """The lines of a study's file.

    Args:
        path: the file; it need not exist.
        study: the name of the study, which the checksums are of as well.
    """

    def __init__(self, path: Path, study: str) -> None:
        self.lines = Lines(path, of=study, others=is_attribute)
        self._known = 0
        # What a killed process left may not be on disk yet.
        self._waiting = path.exists()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The study's operations from this number on. Raises: RunError naming a damaged line."""
        if not self.lines.path.exists():
            return
        if log_number_from == self._known:
            found = self.lines.more(lambda data, place: data)
        else:
            found = self.lines.read(lambda data, place: data)
        for data in found:
            self._known = self.lines.number
            if self._known > log_number_from:
                yield data

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations, which the disk may have only after `wait_for_disk`. Raises: OSError."""
        for log in logs:
            self.lines.append(json.dumps(log, separators=(",", ":")) + "\n", wait=False)
            self._waiting = True

    def wait_for_disk(self) -> None:
        """Wait until all operations are on disk. Raises: OSError."""
        if self._waiting:
            wait_for_disk(self.lines.path)
            self._waiting = False


class JournalStudies(JournalStorage):
    """Studies in a file, which is waited for when asked to, and not for each operation."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal)
        self.journal = journal


def wait_for_study(storage: BaseStorage) -> None:
    """Wait until all that a storage was told is on disk; databases have waited by themselves. Raises: OSError."""
    if isinstance(storage, JournalStudies):
        storage.journal.wait_for_disk()


def is_attribute(data: Any) -> bool:
    """Whether an operation sets an attribute, which other programs may do."""
    return isinstance(data, dict) and data.get("op_code") in _ATTRIBUTES and "worker_id" in data


def open_storage(directory: Path, storage: str, study_name: str) -> BaseStorage:
    """The storage of a run's study: `journal`, or an Optuna URL. Raises: RunError naming a damaged line."""
    if storage != "journal":
        from evomerge.run.database import database_url, engine_settings

        url = database_url(storage)
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=engine_settings(url))
    journal = Journal(directory / JOURNAL, study_name)
    try:
        return JournalStudies(journal)
    except RunError:
        raise
    except Exception as error:
        # Optuna replays what it reads, and knows nothing of what a line may not be.
        raise RunError(
            f"{directory / JOURNAL}: line {journal.lines.number} is damaged ({type(error).__name__}: {error}); "
            f"{remedy(directory)}"
        ) from error


@contextmanager
def storage_errors(directory: Path, storage: str) -> Iterator[None]:
    """Say where the study is that can't be opened. Raises: RunError."""
    where = str(directory / JOURNAL)
    if storage != "journal":
        from evomerge.run.database import POSTGRES, shown_url

        where = f"storage {shown_url(storage)}"
    try:
        yield
    except optuna.exceptions.DuplicatedStudyError as error:
        raise RunError(f"{where}: {error}") from error
    except KeyError as error:
        raise RunError(f"{where}: the study of this run isn't there any more; {remedy(directory)}") from error
    except ImportError as error:
        raise RunError(f"{where}: its driver isn't installed: {error}; for PostgreSQL: {POSTGRES}") from error
    except ValueError as error:
        raise RunError(f"{where}: can't be opened: {error}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in {"sqlalchemy", "redis"}:
            raise RunError(f"{where}: can't be opened: {error}") from error
        raise


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while a study is read: its many objects all stay, and are gone through again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna greets every study on the log; ours is an implementation detail."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def name_metrics(storage: BaseStorage, study: int, metrics: Sequence[str]) -> None:
    """Name the values of a study's trials, unless they are called so already."""
    with quiet(), warnings.catch_warnings():
        # Optuna calls names of metrics experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        named = optuna.load_study(study_name=storage.get_study_name_from_id(study), storage=storage)
        if named.metric_names != list(metrics):
            named.set_metric_names(list(metrics))
