"""Trials and progress as values for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

from evomerge.run.ledger import Ledger
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.run.workers import WorkerNow
from evomerge.space.base import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial with everything known of it; what isn't said otherwise is of the search items."""

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
    measured: Mapping[str, float] = field(default_factory=dict)
    """What objectives and constraints are of, by name, in their own units."""
    is_feasible: bool = True
    """Whether it meets all requirements, as far as it has a score."""
    validation: float | None = None
    """Score on the validation items, of those that were chosen for it."""
    test: float | None = None
    """Score on the test items, of the winner and the baselines."""

    items: int | None = None
    """Search items that a candidate answered itself, where that was counted."""
    lost_workers: tuple[str, ...] = ()
    """Why workers were lost at it: preempted, machine_lost, out_of_memory, store_full or worker_died."""

    @property
    def model(self) -> str:
        """What kind of model it is, and which expert."""
        if self.kind is TrialKind.ELITE:
            return TrialKind.CANDIDATE.value
        return f"expert {self.name}" if self.kind is TrialKind.EXPERT else self.kind.value


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
    """Candidates in all; where items are limited, as many as it will be if they go on costing as much."""
    best: TrialRecord | None
    median: float | None
    """Of the last complete generation."""
    rate_per_minute: float | None
    seconds_left: float | None
    """Of the whole run, if every token or item goes on taking as long."""
    driver_alive: bool
    items: int | None = None
    """Search items that candidates of generations that have ended answered; None where it isn't known."""
    items_budget: int | None = None
    """How many they may answer."""
    driver: str | None = None
    """Process and machine that drive the run now."""
    driven_s: float = 0.0
    """Seconds of driving, over all sessions."""
    leaders: Mapping[str, TrialRecord] = field(default_factory=dict)
    """The best trial of each kind by score on the search items: base, each expert, uniform, candidate, mean."""
    interrupted: int = 0
    """Candidates that were being evaluated when the driver stopped."""
    stopped_by: str | None = None
    """How the last session ended before the search did: "error" or "interrupt"; None while it is driven, once it has
    ended, and where the driver couldn't say."""
    error: str | None = None
    """What went wrong, if an error ended the last session."""
    history: tuple[float, ...] = ()
    """The best fitness of a candidate after each generation so far."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Trials that failed on the search items, counted by reason."""
    last_failure: str | None = None
    """What was wrong with the last of them."""
    lost_workers: Mapping[str, int] = field(default_factory=dict)
    """Workers that were lost at trials on the search items, counted by reason."""
    to_come: Mapping[str, int] = field(default_factory=dict)
    """Evaluations that are still to come, by phase: baselines, search, validation, test."""
    gpu_hours: float = 0.0
    """Hours of driving times the GPUs used, over all sessions."""
    gpu_hours_left: float | None = None
    """Of the whole run, while it is driven on GPUs."""
    workers: tuple[WorkerNow, ...] = ()
    """What each worker does, while the run is driven by an executor that says so."""
    utilisation: float | None = None
    """The share of their time in which these had a candidate."""


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
        lost_workers=evaluation.lost_workers if evaluation is not None else (),
        measured=evaluation.measured if evaluation is not None else {},
        is_feasible=evaluation is None or evaluation.is_feasible,
        validation=_score(ledger, trial, "validation"),
        test=_score(ledger, trial, "test"),
    )


def _score(ledger: Ledger, trial: Trial, split: str) -> float | None:
    evaluation = ledger.evaluation(trial.number, split)
    return None if evaluation is None else evaluation.score


def leaders(trials: Iterable[TrialRecord]) -> dict[str, TrialRecord]:
    """The best trial of each kind on the search items by fitness, each expert by itself; the first of equals."""
    found: dict[str, TrialRecord] = {}
    for trial in trials:
        if trial.score is not None and (trial.model not in found or _rank(trial) > _rank(found[trial.model])):
            found[trial.model] = trial
    return found


def failures_of(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """How many failed on the search items, by reason, the most frequent first."""
    reasons = Counter(trial.reason.partition(":")[0] for trial in trials if trial.reason)
    return dict(reasons.most_common())


def lost_workers_of(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """How many workers were lost at the search items, by reason, the most frequent first."""
    return dict(Counter(reason for trial in trials for reason in trial.lost_workers).most_common())


def generations_of(candidates: Iterable[TrialRecord]) -> tuple[tuple[float, ...], float | None]:
    """The best fitness after each generation so far, and the median of the last one; of candidates that are done."""
    found: dict[int, list[float]] = {}
    for trial in candidates:
        if trial.generation is not None:
            found.setdefault(trial.generation, []).extend([] if trial.fitness is None else [trial.fitness])
    known = [sorted(found[number]) for number in sorted(found)]
    best = accumulate((fitness[-1] for fitness in known if fitness), max)
    return tuple(best), median(known[-1]) if known and known[-1] else None


def _rank(trial: TrialRecord) -> float:
    return trial.fitness if trial.fitness is not None else trial.score or 0.0
