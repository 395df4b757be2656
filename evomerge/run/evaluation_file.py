"""The file of evaluations: one line each, whose item tables stay on disk until they are looked at.

Of each table the place of its line is kept; the tables looked at last are kept as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.files.lines import Lines, Place, remedy
from evomerge.run.evaluation import Evaluation
from evomerge.score.table import ItemTable, TaskScores

_AT_HAND = 16
"""Tables that are kept after they were looked at."""


class EvaluationFile:
    """The evaluations of one run on disk. Written by the driver alone; an incomplete last line is not read.

    Args:
        path: the file.
        study: the name of the run's study, which the lines' checksums are of as well.
    """

    def __init__(self, path: Path, study: str = "") -> None:
        self.path = path
        self._lines = Lines(path, of=study)
        self._item_lists: dict[str, tuple[str, ...]] = {}
        self._tables: dict[tuple[int, str], ItemTable] = {}
        self._at_hand: OrderedDict[Place, Mapping[str, TaskScores]] = OrderedDict()

    def read(self) -> Iterator[Evaluation]:
        """Every evaluation, in the order of the lines. Raises: RunError if the file or a line can't be read."""
        if not self.path.exists():
            raise RunError(f"{self.path}: missing; {remedy(self.path.parent)}")
        yield from self._lines.read(self._evaluation)

    def append(self, evaluation: Evaluation) -> Evaluation:
        """Make an evaluation durable. Returns: the same with its table left on disk. Raises: OSError."""
        place = self._lines.append(evaluation.to_line(self._item_lists))
        if evaluation.table is None:
            return evaluation
        if evaluation.same_as is None:
            self._item_lists |= evaluation.table.item_lists
        return replace(evaluation, table=self._stored(evaluation, place))

    def tasks(self, place: Place) -> Mapping[str, TaskScores]:
        """The tasks of the table in the line at this place. Raises: RunError if it is damaged."""
        if place not in self._at_hand:
            self._at_hand[place] = self._lines.at(place, self._table).tasks
            if len(self._at_hand) > _AT_HAND:
                self._at_hand.popitem(last=False)
        self._at_hand.move_to_end(place)
        return self._at_hand[place]

    def _table(self, data: Mapping[str, Any]) -> ItemTable:
        if "table" in data:
            return ItemTable.from_data(data["table"], self._item_lists)
        return ItemTable.from_first_format(data["tasks"])

    def _evaluation(self, data: Mapping[str, Any], place: Place) -> Evaluation:
        self._item_lists |= {key: tuple(items) for key, items in data.get("items", {}).items()}
        evaluation = Evaluation.from_data(data, None)
        has_table = "table" in data or "tasks" in data or (evaluation.same_as is not None and "failure" not in data)
        return replace(evaluation, table=self._stored(evaluation, place)) if has_table else evaluation

    def _stored(self, evaluation: Evaluation, place: Place) -> ItemTable:
        """The table of an evaluation's line, or of that which it is a copy of. Raises: KeyError if there is none."""
        if evaluation.same_as is not None:
            return self._tables[evaluation.same_as, evaluation.split]
        table = ItemTable(tasks=_StoredTasks(self, place))
        self._tables[evaluation.trial, evaluation.split] = table
        return table


@dataclass(frozen=True, slots=True, eq=False)
class _StoredTasks(Mapping[str, TaskScores]):
    """The tasks of a table on disk. Read when one is asked for."""

    file: EvaluationFile = field(repr=False)
    place: Place

    def __getitem__(self, name: str) -> TaskScores:
        return self.file.tasks(self.place)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.file.tasks(self.place))

    def __len__(self) -> int:
        return len(self.file.tasks(self.place))
