"""One driver at a time for a run directory."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from evomerge.errors import LockedError, RunError
from evomerge.files.locks import give_back, take


def this_process() -> str:
    """Who drives a run, in words."""
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def lock(directory: Path, *, wait_s: float = 0.0, told: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only driver of a run directory.

    Args:
        directory: the run's; it is made if it isn't there.
        wait_s: seconds to wait for another driver to end. A machine that was lost keeps its locks on a network's file
            system for a minute or two.
        told: is given a sentence once there is something to wait for.

    Raises: LockedError, RunError if it can't be written.
    """
    until = time.monotonic() + wait_s
    while True:
        file = _opened(directory)
        if _taken(file, directory):
            break
        with file:
            file.seek(0)
            holder = file.read().strip() or "another process"
        if time.monotonic() >= until:
            waited = f", also after {wait_s:.0f} s" if wait_s else ""
            raise LockedError(
                f"{directory}: {holder} is driving this run{waited}. Wait for it, or stop it first; "
                f"see: evomerge status {directory}"
            )
        if told is not None:
            told(f"{directory}: {holder} is driving this run; waiting up to {wait_s:.0f} s for it to end")
            told = None
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
    with file:
        file.truncate(0)
        file.write(this_process())
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            # The directory may be gone by now, and what was raised says so.
            with suppress(OSError):
                if [entry.name for entry in directory.iterdir()] == ["lock"]:
                    # Refused before anything was recorded: leave no trace.
                    (directory / "lock").unlink()
                    directory.rmdir()
            give_back(file)


def _opened(directory: Path) -> IO[str]:
    """The file that is locked. Raises: RunError if it can't be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"{directory}: can't be written: {error.strerror}. Choose another --run directory") from error


def _taken(file: IO[str], directory: Path) -> bool:
    """Lock the file, if nobody else holds it. Raises: RunError where there are no locks."""
    try:
        return take(file)
    except OSError as error:
        file.close()
        raise RunError(
            f"{directory}: the file system has no locks ({error.strerror}), so two searches could write there "
            "at the same time; choose a --run directory on another disk, or mount this one with locks"
        ) from error


def driver_of(directory: Path) -> str | None:
    """The process and machine that drive a run, as they wrote it down; None if none does, or it can't be read."""
    if not is_locked(directory):
        return None
    try:
        return (directory / "lock").read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def is_locked(directory: Path) -> bool:
    """Whether a driver is at work in a run directory."""
    try:
        with (directory / "lock").open() as file:
            return not take(file, shared=True)
    except OSError as error:
        # A lock of somebody else's, which can't be looked at, may be held.
        return error.errno == errno.EACCES
