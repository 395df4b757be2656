"""Answers of candidates that are evaluated block by block, on disk after each block.

Beside the ledger's evaluations, which are of whole splits. What is here is never computed again, whether
the candidate was stopped on purpose or the search was killed. Written by the driver alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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

    Raises: RunError naming a damaged line.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / PARTS
        self._known: dict[tuple[int, str], list[Part]] = {}
        drop_torn_line(self._path)
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                self._remember(Part.from_data(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{self._path}: line {number} is damaged ({error}); restore the file from a copy"
                ) from error

    def of(self, trial: int, split: str) -> tuple[Part, ...]:
        """A trial's finished blocks, in order, from the first."""
        return tuple(self._known.get((trial, split), ()))

    def add(self, part: Part) -> None:
        """Make a block's answers durable. Raises: RunError if the directory can't be written."""
        with writing(self._path.parent):
            append(self._path, part.to_line())
        self._remember(part)

    def _remember(self, part: Part) -> None:
        known = self._known.setdefault((part.trial, part.split), [])
        if part.block == len(known):
            known.append(part)


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
