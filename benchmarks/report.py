"""What a benchmark writes: the machine, the versions and the figures, as JSON."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("evomerge", "mergekit", "torch", "numba", "numpy", "safetensors")


class Report:
    """Rows by their settings, kept in a JSON file if there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.rows = json.loads(path.read_text())["rows"]

    def find(self, **settings: Any) -> dict[str, Any] | None:
        """The row with these settings."""
        return next((row for row in self.rows if all(row.get(key) == value for key, value in settings.items())), None)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.rows.append(row)
        if self.path is not None:
            machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
            data = {"machine": machine, "versions": _versions(), "rows": self.rows}
            self.path.write_text(json.dumps(data, indent=2) + "\n")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
