"""The file of evaluations: one line each, whose item tables stay on disk until they are looked at.

Of each table the place of its line is kept; the tables looked at last are kept as they are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.files.append import append
from evomerge.run.evaluation import Evaluation
from evomerge.score.table import ItemTable, TaskScores

_AT_HAND = 16
"""Tables that are kept after they were looked at."""


class EvaluationFile:
    """The evaluations of one run on disk. Written by the driver alone; an incomplete last line is not read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._item_lists: dict[str, tuple[str, ...]] = {}
        self._tables: dict[tuple[int, str], ItemTable] = {}
        self._at_hand: OrderedDict[int, Mapping[str, TaskScores]] = OrderedDict()

    def read(self) -> Iterator[Evaluation]:
        """Every evaluation, in the order of the lines. Raises: RunError if the file or a line can't be read."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise RunError(f"{self.path}: missing; restore it, or start a new run directory") from None
        with file:
            start = 0
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield self._evaluation(json.loads(line), start, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise self._damaged(f"line {number}", error) from error
                start += len(line)

    def append(self, evaluation: Evaluation) -> Evaluation:
        """Make an evaluation durable. Returns: the same with its table left on disk. Raises: OSError."""
        start, line = self.path.stat().st_size, evaluation.to_line(self._item_lists)
        append(self.path, line)
        if evaluation.table is None:
            return evaluation
        if evaluation.same_as is None:
            self._item_lists |= evaluation.table.item_lists
        return replace(evaluation, table=self._stored(evaluation, start, len(line.encode())))

    def tasks(self, start: int, size: int) -> Mapping[str, TaskScores]:
        """The tasks of the table in the line at this place. Raises: RunError if it is damaged."""
        if start in self._at_hand:
            self._at_hand.move_to_end(start)
            return self._at_hand[start]
        with self.path.open("rb") as file:
            file.seek(start)
            line = file.read(size)
        try:
            data = json.loads(line)
            table = (
                ItemTable.from_data(data["table"], self._item_lists)
                if "table" in data
                else ItemTable.from_first_format(data["tasks"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"the line at byte {start}", error) from error
        self._at_hand[start] = table.tasks
        if len(self._at_hand) > _AT_HAND:
            self._at_hand.popitem(last=False)
        return table.tasks

    def _evaluation(self, data: Mapping[str, Any], start: int, size: int) -> Evaluation:
        self._item_lists |= {key: tuple(items) for key, items in data.get("items", {}).items()}
        evaluation = Evaluation.from_data(data, None)
        has_table = "table" in data or "tasks" in data or (evaluation.same_as is not None and "failure" not in data)
        return replace(evaluation, table=self._stored(evaluation, start, size)) if has_table else evaluation

    def _stored(self, evaluation: Evaluation, start: int, size: int) -> ItemTable:
        """The table of an evaluation's line, or of that which it is a copy of. Raises: KeyError if there is none."""
        if evaluation.same_as is not None:
            return self._tables[evaluation.same_as, evaluation.split]
        table = ItemTable(tasks=_StoredTasks(self, start, size))
        self._tables[evaluation.trial, evaluation.split] = table
        return table

    def _damaged(self, which: str, error: Exception) -> RunError:
        return RunError(f"{self.path}: {which} is damaged ({error}); restore the file from a copy")


@dataclass(frozen=True, slots=True, eq=False)
class _StoredTasks(Mapping[str, TaskScores]):
    """The tasks of a table on disk. Read when one is asked for."""

    file: EvaluationFile = field(repr=False)
    start: int
    size: int

    def __getitem__(self, name: str) -> TaskScores:
        return self.file.tasks(self.start, self.size)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.tasks(self.start, self.size))

    def __len__(self) -> int:
        return len(self.file.tasks(self.start, self.size))
