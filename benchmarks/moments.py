"""The moments of a process that changes files, and its end at one of them."""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from typing import Any

CALLS = ("fsync", "replace", "rename", "unlink", "open", "truncate", "ftruncate", "link", "symlink", "mkdir", "rmdir")


class Moments:
    """Counts the calls that change the disk in this process, and kills it at one of them."""

    def __init__(self, *, die_at: int | None = None) -> None:
        self.seen: list[str] = []
        self._die_at = die_at
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        opening = io.open

        def open_watched(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return opening(file, mode, *arguments, **options)
            self.hit(f"open {mode}: before")
            opened = opening(file, mode, *arguments, **options)
            self.hit(f"open {mode}: after")
            return _Watched(opened, self)

        io.open = builtins.open = open_watched  # type: ignore[assignment]

    def hit(self, what: str, last_wish: Callable[[], object] = lambda: None) -> None:
        """A moment; if it is the last, the process is gone."""
        self.seen.append(what)
        if len(self.seen) == self._die_at:
            last_wish()
            os._exit(137)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            self.hit(f"{name}: before")
            found = call(*arguments, **options)
            self.hit(f"{name}: after")
            return found

        return watched


class _Watched:
    """A file open for writing, whose writes are moments."""

    def __init__(self, file: Any, moments: Moments) -> None:
        self._file, self._moments = file, moments

    def write(self, data: Any) -> Any:
        self._moments.hit("write: before")
        self._moments.hit("write: half", lambda: (self._file.write(data[: len(data) // 2]), self._file.flush()))
        written = self._file.write(data)
        self._moments.hit("write: after", self._file.flush)
        return written

    def truncate(self, *arguments: Any) -> Any:
        self._moments.hit("truncate: before")
        return self._file.truncate(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
