"""Whether trials and copies can be kept where a config says, found out without writing anything there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from evomerge.errors import ConfigError, EvomergeError, first_line
from evomerge.files.objects import Place


def check_storage(storage: str, *, where: str) -> str | None:
    """Look at the storage of a config; return a sentence if it couldn't be looked at from here.

    Args:
        storage: `journal`, or the URL of a database.
        where: the config's file, for messages.

    Raises: ConfigError for a URL that can't be read, a driver that isn't installed or a folder that isn't there.
    """
    if storage == "journal":
        return None
    from sqlalchemy import create_engine
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    from evomerge.run.database import POSTGRES, database_url, shown_url

    place = f"{where}: storage"
    try:
        url = database_url(storage)
    except ValueError as error:
        raise ConfigError(
            f"{place}: neither `journal` nor the URL of a database, such as sqlite:////data/trials.db"
        ) from error
    shown = shown_url(storage)
    if url.get_backend_name() == "sqlite":
        _check_file(url.database, place, shown)
        return None
    try:
        engine = create_engine(url)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        install = f"; install it: {POSTGRES}" if url.get_backend_name() == "postgresql" else ""
        raise ConfigError(f"{place}: {shown} needs a driver that isn't installed: {error}{install}") from error
    try:
        with engine.connect():
            return None
    except (SQLAlchemyError, OSError) as error:
        reason = getattr(error, "orig", None) or error
        return f"the storage {shown}, which doesn't answer from here: {first_line(reason)}"
    finally:
        engine.dispose()


def check_mirror(url: str | None, *, where: str) -> str | None:
    """Look at the mirror of a config; return a sentence if it couldn't be looked at from here.

    Args:
        url: of the mirror, if there is one.
        where: the config's file, for messages.

    Raises: ConfigError for a URL that can't be read, or whose package isn't installed.
    """
    if url is None:
        return None
    try:
        place = Place(url)
    except EvomergeError as error:
        raise ConfigError(f"{where}: execution.mirror: {error}") from error
    try:
        place.names()
    except Exception as error:
        return f"the mirror {url}, which can't be reached from here: {first_line(error)}"
    return None


def _check_file(database: str | None, place: str, shown: str) -> None:
    """Raises: ConfigError for a database in memory, or in a folder that isn't there or can't be written."""
    if not database or database == ":memory:":
        raise ConfigError(f"{place}: {shown} is kept in memory and ends with the process; give a file")
    path = Path(database)
    if not path.parent.is_dir():
        raise ConfigError(f"{place}: {shown}: no such folder: {path.parent}; make it first")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{place}: {shown}: {path} can't be written")
    if path.exists():
        try:
            with closing(sqlite3.connect(f"file:{path.absolute()}?mode=ro", uri=True)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise ConfigError(f"{place}: {shown}: {path} can't be opened as a database: {error}") from error
