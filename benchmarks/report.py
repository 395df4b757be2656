"""Figures by their settings, in a JSON file that says which machine and versions they are of.

A row that the file already holds needn't be measured again.
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("evomerge", "mergekit", "torch", "numba", "numpy", "safetensors")


class Report:
    """Rows of settings and figures, written to a JSON file if there is one.

    Args:
        path: of the file, whose rows are taken over; None keeps rows in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self._rows = json.loads(path.read_text())["rows"]

    def find(self, **settings: Any) -> dict[str, Any] | None:
        """The first row with these settings."""
        return next(iter(self.rows(**settings)), None)

    def rows(self, **settings: Any) -> list[dict[str, Any]]:
        """Every row with these settings."""
        return [row for row in self._rows if all(row.get(key) == value for key, value in settings.items())]

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, and write the file anew."""
        self._rows.append(row)
        if self._path is not None:
            machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
            data = {"machine": machine, "versions": _versions(), "rows": self._rows}
            self._path.write_text(json.dumps(data, indent=2) + "\n")


def _versions() -> dict[str, str]:
    """Versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
