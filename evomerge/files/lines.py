"""A file of JSON lines that stay on disk: each is found again by its place, and a damaged one is named.

Each line ends with its number and a checksum of itself, so that a flipped bit is found, and also lines that are lost,
doubled, exchanged or of another file. Lines of older files have neither, and are read as they are; they can only be the
first ones.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic_core import from_json

from evomerge.errors import RunError
from evomerge.files.append import append

T = TypeVar("T")

DAMAGED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, zlib.error)
"""What comes up when something is made of data that aren't what they should be."""

_SEAL = re.compile(rb',"line":([0-9]+),"sum":"([0-9a-f]{8})"\}\n\Z')


class Place(NamedTuple):
    """Where a line lies in its file, in bytes."""

    start: int
    size: int


class Seal(NamedTuple):
    """What the end of a line says: its number among the lines that have one, and whether its checksum is right."""

    number: int
    right: bool


class Lines:
    """The lines of one file, written by one process.

    Args:
        path: the file.
        of: what the file belongs to; checksums are of that too, so that a file of something else is found out.
        others: says of the data of a line without a checksum whether it is another program's, which may write it
            between ours.
    """

    def __init__(self, path: Path, *, of: str = "", others: Callable[[Any], bool] = lambda data: False) -> None:
        self.path = path
        self.number = 0
        """Of the line read last."""
        self._of = zlib.crc32(of.encode())
        self._others = others
        self._end = 0
        self._read = 0
        self._sealed: int | None = None

    def read(self, make: Callable[[Any, Place], T]) -> Iterator[T]:
        """What is made of every line, in order; an incomplete last one is a write in progress, and left out.

        Raises: FileNotFoundError; RunError naming a line that is damaged, or that nothing can be made of.
        """
        self.number = self._end = self._read = 0
        return self.more(make)

    def more(self, make: Callable[[Any, Place], T]) -> Iterator[T]:
        """As `read`, of the lines after the one read last."""
        self._sealed = max(self._sealed or 0, self._read)
        with self.path.open("rb") as file:
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                place = Place(self._end, len(line))
                self.number += 1
                self._end += len(line)
                found = seal(line, self._of)
                made = self._made(f"line {self.number}", line, found, make, place, after=self._read)
                if found is not None:
                    self._read = found.number
                    self._sealed = max(self._sealed, self._read)
                yield made

    def at(self, place: Place, make: Callable[[Any], T]) -> T:
        """What is made of the line at a place. Raises: RunError, as `read`."""
        try:
            with self.path.open("rb") as file:
                file.seek(place.start)
                line = file.read(place.size)
        except OSError as error:
            raise RunError(f"{self.path}: can't be read: {error.strerror}") from error
        return self._made(f"the line at byte {place.start}", line, seal(line, self._of), make)

    def append(self, line: str, *, wait: bool = True) -> Place:
        """Add a line, with its number and checksum.

        Args:
            line: a JSON object that isn't empty, ending with a newline.
            wait: until it is on disk, so that a machine without power has it as well as a killed process.

        Returns: where it lies. Raises: OSError, and leaves the file as it was.
        """
        exists = self.path.exists()
        if self._sealed is None:
            for _ in self.read(lambda data, place: None) if exists else ():
                pass
        start = self.path.stat().st_size if exists else 0
        sealed = with_seal(line, (self._sealed or 0) + 1, self._of)
        append(self.path, sealed, wait=wait)
        self._sealed = (self._sealed or 0) + 1
        return Place(start, len(sealed.encode()))

    def _made(
        self,
        which: str,
        line: bytes,
        found: Seal | None,
        make: Callable[..., T],
        *more: Place,
        after: int | None = None,
    ) -> T:
        try:
            data = parsed(line)
            if found is None:
                if (isinstance(data, dict) and "sum" in data) or (after and not self._others(data)):
                    raise ValueError("it has no checksum")
            elif not found.right:
                raise ValueError("its checksum is wrong")
            elif after is not None and found.number != after + 1:
                raise ValueError(f"it was written as line {found.number} and stands where {after + 1} should")
            return make(without_seal(data), *more)
        except DAMAGED as error:
            raise RunError(f"{self.path}: {which} is damaged ({error}); {remedy(self.path.parent)}") from error


def seal(line: bytes, of: int) -> Seal | None:
    """What the end of a whole line says; None if it has no number and checksum.

    Args:
        line: as it is in the file.
        of: the checksum of what the file belongs to.
    """
    found = _SEAL.search(line[-64:])
    if found is None:
        return None
    content = line[: len(line) - len(found[0])] + b',"line":' + found[1]
    return Seal(int(found[1]), zlib.crc32(content, of) == int(found[2], 16))


def parsed(line: bytes) -> Any:
    """What `json.loads` makes of a line, in a quarter of the time. Raises: ValueError, RecursionError."""
    try:
        return from_json(line)
    except ValueError:
        # Half a surrogate pair, or lists in lists hundreds deep, are JSON for Python alone.
        return json.loads(line)


def with_seal(line: str, number: int, of: int) -> str:
    """A line, a JSON object that isn't empty, with its number and checksum."""
    content = line.rstrip().removesuffix("}") + f',"line":{number}'
    return content + f',"sum":"{zlib.crc32(content.encode(), of):08x}"' + "}\n"


def without_seal(data: Any) -> Any:
    """The data of a line without its number and checksum."""
    if isinstance(data, dict) and "sum" in data:
        data.pop("line", None)
        del data["sum"]
    return data


def remedy(directory: Path) -> str:
    """What to do about a damaged file of a run directory."""
    return f"restore the file from a copy, or keep what is good with: evomerge check {directory} --repair"
