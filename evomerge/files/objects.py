"""Objects in a folder on any storage that fsspec reaches: small files, read and written whole."""

from __future__ import annotations

import os
from typing import Any

from evomerge.errors import ConfigError, MissingPackageError, first_line

_HALF = ".half"


class Place:
    """A folder by its URL, such as s3://bucket/runs/one, gs://..., file:///shared/copies/one.

    Raises: ConfigError for a URL that nothing reads; MissingPackageError naming the package that would.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        try:
            found = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise MissingPackageError(f"{url}: needs a package that isn't installed: {first_line(error)}") from error
        except ValueError as error:
            raise ConfigError(f"{url}: no storage that can be reached: {first_line(error)}") from error
        self._system: Any = found[0]
        self._root = str(found[1]).rstrip("/")
        protocol = self._system.protocol
        self._is_disk = "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def __str__(self) -> str:
        return self.url

    def names(self) -> list[str]:
        """All objects below the folder, by path from it."""
        self._system.invalidate_cache()
        if not self._system.exists(self._root):
            return []
        found = self._system.find(self._root)
        return sorted(name.removeprefix(self._root).lstrip("/") for name in found if not name.endswith(_HALF))

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if there is none."""
        try:
            return bytes(self._system.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Make an object, or another in its place."""
        path = self._path(name)
        # Object storage shows a new object once it is whole; a disk has to be helped.
        first = path + _HALF if self._is_disk else path
        try:
            self._system.pipe_file(first, data)
        except FileNotFoundError:
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(first, data)
        if first != path:
            os.replace(first, path)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        try:
            self._system.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
