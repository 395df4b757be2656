"""Files of lines that survive a crash: whole lines on disk, or none; no signal in between."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import RunError
from evomerge.files.obstacles import obstacle


def append(path: Path, line: str, *, wait: bool = True) -> None:
    """Append a whole line, and wait until it is on disk unless told not to; on failure leave the file as it was."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
            if wait:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def wait_for_disk(path: Path) -> None:
    """Wait until what was appended to a file is on disk. Raises: OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left incomplete, so that the next append starts a line of its own."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Write inside a run directory, not interrupted by Ctrl-C or SIGTERM. Raises: RunError if that fails."""
    try:
        with uninterrupted():
            yield
    except OSError as error:
        raise RunError(
            f"{directory}: can't be written: {obstacle(error)}. Nothing already recorded is lost; then continue with: "
            f"evomerge resume {directory}"
        ) from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until a write is whole.

    Optuna's lock file can't be released once an interrupt has hit its release.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None is a handler that wasn't set from Python, which couldn't be restored.
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: held.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
