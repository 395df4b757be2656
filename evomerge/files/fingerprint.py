"""Whether a file's content is what it was: size, time and a hash of all of it, which is computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READERS = 4
"""Files that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What is remembered of a file's content."""

    size: int
    """In bytes."""
    modified: int
    """Time of the last change, in nanoseconds."""
    hash: str
    """BLAKE2b of the whole content, 128 bits in hexadecimal."""

    def to_data(self) -> list[Any]:
        """As plain data: size, time, hash."""
        return [self.size, self.modified, self.hash]


def fingerprints(files: Mapping[str, Path]) -> dict[str, Fingerprint]:
    """The fingerprint of each file, by the name that it is given. Every file is read whole. Raises: OSError."""
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(files, pool.map(_fingerprint, files.values()), strict=True))


def changed(files: Mapping[str, Path], recorded: Mapping[str, Any]) -> list[str]:
    """Names of the files whose content isn't what it was, or that aren't there any more.

    Only a file whose size or time differs is read.

    Args:
        files: the files as they are now, by name.
        recorded: their fingerprints from before as plain data, by name.

    Raises: OSError.
    """
    found = []
    for name, (size, modified, content) in recorded.items():
        path = files.get(name)
        if path is None:
            found.append(name)
            continue
        now = path.stat()
        if now.st_size != size or (now.st_mtime_ns != modified and _fingerprint(path).hash != content):
            found.append(name)
    return found


def _fingerprint(path: Path) -> Fingerprint:
    with path.open("rb") as file:
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    now = path.stat()
    return Fingerprint(size=now.st_size, modified=now.st_mtime_ns, hash=content)
