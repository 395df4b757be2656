"""How well scores of a run's models could be estimated from some of their items: predicted against seen.

Every estimator is tried on the models that answered all search items, from as many items as asked for, without a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import EstimatorError, RunError, unknown
from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import Responses, Scores
from evomerge.estimators.calibration import FEWEST_MODELS, Calibration, judged, ways
from evomerge.report.rescore import objective_of
from evomerge.run.directory import Run, open_run
from evomerge.run.estimates import covariates_of, scores_of, told_of
from evomerge.run.trial import TrialKind
from evomerge.streams import stream

ITEMS = (20, 50, 100)
"""Numbers of items that are tried if none are asked for."""

_SUBSETS = 4
_MOST_CANDIDATES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One estimator on so many items."""

    estimator: str
    """Its name; " without covariate" follows it where one that uses them is tried without, too."""
    items: int
    calibration: Calibration | None
    """None if it can't estimate."""
    doubt: str | None
    """Why it isn't to be trusted; None if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport:
    """Estimators tried on a run's models, and what the run itself went by."""

    models: int
    """Models that answered every search item, the base and experts among them."""
    items: int
    """Search items."""
    tried: tuple[Tried, ...]
    told: tuple[Mapping[str, Any], ...]
    """What the search algorithm was told of stopped candidates, a generation each."""

    def to_data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "models": self.models,
            "items": self.items,
            "tried": [
                {
                    "estimator": one.estimator,
                    "items": one.items,
                    "trusted": one.doubt is None,
                    "doubt": one.doubt,
                    **({} if one.calibration is None else one.calibration.to_data()),
                }
                for one in self.tried
            ],
            "told": [dict(one) for one in self.told],
        }


def calibrate(
    directory: str | Path, *, items: Sequence[int] | None = None, estimators: Sequence[str] | None = None
) -> CalibrationReport:
    """Try estimators on the models of a run that answered every search item. Safe while the run is being driven.

    Args:
        directory: the run directory.
        items: numbers of items to estimate from; None takes those of `ITEMS` that are fewer than there are, else half.
        estimators: by name; None takes all.

    Raises: RunError for too few models, or as many items as there are; EstimatorError for an unknown estimator.
    """
    names = tuple(estimators or ESTIMATORS.names())
    for name in names:
        if name not in ESTIMATORS:
            raise EstimatorError(unknown(ESTIMATORS.kind, name, ESTIMATORS))
    run = open_run(directory)
    responses = _responses(run)
    models, every = responses.scores.shape
    if (merges := models - len(responses.endpoints)) < FEWEST_MODELS:
        raise RunError(
            f"{directory}: {merges} merges have answered every search item, and a comparison of predicted with seen "
            f"needs {FEWEST_MODELS}; let the search go on"
        )
    counts = [count for count in ITEMS if count < every] if items is None else list(items)
    for count in counts:
        if not 1 < count < every:
            raise RunError(f"{directory}: items: {count} is none of 2 to {every - 1}; the run has {every} search items")
    tried = []
    for count in counts or [max(2, every // 2)]:
        order = stream(0, "subsets")
        answered = np.zeros((_SUBSETS, every), dtype=bool)
        for subset in answered:
            subset[order.permutation(every)[:count]] = True
        for name, estimator, given in ways({name: ESTIMATORS.get(name)({}) for name in names}, responses):
            try:
                found = judged(estimator, given, answered)
                tried.append(Tried(estimator=name, items=count, calibration=found, doubt=found.doubt))
            except EstimatorError as error:
                tried.append(Tried(estimator=name, items=count, calibration=None, doubt=str(error)))
    told = tuple(told_of(run.directory, run.facts["study"]))
    return CalibrationReport(models=models, items=every, tried=tuple(tried), told=told)


def _responses(run: Run) -> Responses:
    """Scores, and covariates if the run has them, of the baselines and the latest candidates that answered every
    search item.
    """
    ledger, objective = run.ledger(), objective_of(run)
    others = sorted(set(objective.metrics) - objective.means) if objective.means is not None else []
    if others:
        raise RunError(
            f"{run.directory}: the metric of {', '.join(others)} isn't a mean of its items' scores, by which "
            "estimators go"
        )
    rows: list[tuple[Scores, Scores]] = []
    candidates: list[tuple[Scores, Scores]] = []
    endpoints: list[int] = []
    for trial in ledger.trials():
        evaluation = ledger.evaluation(trial.number, "search")
        if evaluation is None or evaluation.table is None or evaluation.same_as is not None:
            continue
        tasks = [name for name, task in evaluation.table.tasks.items() for _ in task.items]
        row = scores_of(objective, evaluation.table, tasks, range(len(tasks)))
        if not np.isfinite(row).all():
            continue
        both = row, covariates_of(objective, evaluation.table.covariates, tasks)
        if trial.kind is TrialKind.CANDIDATE:
            candidates.append(both)
        elif trial.kind.is_baseline:
            if trial.kind.is_checkpoint:
                endpoints.append(len(rows))
            rows.append(both)
    rows += candidates[-_MOST_CANDIDATES:]
    if not rows:
        raise RunError(f"{run.directory}: no model has answered every search item yet")
    scores, covariates = (np.array(column) for column in zip(*rows, strict=True))
    known = covariates if np.isfinite(covariates).any() else None
    return Responses(scores=scores, covariates=known, endpoints=tuple(endpoints))
