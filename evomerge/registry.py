"""Registries: names of a kind, each bound to an import path that is loaded when first used.

A registry imports nothing until an entry is asked for, so listing names for the command line costs
nothing. Other packages add entries through Python entry points.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from evomerge.errors import UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """Named parts of one kind.

    Args:
        kind: what an entry is, in words, for error messages ("merge method").
        entries: name to "module:attribute".
        group: the entry-point group through which other packages add entries.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, group: str) -> None:
        self.kind = kind
        self._group = group
        self._entries = dict(entries)
        self._plugins_read = False

    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first, in the order of registration."""
        self._read_plugins()
        return tuple(self._entries)

    def get(self, name: str) -> T:
        """Import and return the entry called `name`.

        Raises: UnknownNameError if there is none.
        """
        if name not in self._entries:
            self._read_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        module, _, attribute = self._entries[name].partition(":")
        return cast(T, getattr(importlib.import_module(module), attribute))

    @contextmanager
    def extended(self, entries: Mapping[str, str]) -> Iterator[None]:
        """Have more entries, or others under known names, in this process until the context ends.

        Args:
            entries: name to "module:attribute", which is imported when first asked for.
        """
        self._read_plugins()
        before = self._entries
        self._entries = {**before, **entries}
        try:
            yield
        finally:
            self._entries = before

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in sorted(_points().select(group=self._group), key=lambda point: point.name):
            self._entries.setdefault(point.name, point.value)


@cache
def _points() -> Any:
    """Those of all installed packages at the first call, since reading them takes some milliseconds."""
    return entry_points()
