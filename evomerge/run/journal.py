"""The file of an Optuna study, as Optuna's own journal file, with a number and checksum at the end of each line.

Optuna reads it with its own classes, which pass over both. The driver alone adds to what is there of trials, so no lock
file is needed, nor left behind; attributes that Optuna's dashboard adds between our lines are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from evomerge.files.lines import Lines

_ATTRIBUTES = frozenset({2, 3, 8, 9})
"""Optuna's codes for setting an attribute of a study or trial, by a user or Optuna itself; ours come with the trial."""


class Journal(BaseJournalBackend):
    """The lines of a study's file.

    Args:
        path: the file; it need not exist.
        study: the name of the study, which the checksums are of as well.
    """

    def __init__(self, path: Path, study: str) -> None:
        self.lines = Lines(path, of=study, others=_is_attribute)
        self._known = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The study's operations from this number on. Raises: RunError naming a damaged line."""
        if not self.lines.path.exists():
            return
        if log_number_from == self._known:
            found = self.lines.more(lambda data, place: data)
        else:
            found = self.lines.read(lambda data, place: data)
        for data in found:
            self._known = self.lines.number
            if self._known > log_number_from:
                yield data

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Make operations durable. Raises: OSError."""
        for log in logs:
            self.lines.append(json.dumps(log, separators=(",", ":")) + "\n")


def _is_attribute(data: Any) -> bool:
    return isinstance(data, dict) and data.get("op_code") in _ATTRIBUTES and "worker_id" in data
