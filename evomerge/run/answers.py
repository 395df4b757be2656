"""Answers of candidates that are evaluated in blocks of items, on disk after every few of them.

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
    """A candidate's responses to the blocks of a split's requests that it answered in one go."""

    trial: int
    split: str
    block: int
    """How many blocks the candidate had answered before."""
    blocks: tuple[tuple[Response, ...], ...]
    """Of each block the responses, in the order of its requests."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    worker: str = ""
    distances: Mapping[str, float] = field(default_factory=dict)
    """Of the candidate's weights from those of models, by name."""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it before."""

    def to_line(self) -> str:
        """As one line of JSON; numbers come back as the same bits."""
        answers = [[_to_data(one) for one in responses] for responses in self.blocks]
        data: dict[str, Any] = {"trial": self.trial, "split": self.split, "block": self.block}
        # One block's answers stand for themselves, as they did when each was answered alone.
        data |= {"answers": answers[0]} if len(answers) == 1 else {"blocks": len(answers), "answers": answers}
        data |= {"distances": dict(self.distances)} if self.distances else {}
        data |= {"lost_workers": list(self.lost_workers)} if self.lost_workers else {}
        data |= {"seconds": dict(self.seconds), "peak_bytes": self.peak_bytes, "worker": self.worker}
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Part:
        """The inverse of `to_line`, after JSON."""
        answers = data["answers"] if "blocks" in data else [data["answers"]]
        blocks = tuple(tuple(_from_data(answer) for answer in block) for block in answers)
        lost = tuple(data.get("lost_workers", ()))
        rest = {name: value for name, value in data.items() if name not in {"answers", "blocks", "lost_workers"}}
        return cls(**rest, blocks=blocks, lost_workers=lost)


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
        self._counts: Counter[tuple[int, str]] = Counter()
        self._at_hand: OrderedDict[tuple[int, str], list[Part]] = OrderedDict()
        drop_torn_line(self._lines.path)
        if self._lines.path.exists():
            for part, place in self._lines.read(lambda data, place: (Part.from_data(data), place)):
                self._remember(part, place)

    def of(self, trial: int, split: str) -> tuple[Part, ...]:
        """All that a trial has answered, in order, from its first block."""
        key = (trial, split)
        return tuple(self._read(key)) if key in self._places else ()

    def blocks(self, trial: int, split: str) -> list[tuple[Response, ...]]:
        """A trial's responses to each block that it has answered, in order, from the first."""
        return [responses for part in self.of(trial, split) for responses in part.blocks]

    def count(self, trial: int, split: str) -> int:
        """How many of a trial's blocks are there, in order from the first."""
        return self._counts[trial, split]

    def add(self, part: Part) -> None:
        """Make answers durable, all of the part or nothing. Raises: RunError if the directory can't be written."""
        key = (part.trial, part.split)
        known = self._read(key)
        with writing(self._lines.path.parent):
            place = self._lines.append(part.to_line())
        if self._remember(part, place):
            known.append(part)

    def _remember(self, part: Part, place: Place) -> bool:
        """Note where a part lies; whether it is the trial's next."""
        key = (part.trial, part.split)
        if part.block != self._counts[key]:
            return False
        self._places.setdefault(key, []).append(place)
        self._counts[key] += len(part.blocks)
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
        for trial, block, count in lines.read(_searched):
            found[trial] += count if block == found[trial] else 0
    return found


def _searched(data: Mapping[str, Any], _: Place) -> tuple[int, int, int]:
    """Of a part's line the trial, its blocks before, and how many of the search items' blocks are in it."""
    return data["trial"], data["block"], data.get("blocks", 1) if data["split"] == "search" else 0
