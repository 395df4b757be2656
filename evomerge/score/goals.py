"""Objectives and constraints: measured values in, what a search algorithm is told out.

Arithmetic on plain data. Knows neither how values are measured nor models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

MeasureKind = Literal["tasks", "worst", "length", "distance"]
_SMALLER_IS_BETTER = frozenset({"length", "distance"})

Measured = Mapping[str, float]
"""Values by the name of the objective or constraint that they are of, in their own units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One objective."""

    name: str
    kind: MeasureKind = "tasks"
    weight: float | None = None

    @property
    def higher_is_better(self) -> bool:
        """False for lengths and distances."""
        return self.kind not in _SMALLER_IS_BETTER

    def signed(self, value: float) -> float:
        """The value, its sign flipped where less is better."""
        return value if self.higher_is_better else -value


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One constraint: a value that isn't to be passed, given, or by how much a model's own may be missed."""

    name: str
    kind: MeasureKind = "tasks"
    at_least: float | None = None
    at_most: float | None = None
    worse_by: float | None = None
    than: str | None = None

    def limit(self, reference: float | None) -> tuple[float, bool] | None:
        """The value that isn't to be passed, and whether it is the lowest allowed or the highest.

        Args:
            reference: what the model has that this bound compares with.
        Returns: None if that isn't known.
        """
        if self.at_least is not None:
            return self.at_least, True
        if self.at_most is not None:
            return self.at_most, False
        if reference is None or self.worse_by is None:
            return None
        lowest = self.kind not in _SMALLER_IS_BETTER
        return (reference - self.worse_by if lowest else reference + self.worse_by), lowest

    def violation(self, value: float, reference: float | None) -> float:
        """How far a value is on the wrong side of the limit; 0 on the right one, or without a limit.

        In points of score or parts of a norm; of a length as a fraction of the limit, so that tokens don't outweigh
        all else.
        """
        found = self.limit(reference)
        if found is None:
            return 0.0
        limit, lowest = found
        # A difference of scores that is the bound but for rounding keeps it.
        missed = max(0.0, (limit - value if lowest else value - limit) - 1e-12)
        return missed / max(abs(limit), 1.0) if self.kind == "length" else missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """All objectives and constraints of a search; without any, the benchmark's score is what is searched for."""

    goals: tuple[Goal, ...] = ()
    bounds: tuple[Bound, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing but the benchmark's score counts."""
        return not self.goals and not self.bounds

    @property
    def are_several(self) -> bool:
        """Whether there is a front between objectives, and not one number."""
        return len(self.goals) > 1 and self.goals[0].weight is None

    @property
    def count(self) -> int:
        """How many numbers a search algorithm is told of each candidate."""
        return len(self.goals) if self.are_several else 1

    def aims(self, measured: Measured) -> tuple[float, ...]:
        """What the algorithm is told of a candidate that meets all constraints, higher being better.

        Returns: one number for each objective, or their weighted sum; none without objectives.
        """
        if not self.goals or not measured:
            return ()
        signed = [goal.signed(measured[goal.name]) for goal in self.goals]
        if self.goals[0].weight is None:
            return tuple(signed)
        return (sum((goal.weight or 0.0) * value for goal, value in zip(self.goals, signed, strict=True)),)

    def violation(self, measured: Measured, reference: Callable[[str], Measured]) -> float:
        """By how much a candidate misses the constraints in all; 0 if it meets them.

        Args:
            measured: of the candidate.
            reference: what the model of a name has on the same items; empty if that isn't known.
        """
        return sum(self.violations(measured, reference).values())

    def violations(self, measured: Measured, reference: Callable[[str], Measured]) -> dict[str, float]:
        """The same for each constraint."""
        if not measured:
            return {}
        return {
            bound.name: bound.violation(
                measured[bound.name], None if bound.than is None else reference(bound.than).get(bound.name)
            )
            for bound in self.bounds
        }
