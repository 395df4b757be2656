"""What stands in the way of reading and writing, in words, and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path

_FULL = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EFBIG: "no file may be as large as that there; choose another place, or smaller files",
}
_WORDS = {
    **_FULL,
    errno.EROFS: "the disk is read-only; choose a place that can be written",
    errno.EACCES: "permission denied; choose a place that you may read and write",
    errno.EPERM: "permission denied; choose a place that you may read and write",
}


def obstacle(error: OSError, path: Path | None = None) -> str:
    """What an error of the system means, and the remedy if it is known.

    Args:
        error: what the system says.
        path: what was to be written, where something on the way there may be no folder; None: it was read, or nobody
            knows.
    """
    if (words := _WORDS.get(error.errno or 0)) is not None:
        return words
    if path is not None and error.errno == errno.EISDIR:
        return "a folder of that name is there; choose another name"
    if path is not None and error.errno in {errno.EEXIST, errno.ENOTDIR, errno.ENOENT}:
        for parent in reversed(path.absolute().parents):
            if not parent.exists():
                return f"there is no folder {parent}; make it, or choose another place"
            if not parent.is_dir():
                return f"{parent} is a file and no folder; choose another place"
        if error.errno != errno.ENOENT and path.is_file():
            return f"{path} is a file and no folder; choose another place"
    return error.strerror or str(error)


def is_full(error: OSError) -> bool:
    """Whether there is no room for it."""
    return error.errno in _FULL
