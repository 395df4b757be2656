"""What a long benchmark has found so far, on disk, so that it can be stopped and go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Progress:
    """Rows of a file of JSON lines, each under a name, below a first line that holds the settings.

    A row is on disk before the next is begun; a row that was cut short is made again. Which release of the package
    the rows are from isn't written: rows of different ones are not to be mixed.

    Raises:
        SystemExit: The file holds rows of other settings.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self._path, self._rows = path, dict[str, dict[str, Any]]()
        if path is None:
            return
        begun = dict(json.loads(json.dumps(settings)))
        found, _, rows = path.read_text().partition("\n") if path.exists() else ("", "", "")
        if not found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(begun) + "\n")
        elif json.loads(found) != begun:
            raise SystemExit(f"{path} was begun with other settings, {found}; name another file, or delete it")
        else:
            whole = rows[: rows.rfind("\n") + 1]
            path.write_text(f"{found}\n{whole}")
            self._rows = {row["name"]: row["found"] for row in map(json.loads, whole.splitlines())}

    def get(self, name: str) -> dict[str, Any] | None:
        """The row of this name, if it has been found."""
        return self._rows.get(name)

    def add(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """Write a row, and give it back."""
        self._rows[name] = found
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps({"name": name, "found": found}, default=str) + "\n")
        return found
