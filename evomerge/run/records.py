"""Trials and progress as values for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.run.ledger import Ledger
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.space.base import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial with everything known of it on the search items."""

    number: int
    kind: TrialKind
    name: str
    state: TrialState
    score: float | None = None
    fitness: float | None = None
    generation: int | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By phase: materialise, respond, bookkeeping."""
    reason: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    phase: str
    finished: int
    """Candidates proposed by the algorithm that have a result, failed and pruned ones included."""
    failed: int
    pruned: int
    running: int
    budget: int
    best: TrialRecord | None
    median: float | None
    """Of the last complete generation."""
    rate_per_minute: float | None
    seconds_left: float | None
    driver_alive: bool


def record_of(ledger: Ledger, trial: Trial) -> TrialRecord:
    """Join a trial with its evaluation on the search items."""
    evaluation = ledger.evaluation(trial.number, "search")
    return TrialRecord(
        number=trial.number,
        kind=trial.kind,
        name=trial.name,
        state=trial.state,
        score=trial.score,
        fitness=evaluation.fitness if evaluation is not None else None,
        generation=trial.generation,
        parameters=trial.parameters,
        seconds=evaluation.seconds if evaluation is not None else {},
        reason=evaluation.failure if evaluation is not None else None,
    )
