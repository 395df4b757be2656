"""Repair of a damaged run directory: what can be proven good is kept, and the rest is moved aside and told.

A line is good if its checksum is right. Evaluations stand for themselves, so every good one is kept, wherever it lies;
of the study's operations, each of which builds on those before, the good ones up to the first that is lost. The search
then proposes the lost trials again, and takes their evaluations over by number and recipe.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import EvomergeError, RunError
from evomerge.files.atomic import read_json, write_json
from evomerge.files.lines import DAMAGED, seal, with_seal, without_seal
from evomerge.run.answers import PARTS, Part, Parts
from evomerge.run.clock import PROGRESS, driven_s
from evomerge.run.consistency import RESULT, is_supported
from evomerge.run.directory import Run, clear_left_over
from evomerge.run.evaluation import Evaluation
from evomerge.run.frozen import CONFIG, freeze, frozen
from evomerge.run.journal import CREATE_STUDY, FACTS, SET_STUDY_SYSTEM_ATTRIBUTE, is_attribute
from evomerge.run.ledger import EVALUATIONS, JOURNAL, Ledger
from evomerge.run.lock import lock
from evomerge.run.stored_trial import directions_of
from evomerge.score.table import ItemTable, items_key

ASIDE = "damaged"
"""The folder, in the run directory, that damaged originals are moved to."""

_ITEMS = re.compile(rb'"items":(\{"[0-9a-f]{16}":\[.*?\](?:,"[0-9a-f]{16}":\[.*?\])*\})')


def repair(directory: str | Path) -> list[str]:
    """Keep everything in a run directory that can be proven good.

    Returns: what was kept and lost, a sentence for each file that was changed; none if all is well.
    Raises: RunError if it is no run, is being driven, or can't be repaired; what was moved aside stays there.
    """
    directory = Path(directory)
    if not any((directory / name).exists() for name in ("run.json", JOURNAL)):
        raise RunError(f"{directory}: not a run directory: neither run.json nor {JOURNAL} is in it")
    with lock(directory):
        clear_left_over(directory)
        return _Repair(directory).told


class _Line(NamedTuple):
    """A whole line of a file, and what its seal says."""

    number: int
    """In the file, from 1."""
    raw: bytes
    data: Any
    """None if it isn't good."""
    seal: int | None
    """Its number by its seal; None if it has none."""


