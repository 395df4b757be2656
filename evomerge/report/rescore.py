"""Another objective over a finished search: every trial's fitness from its recorded item table, without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, unknown
from evomerge.run.directory import Run, open_run
from evomerge.run.records import TrialRecord, record_of
from evomerge.score.objective import LanguageRule, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """A trial with its score and fitness on the search items by another objective; None if it has no table."""

    trial: TrialRecord
    score: float | None
    fitness: float | None


def rescore(
    directory: str | Path, *, weights: Mapping[str, float] | None = None, metrics: Mapping[str, str] | None = None
) -> list[Rescored]:
    """Rank a run's trials by other task weights or other metrics of the same tasks, best first.

    Tasks that aren't named keep their weight and metric. A weight of 0 leaves a task out.

    Args:
        directory: the run directory.
        weights: weight by task.
        metrics: `metric` or `metric,filter` by task.

    Raises: ConfigError for a task or metric that the run doesn't have, or weights that can't be used.
    """
    run = open_run(directory)
    objective = objective_of(run, weights, metrics)
    ledger = run.ledger()
    found = []
    for trial in (record_of(ledger, trial) for trial in ledger.trials()):
        evaluation = ledger.evaluation(trial.number, "search")
        if evaluation is None or evaluation.table is None:
            found.append(Rescored(trial=trial, score=None, fitness=None))
            continue
        try:
            score = objective.score(evaluation.aggregates, evaluation.table.sizes)
        except KeyError:
            # A metric that couldn't be computed over this candidate's answers.
            score = math.nan
        if not math.isfinite(score):
            found.append(Rescored(trial=trial, score=None, fitness=None))
            continue
        again = replace(
            evaluation,
            score=score,
            tie_break=objective.tie_break(evaluation.table),
            penalty=objective.penalty(evaluation.aggregates, evaluation.table.sizes),
            shortfall=objective.shortfall(evaluation.aggregates),
        )
        found.append(Rescored(trial=trial, score=score, fitness=again.fitness))
    return sorted(found, key=lambda item: (item.fitness is None, -(item.fitness or 0.0), item.trial.number))


def objective_of(
    run: Run, weights: Mapping[str, float] | None = None, metrics: Mapping[str, str] | None = None
) -> Objective:
    """The run's own objective with some weights and metrics replaced. Raises: ConfigError, as `rescore`."""
    weights, metrics = weights or {}, metrics or {}
    tasks: dict[str, dict[str, Any]] = {task["task"]: task for task in run.facts["benchmark"]["tasks"]}
    for option, named in (("weights", weights), ("metric", metrics)):
        for name in named:
            if name not in tasks:
                raise ConfigError(f"{option}: {unknown('task', name, tasks)}")
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"weights: {name}={weight:g}: a weight is 0 or more")
    every = {name: float(weights.get(name, task["weight"])) for name, task in tasks.items()}
    if not any(every.values()):
        raise ConfigError("weights: every task has weight 0; give one of them a positive weight")
    chosen = {name: _metric(name, task, metrics.get(name)) for name, task in tasks.items()}
    kept = {name: weight for name, weight in every.items() if weight}
    return Objective(
        metrics={name: chosen[name][0] for name in kept},
        weights=kept,
        higher_is_better={name: chosen[name][1] for name in kept},
        tie_breaks=run.config.benchmark.tie_break,
        # A task with a weight of its own leaves the group that would share its weight out by size.
        by_size=tuple(
            frozenset(group)
            for group in run.facts["benchmark"].get("by_size", ())
            if not set(group) & {name for name in tasks if name in weights}
        ),
        languages={name: LanguageRule(**rule) for name in kept if (rule := _rule(tasks[name])) is not None},
        means=frozenset(name for name in kept if chosen[name][0] in tasks[name].get("means", [chosen[name][0]])),
    )


def _rule(task: Mapping[str, Any]) -> dict[str, float | None] | None:
    language = task.get("language")
    return None if language is None else {"at_least": language["at_least"], "penalty": language["penalty"]}


def _metric(name: str, task: Mapping[str, Any], wanted: str | None) -> tuple[str, bool]:
    """A task's metric in full, and whether higher is better."""
    own = {task["metric"]: bool(task["higher_is_better"])}
    # Runs of earlier releases know only the metric that was searched by.
    available: dict[str, bool] = task.get("metrics", own)
    if wanted is None:
        return next(iter(own.items()))
    matching = [key for key in available if wanted in {key, key.split(",")[0]}]
    if len(matching) != 1:
        if matching:
            raise ConfigError(f"metric: {name}={wanted}: after several filters; choose one of {', '.join(matching)}")
        raise ConfigError(f"metric: {name}: {unknown('metric', wanted, available)}")
    return matching[0], available[matching[0]]
