"""Where an Optuna study lies: a storage by its URL, or the journal in the run directory."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection

from evomerge.errors import RunError
from evomerge.files.lines import remedy
from evomerge.run.journal import FACTS, JOURNAL, Journal
from evomerge.run.journal_studies import JournalStudies


def create_study(
    directory: Path,
    storage: str,
    study_name: str,
    directions: Sequence[StudyDirection],
    facts: Mapping[str, Any] | None = None,
) -> BaseStorage:
    """The storage with a new, empty study in it, and in a journal with a copy of the run's facts.

    Raises: RunError if the storage can't be used or has that study.
    """
    with quiet(), storage_errors(directory, storage):
        opened = open_storage(directory, storage, study_name)
        optuna.create_study(storage=opened, study_name=study_name, directions=directions)
        if storage == "journal" and facts is not None:
            opened.set_study_system_attr(opened.get_study_id_from_name(study_name), FACTS, dict(facts))
    return opened


def load_study(directory: Path, storage: str, study_name: str) -> BaseStorage:
    """The storage that has this study. Raises: RunError if it isn't there or can't be read."""
    with quiet(), storage_errors(directory, storage):
        opened = open_storage(directory, storage, study_name)
        optuna.load_study(storage=opened, study_name=study_name)
    return opened


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


def wait_for_study(storage: BaseStorage) -> None:
    """Wait until all that a storage was told is on disk; databases have waited by themselves. Raises: OSError."""
    if isinstance(storage, JournalStudies):
        storage.journal.wait_for_disk()


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