class _Repair:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[str] = []
        self._aside = directory / ASIDE / time.strftime("%Y%m%d-%H%M%S")
        self.facts = self._facts()
        self._of = zlib.crc32(str(self.facts["study"]).encode())
        self._config()
        config = frozen(directory, self.facts)
        storage, self._goals = config.storage, config.search.goals
        if storage == "journal":
            self._journal()
        self._evaluations()
        self._parts()
        self._progress()
        ledger = Ledger.open(directory, storage, self.facts["study"], self._goals)
        Parts(directory, self.facts["study"])
        self._result(ledger)

    def _facts(self) -> dict[str, Any]:
        """The contents of run.json, or of the copy in the study."""
        path = self.directory / "run.json"
        try:
            facts = read_json(path)
            if isinstance(facts.get("study"), str):
                return facts
            raise RunError(f"{path}: names no study")
        except RunError as error:
            copy = self._copied_facts()
            if copy is None:
                raise RunError(
                    f"{error}. There is no good copy in {JOURNAL} either, so it can't be repaired"
                ) from error
        self._move_aside(path)
        write_json(path, copy)
        self.told.append("run.json: restored from the copy in the study")
        return copy

    def _copied_facts(self) -> dict[str, Any] | None:
        try:
            raw = (self.directory / JOURNAL).read_bytes().splitlines(keepends=True)
        except OSError:
            return None
        for line in raw[:3]:
            try:
                facts = json.loads(line)["system_attr"][FACTS]
                found = seal(line, zlib.crc32(facts["study"].encode()))
            except DAMAGED:
                continue
            if found is not None and found.right:
                return dict(facts)
        return None

    def _config(self) -> None:
        try:
            frozen(self.directory, self.facts)
        except EvomergeError:
            from evomerge.config.config import Config

            if "config" not in self.facts:
                raise
            config = Config.from_data(self.facts["config"], where="run.json: config")
            self._move_aside(self.directory / CONFIG)
            freeze(self.directory, config)
            self.told.append(f"{CONFIG}: restored as it was at the start; a larger budget has to be given again")

    def _journal(self) -> None:
        """Keep the operations up to the first that is lost, in the order of their seals."""
        path = self.directory / JOURNAL
        whole, lines = _lines(path, self._of)
        sealed = {line.seal: line for line in lines if line.seal is not None and line.data is not None}
        # The first two operations say nothing that run.json doesn't.
        for number, raw in enumerate(self._first_operations() if 1 not in sealed and sealed else (), start=1):
            sealed.setdefault(number, _Line(0, raw, {}, number))
        head = []
        for line in lines if 1 not in sealed or sealed[1].number > 1 else ():
            if line.seal is not None or not _is_operation(line.data):
                break
            head.append(line.raw)
        kept = [*head]
        number = 1
        while number in sealed:
            kept.append(sealed[number].raw)
            kept += [line.raw for line in _following(lines, sealed[number].number)]
            number += 1
        if not kept:
            kept = [*self._first_operations()]
        if b"".join(kept) != whole:
            self._rewrite(path, kept, f"kept {len(kept)} of {len(lines)} operations, up to the first that is lost")

    def _first_operations(self) -> list[bytes]:
        directions = [direction.value for direction in directions_of(self._goals)]
        study = {"op_code": CREATE_STUDY, "worker_id": "repair", "study_name": self.facts["study"]}
        study["directions"] = directions
        copy = {"op_code": SET_STUDY_SYSTEM_ATTRIBUTE, "worker_id": "repair", "study_id": 0}
        copy |= {"system_attr": {FACTS: self.facts}}
        return self._sealed([study, copy])

    def _evaluations(self) -> None:
        """Keep every good evaluation whose items are known, and that of which it is a copy is kept as well."""
        path = self.directory / EVALUATIONS
        if not path.exists():
            self._rewrite(path, [], "missing; every evaluation is made again")
            return
        whole, lines = _lines(path, self._of)
        lists = _item_lists(whole)
        kept: list[dict[str, Any]] = []
        tables: set[tuple[int, str]] = set()
        written: set[str] = set()
        for data in _good(lines):
            try:
                evaluation = Evaluation.from_data(data, None)
                if evaluation.same_as is not None:
                    if "failure" not in data and (evaluation.same_as, evaluation.split) not in tables:
                        continue
                elif "table" in data:
                    used = {items_key(task.items) for task in ItemTable.from_data(data["table"], lists).tasks.values()}
                    new = {key: list(lists[key]) for key in sorted(used) if key not in written}
                    data = {**{key: value for key, value in data.items() if key != "items"}}
                    data |= {"items": new} if new else {}
                    written |= used
                elif "tasks" in data:
                    ItemTable.from_first_format(data["tasks"])
            except DAMAGED:
                continue
            if evaluation.score is not None and evaluation.same_as is None:
                tables.add((evaluation.trial, evaluation.split))
            kept.append(data)
        if len(kept) < len(lines) or not _is_untouched(whole, lines):
            self._rewrite(path, self._sealed(kept), f"kept {len(kept)} of {_written(lines)} evaluations")

    def _parts(self) -> None:
        """Keep the good blocks of each candidate up to the first that is lost."""
        path = self.directory / PARTS
        if not path.exists():
            return
        whole, lines = _lines(path, self._of)
        counts: dict[tuple[int, str], int] = {}
        kept: list[dict[str, Any]] = []
        for data in _good(lines):
            try:
                part = Part.from_data(data)
            except DAMAGED:
                continue
            if part.block == counts.get((part.trial, part.split), 0):
                counts[part.trial, part.split] = part.block + len(part.blocks)
                kept.append(data)
        if len(kept) < len(lines) or not _is_untouched(whole, lines):
            written = _written(lines)
            told = f"kept {len(kept)} of {written} lines of answers"
            again = "; the others are asked again where a search that goes on needs them" if len(kept) < written else ""
            self._rewrite(path, self._sealed(kept), told + again)

    def _progress(self) -> None:
        try:
            driven_s(self.directory)
        except (RunError, *DAMAGED):
            self._move_aside(self.directory / PROGRESS)
            self.told.append(f"{PROGRESS}: lost; hours of driving are counted from now")

    def _result(self, ledger: Ledger) -> None:
        """A result that can't be read, or that the ledger contradicts, is made again by the search."""
        try:
            result = Run(self.directory).result()
            if result is not None:
                is_supported(self.directory, result, ledger)
        except RunError:
            self._move_aside(self.directory / RESULT)
            self.told.append(f"{RESULT}: lost; the search writes it again")

    def _sealed(self, data: Iterable[Mapping[str, Any]]) -> list[bytes]:
        """Lines of the data, numbered anew."""
        return [
            with_seal(json.dumps(one, separators=(",", ":")), number, self._of).encode()
            for number, one in enumerate(data, start=1)
        ]

    def _rewrite(self, path: Path, lines: list[bytes], words: str) -> None:
        self._move_aside(path)
        path.write_bytes(b"".join(lines))
        self.told.append(f"{path.name}: {words}")

    def _move_aside(self, path: Path) -> None:
        if path.exists():
            self._aside.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, self._aside / path.name)
            path.unlink()


