"""Folders that are complete or not there at all."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import ExportError
from evomerge.files.append import uninterrupted
from evomerge.files.obstacles import obstacle
from evomerge.files.places import is_folder, is_there


@contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` to write into, which takes its name when all is written.

    After an error, or the next time after a kill, nothing of it is left. The disk isn't waited for: what is lost
    in a power failure can be written again.

    Raises: OSError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(out)
    hidden = out.parent / f".{out.name}.{secrets.token_hex(4)}.partial"
    handle = None
    try:
        hidden.mkdir()
        handle = os.open(hidden, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield hidden
        hidden.rename(out)
    finally:
        with uninterrupted():
            if handle is not None:
                os.close(handle)
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """A `fresh_folder` whose writing may fail. Raises: ExportError saying so."""
    try:
        with fresh_folder(out) as folder:
            yield folder
    except OSError as error:
        raise ExportError(f"{out}: can't be written: {obstacle(error, out)}. Nothing was left there") from error


def refuse_taken(out: Path) -> None:
    """Raises: ExportError if something is there that a new folder would replace: anything but an empty folder."""
    if is_there(out) and not (is_folder(out) and not any(out.iterdir())):
        raise ExportError(f"{out}: is there already; choose another folder or empty this one")


def _remove_left_over(out: Path) -> None:
    """Delete the hidden folders of writers that were killed: nobody holds their locks any more."""
    for folder in out.parent.glob(f".{out.name}.*.partial"):
        try:
            handle = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
