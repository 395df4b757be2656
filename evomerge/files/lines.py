"""A file of JSON lines that stay on disk: each is found again by its place, and a damaged one is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from evomerge.errors import RunError
from evomerge.files.append import append

T = TypeVar("T")


class Place(NamedTuple):
    """Where a line lies in its file, in bytes."""

    start: int
    size: int


class Lines:
    """The lines of one file, written by one process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, make: Callable[[Any, Place], T]) -> Iterator[T]:
        """What is made of every line, in order; an incomplete last one is a write in progress, and left out.

        Raises: FileNotFoundError; RunError naming a line that isn't JSON, or that nothing can be made of.
        """
        with self.path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                yield self._made(f"line {number}", line, make, Place(start, len(line)))
                start += len(line)

    def at(self, place: Place, make: Callable[[Any], T]) -> T:
        """What is made of the line at a place. Raises: RunError, as `read`."""
        with self.path.open("rb") as file:
            file.seek(place.start)
            line = file.read(place.size)
        return self._made(f"the line at byte {place.start}", line, make)

    def append(self, line: str) -> Place:
        """Make a line durable. Returns: where it lies. Raises: OSError, and leaves the file as it was."""
        start = self.path.stat().st_size if self.path.exists() else 0
        append(self.path, line)
        return Place(start, len(line.encode()))

    def _made(self, which: str, line: bytes, make: Callable[..., T], *more: Place) -> T:
        try:
            return make(json.loads(line), *more)
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.path}: {which} is damaged ({error}); restore the file from a copy") from error