def _lines(path: Path, of: int) -> tuple[bytes, list[_Line]]:
    """A file's bytes, and its lines, an incomplete last one left out."""
    whole = path.read_bytes() if path.exists() else b""
    found = []
    # What other systems and editors add is taken off again.
    *complete, _ = whole.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    for number, raw in enumerate((line + b"\n" for line in complete), start=1):
        mark = seal(raw, of)
        try:
            data = json.loads(raw)
            if not isinstance(data, dict) or ("sum" in data and not (mark and mark.right)):
                raise ValueError("not good")
            data = without_seal(data)
        except DAMAGED:
            data = None
        found.append(_Line(number, raw, data, None if mark is None else mark.number))
    # Lines without a checksum are of an earlier release if they come before all others, and otherwise prove nothing.
    sealed = [line for line in found if line.seal is not None and line.data is not None]
    older = sealed[0].number if sealed and sealed[0].seal == 1 else (len(found) + 1 if not sealed else 0)
    return whole, [
        line._replace(data=None) if line.seal is None and line.number > older and not is_attribute(line.data) else line
        for line in found
    ]


def _written(lines: list[_Line]) -> int:
    """How many lines the file had, by the number of the last good one if some are gone."""
    return max([len(lines), *(line.seal or 0 for line in lines if line.data is not None)])


def _good(lines: list[_Line]) -> list[Any]:
    """The data of good lines, each number once, in the order in which they were written."""
    good = {line.seal or -line.number: line for line in lines if line.data is not None}
    return [line.data for line in sorted(good.values(), key=lambda line: (line.seal or 0, line.number))]


def _following(lines: list[_Line], number: int) -> list[_Line]:
    """What other programs wrote after a line."""
    found = []
    for line in lines[number:] if number else ():
        if line.seal is not None or not is_attribute(line.data):
            break
        found.append(line)
    return found


def _is_operation(data: Any) -> bool:
    return isinstance(data, dict) and data.get("op_code") in range(10) and "worker_id" in data


def _is_untouched(whole: bytes, lines: list[_Line]) -> bool:
    """Whether a file has nothing but its lines, in their order."""
    numbers = [line.seal for line in lines if line.seal is not None]
    return numbers == [*range(1, len(numbers) + 1)] and b"".join(line.raw for line in lines) == whole


def _item_lists(whole: bytes) -> Mapping[str, tuple[str, ...]]:
    """Lists of items by key, also from damaged lines: the key is a hash of the list."""
    lists: dict[str, tuple[str, ...]] = {}
    for text in _ITEMS.findall(whole):
        try:
            found = {key: tuple(items) for key, items in json.loads(text).items()}
        except DAMAGED:
            continue
        lists |= {key: items for key, items in found.items() if items_key(items) == key}
    return lists
