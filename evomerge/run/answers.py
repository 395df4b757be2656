"""Answers of candidates that are evaluated block by block, on disk after each block.

Beside the ledger's evaluations, which are of whole splits. What is here is never computed again, whether
the candidate was stopped on purpose or the search was killed. Written by the driver alone.
"""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.files.append import drop_torn_line, writing
from evomerge.files.lines import Lines, Place
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
    distances: Mapping[str, float] = field(default_factory=dict)
    """Of the candidate's weights from those of models, by name."""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it before."""

    def to_line(self) -> str:
        """As one line of JSON; numbers come back as the same bits."""
        answers = [_to_data(one) for one in self.responses]
        data = {"trial": self.trial, "split": self.split, "block": self.block, "answers": answers}
        data |= {"distances": dict(self.distances)} if self.distances else {}
        data |= {"lost_workers": list(self.lost_workers)} if self.lost_workers else {}
        data |= {"seconds": dict(self.seconds), "peak_bytes": self.peak_bytes, "worker": self.worker}
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Part:
        """The inverse of `to_line`, after JSON."""
        responses = tuple(_from_data(answer) for answer in data["answers"])
        lost = tuple(data.get("lost_workers", ()))
        rest = {name: value for name, value in data.items() if name not in {"answers", "lost_workers"}}
        return cls(**rest, responses=responses, lost_workers=lost)


class Parts:
    """All parts of one run, by trial and split. Opening repairs a torn last line.

    Parts stay on disk; those of the trials asked for last are kept at hand.

    Args:
        directory: the run directory.
        study: the name of the run's study, which the lines' checksums are of as well.

    Raises: RunError naming a damaged line.
    """

    def __init__(self, directory: Path, study: str = "") -> None:
        self._lines = Lines(directory / PARTS, of=study)
        self._places: dict[tuple[int, str], list[Place]] = {}
        self._at_hand: OrderedDict[tuple[int, str], list[Part]] = OrderedDict()
        drop_torn_line(self._lines.path)
        if self._lines.path.exists():
            for part, place in self._lines.read(lambda data, place: (Part.from_data(data), place)):
                self._remember(part, place)

    def of(self, trial: int, split: str) -> tuple[Part, ...]:
        """A trial's finished blocks, in order, from the first."""
        key = (trial, split)
        return tuple(self._read(key)) if key in self._places else ()

    def count(self, trial: int, split: str) -> int:
        """How many of a trial's blocks are there, in order from the first."""
        return len(self._places.get((trial, split), ()))

    def add(self, part: Part) -> None:
        """Make a block's answers durable. Raises: RunError if the directory can't be written."""
        key = (part.trial, part.split)
        known = self._read(key)
        with writing(self._lines.path.parent):
            place = self._lines.append(part.to_line())
        if self._remember(part, place):
            known.append(part)

    def _remember(self, part: Part, place: Place) -> bool:
        """Note where a part lies; whether it is the trial's next."""
        places = self._places.setdefault((part.trial, part.split), [])
        if part.block != len(places):
            return False
        places.append(place)
        return True

    def _read(self, key: tuple[int, str]) -> list[Part]:
        """The parts of a trial: those at hand, or from their lines."""
        if key not in self._at_hand:
            self._at_hand[key] = [self._lines.at(place, Part.from_data) for place in self._places.get(key, ())]
            if len(self._at_hand) > _AT_HAND:
                self._at_hand.popitem(last=False)
        self._at_hand.move_to_end(key)
        return self._at_hand[key]


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


def blocks_answered(directory: Path, study: str) -> Counter[int]:
    """By trial, how many blocks of search items are on disk. Changes nothing: the run may be driven meanwhile."""
    lines, found = Lines(directory / PARTS, of=study), Counter[int]()
    if lines.path.exists():
        for trial, split, block in lines.read(lambda data, _: (data["trial"], data["split"], data["block"])):
            found[trial] += split == "search" and block == found[trial]
    return found
