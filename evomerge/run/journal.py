"""The file of a run's study: Optuna's own journal file, with a number and checksum at the end of each line.

Optuna reads it with its own classes, which pass over both. The driver alone adds to what is there of trials, so no lock
file is needed, nor left behind; attributes that Optuna's dashboard adds between our lines are taken as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from evomerge.files.append import wait_for_disk
from evomerge.files.lines import Lines

JOURNAL = "study.journal"

CREATE_STUDY, SET_STUDY_SYSTEM_ATTRIBUTE, CREATE_TRIAL = 0, 3, 4
"""Optuna's codes of operations; a run begins with the first two."""

FACTS = "evomerge"
"""The attribute of the study that holds a copy of run.json."""

_ATTRIBUTES = frozenset({2, 3, 8, 9})
"""Optuna's codes for setting an attribute of a study or trial, by a user or Optuna itself; ours come with the trial."""


class Journal(BaseJournalBackend):
    """The lines of a study's file.

    Args:
        path: the file; it need not exist.
        study: the name of the study, which the checksums are of as well.
    """

    def __init__(self, path: Path, study: str) -> None:
        self.lines = Lines(path, of=study, others=is_attribute)
        self._known = 0
        # What a killed process left may not be on disk yet.
        self._waiting = path.exists()

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
        """Write operations, which the disk may have only after `wait_for_disk`. Raises: OSError."""
        for log in logs:
            self.lines.append(json.dumps(log, separators=(",", ":")) + "\n", wait=False)
            self._waiting = True

    def wait_for_disk(self) -> None:
        """Wait until all operations are on disk. Raises: OSError."""
        if self._waiting:
            wait_for_disk(self.lines.path)
            self._waiting = False


def is_attribute(data: Any) -> bool:
    """Whether an operation sets an attribute, which other programs may do."""
    return isinstance(data, dict) and data.get("op_code") in _ATTRIBUTES and "worker_id" in data
