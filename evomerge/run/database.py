"""Databases that keep a study, by their URL: which driver, and how a URL is shown."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

POSTGRES = "pip install 'evomerge[postgres]'"


def database_url(storage: str) -> URL:
    """The URL of a database, with the driver of PostgreSQL that is installed where none is named.

    Raises: ValueError for what is no URL of a database; the message doesn't hold it.
    """
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError) as error:
        raise ValueError("not the URL of a database") from error
    if url.drivername in {"postgresql", "postgres"}:
        # SQLAlchemy means psycopg2 by it, which the extra doesn't install.
        other = find_spec("psycopg2") is not None
        return url.set(drivername="postgresql+psycopg2" if other else "postgresql+psycopg")
    return url


def engine_settings(url: URL) -> dict[str, Any]:
    """How the engine of a database is made.

    A server gets a new connection for each write, of which there are a few for a candidate: none is left that the
    server or a firewall has dropped while candidates were evaluated, and none counts against its limit meanwhile.
    """
    return {} if url.get_backend_name() == "sqlite" else {"poolclass": NullPool}


def shown_url(storage: str) -> str:
    """A storage for messages, without its password."""
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return storage
