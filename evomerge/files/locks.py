"""Locks between processes on an open file, which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
from typing import IO, Any

_TAKEN = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""How systems say that another process holds a lock; anything else means that there are none."""


def take(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file without waiting; whether nobody else holds it.

    Args:
        file: the lock goes with it, also where it is closed.
        shared: beside others who do the same.

    Raises: OSError where the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def give_back(file: IO[Any]) -> None:
    """Unlock an open file."""
    fcntl.flock(file, fcntl.LOCK_UN)
