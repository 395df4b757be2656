"""Answers of candidates that are evaluated block by block, on disk after each block.

Beside the ledger's evaluations, which are of whole splits. What is here is never computed again, whether
the candidate was stopped on purpose or the search was killed. Written by the driver alone.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.files.append import append, drop_torn_line, writing
from evomerge.score.requests import (
    ClassificationResponse,
    FunctionResponse,
    GenerationResponse,
    LogLikelihoodResponse,
    Response,
)

PARTS = "parts.jsonl"

_AT_HAND = 64
"""Trials whose parts are kept after they were asked for: about as many as are evaluated at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A candidate's responses to one block of a split's requests, in the order of the requests."""

    trial: int
    split: str
    block: int
    responses: tuple[Response, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    worker: str = ""

    def to_line(self) -> str:
        """As one line of JSON; numbers come back as the same bits."""
        answers = [_to_data(one) for one in self.responses]
        data = {"trial": self.trial, "split": self.split, "block": self.block, "answers": answers}
        data |= {"seconds": dict(self.seconds), "peak_bytes": self.peak_bytes, "worker": self.worker}
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Part:
        """The inverse of `to_line`, after JSON."""
        responses = tuple(_from_data(answer) for answer in data["answers"])
        return cls(**{name: value for name, value in data.items() if name != "answers"}, responses=responses)


class Parts:
    """All parts of one run, by trial and split. Opening repairs a torn last line.

    Parts stay on disk; those of the trials asked for last are kept at hand.

    Raises: RunError naming a damaged line.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / PARTS
        self._places: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self._at_hand: OrderedDict[tuple[int, str], list[Part]] = OrderedDict()
        drop_torn_line(self._path)
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                try:
                    self._remember(Part.from_data(json.loads(line)), start, len(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise self._damaged(f"line {number}", error) from error
                start += len(line)
        self._at_hand.clear()

    def of(self, trial: int, split: str) -> tuple[Part, ...]:
        """A trial's finished blocks, in order, from the first."""
        places = self._places.get((trial, split))
        return () if places is None else tuple(self._read((trial, split), places))

    def add(self, part: Part) -> None:
        """Make a block's answers durable. Raises: RunError if the directory can't be written."""
        line = part.to_line()
        with writing(self._path.parent):
            start = self._path.stat().st_size if self._path.exists() else 0
            append(self._path, line)
        self._remember(part, start, len(line.encode()))

    def _remember(self, part: Part, start: int, size: int) -> None:
        key = (part.trial, part.split)
        places = self._places.setdefault(key, [])
        if part.block != len(places):
            return
        parts = self._read(key, places)
        places.append((start, size))
        parts.append(part)

    def _read(self, key: tuple[int, str], places: Sequence[tuple[int, int]]) -> list[Part]:
        """The parts of a trial: those at hand, or from their lines."""
        if key not in self._at_hand:
            self._at_hand[key] = [self._line(start, size) for start, size in places]
            if len(self._at_hand) > _AT_HAND:
                self._at_hand.popitem(last=False)
        self._at_hand.move_to_end(key)
        return self._at_hand[key]

    def _line(self, start: int, size: int) -> Part:
        with self._path.open("rb") as file:
            file.seek(start)
            line = file.read(size)
        try:
            return Part.from_data(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"the line at byte {start}", error) from error

    def _damaged(self, which: str, error: Exception) -> RunError:
        return RunError(f"{self._path}: {which} is damaged ({error}); restore the file from a copy")


def _to_data(response: Response) -> Any:
    match response:
        case GenerationResponse():
            return [response.text, response.tokens]
        case LogLikelihoodResponse():
            return [response.log_probability, response.is_greedy]
        case ClassificationResponse():
            return {"log_probabilities": list(response.log_probabilities)}
        case FunctionResponse():
            return {"score": response.score}


def _from_data(answer: Any) -> Response:
    if isinstance(answer, dict):
        if "score" in answer:
            return FunctionResponse(answer["score"])
        return ClassificationResponse(tuple(answer["log_probabilities"]))
    return GenerationResponse(*answer) if isinstance(answer[0], str) else LogLikelihoodResponse(*answer)
