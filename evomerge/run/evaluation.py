"""An evaluation: one candidate on one split, and its line in the file."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.score.goals import Measured
from evomerge.score.objective import INFEASIBLE
from evomerge.score.table import ItemTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One candidate on one split: its scores, or why there are none."""

    trial: int
    split: str
    score: float | None = None
    tie_break: float = 0.0
    penalty: float = 0.0
    """What is taken off the score for text in other languages than asked for."""
    shortfall: float = 0.0
    """How far the shares of text in the asked languages stay below those required."""
    measured: Measured = field(default_factory=dict)
    """What objectives and constraints are of, by name."""
    aims: tuple[float, ...] = field(default=(), compare=False)
    """What the objectives come to, higher being better; none in a search for the benchmark's score alone."""
    violation: float = field(default=0.0, compare=False)
    """By how much the constraints are missed. Like the aims it isn't kept, since it is found from what is measured."""
    table: ItemTable | None = None
    aggregates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    worker: str = ""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it before others ended it."""
    failure: str | None = None
    same_as: int | None = None
    """The trial whose identical recipe was evaluated instead."""
    recipe: str = field(default="", compare=False)
    """Key of the trial's recipe, once it is recorded; runs from before have none."""

    @property
    def fitness(self) -> float | None:
        """What is ranked by: the score with tie-break and penalty, or the one objective, or a weighted sum of several.

        Whatever misses a requirement comes after everything that meets it, by how far it misses.
        """
        if self.score is None:
            return None
        if not self.is_feasible:
            return -(INFEASIBLE + self.shortfall + self.violation)
        return self.aims[0] if len(self.aims) == 1 else self.score + self.tie_break - self.penalty

    @property
    def missed_by(self) -> float:
        """How far requirements are missed, of language and of constraints together."""
        return self.shortfall + self.violation

    @property
    def is_feasible(self) -> bool:
        """Whether all requirements are met."""
        return not self.missed_by

    @property
    def told(self) -> tuple[float, ...] | None:
        """What a search algorithm is told: a number for each objective; None without a score.

        One that misses a requirement has the same low number in each, so that all that meet them dominate it.
        """
        if self.fitness is None:
            return None
        return self.aims if self.is_feasible and self.aims else (self.fitness,) * max(1, len(self.aims))

    def to_line(self, known: Container[str] = ()) -> str:
        """As one line of JSON.

        Args:
            known: keys of lists of items that earlier lines hold; any other list is written out.
        """
        data: dict[str, Any] = {"trial": self.trial, "split": self.split}
        data |= {"recipe": self.recipe} if self.recipe else {}
        if self.same_as is not None:
            data["same_as"] = self.same_as
        if self.failure is not None:
            data["failure"] = self.failure
        else:
            data |= {"score": self.score, "tie_break": self.tie_break, "aggregates": self.aggregates}
            data |= {key: value for key in ("penalty", "shortfall", "measured") if (value := getattr(self, key))}
        data |= {"seconds": dict(self.seconds), "peak_bytes": self.peak_bytes, "worker": self.worker}
        data |= {"lost_workers": list(self.lost_workers)} if self.lost_workers else {}
        # A copy's table is that of the trial that it copies.
        if self.table is not None and self.same_as is None:
            lists = {key: list(items) for key, items in self.table.item_lists.items() if key not in known}
            data |= {"items": lists} if lists else {}
            data["table"] = self.table.to_data()
        return json.dumps(data, separators=(",", ":")) + "\n"

    @classmethod
    def from_data(cls, data: Mapping[str, Any], table: ItemTable | None) -> Evaluation:
        """The inverse of `to_line`, after JSON.

        Args:
            data: the line.
            table: its item table, or that of the evaluation that it is a copy of.
        """
        return cls(
            trial=data["trial"],
            split=data["split"],
            score=data.get("score"),
            tie_break=data.get("tie_break", 0.0),
            penalty=data.get("penalty", 0.0),
            shortfall=data.get("shortfall", 0.0),
            measured=data.get("measured", {}),
            table=table,
            aggregates=data.get("aggregates", {}),
            seconds=data["seconds"],
            peak_bytes=data["peak_bytes"],
            worker=data["worker"],
            lost_workers=tuple(data.get("lost_workers", ())),
            failure=data.get("failure"),
            same_as=data.get("same_as"),
            recipe=data.get("recipe", ""),
        )
