"""What the search algorithm is told of candidates that didn't answer every item: their estimated scores.

Knows which answers there are, and which of them may count. Does not know how estimates are made, nor who is stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import RunError
from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import Estimator, Responses
from evomerge.estimators.calibration import Trusted, trusted
from evomerge.files.append import drop_torn_line, writing
from evomerge.files.lines import Lines
from evomerge.run.estimates import ESTIMATES, covariates_of, scores_of
from evomerge.run.trial import Trial, TrialKind, TrialState
from evomerge.study.covariates import Covariates
from evomerge.study.rivalry import Rivalry, asked_for
from evomerge.study.session import Session

Scores = NDArray[np.float64]

MOST_COMPLETE = 200
"""Complete candidates, the latest, that an estimator learns from beside the baselines: it takes a while for more."""
FALLBACKS = ("difference", "mean")
"""What is gone by, in this order, while the estimator asked for isn't calibrated."""


class Estimates:
    """The estimator of an open search, and what it has to go by. An estimate depends on no later generation."""

    def __init__(self, session: Session, rivalry: Rivalry, covariates: Covariates) -> None:
        self._session = session
        self._rivalry = rivalry
        self._covariates = covariates
        settings = session.config.search
        names = () if settings.estimator == "none" else tuple(dict.fromkeys((settings.estimator, *FALLBACKS)))
        # The plain mean can always be had.
        names = names[: names.index("mean") + 1] if names else ()
        self._estimators: dict[str, Estimator] = {
            name: ESTIMATORS.get(name)(settings.estimator_options if name == settings.estimator else {})
            for name in names
        }
        self._said = ""
        self._rows: dict[int, tuple[Scores, Scores]] = {}
        self._lines = Lines(session.directory / ESTIMATES, of=session.run.facts["study"])
        self._written: set[int] = set()
        if self._estimators and self._lines.path.exists():
            drop_torn_line(self._lines.path)
            try:
                self._written = set(self._lines.read(lambda data, _: int(data["generation"])))
            except RunError:
                # A search that goes on estimates all generations again, and writes them down again.
                self._lines.path.unlink()
                self._lines = Lines(self._lines.path, of=session.run.facts["study"])

    @property
    def wanted(self) -> bool:
        """Whether an estimator was asked for."""
        return bool(self._estimators)

    def told(self, pruned: Sequence[Trial], complete: Scores) -> Scores:
        """Estimated scores of a generation's stopped trials, none above the best that answered everything, (pruned,).

        Args:
            pruned: trials of one generation.
            complete: fitness of the generation's complete trials, (complete,).
        """
        generation = pruned[0].generation
        assert generation is not None
        responses, numbers = self._responses(generation)
        rows = [numbers.index(trial.number) for trial in pruned]
        found = trusted(self._estimators, responses, rows)
        self._say(found)
        # Those that were stopped had rivals that were better on the same items.
        told = np.minimum(found.estimate.values, complete.max())
        self._record(generation, pruned, found, told)
        return np.asarray(told, dtype=np.float64)

    def _responses(self, generation: int) -> tuple[Responses, list[int]]:
        """What the base, experts, uniform merges and candidates up to a generation answered, and the rows' trials."""
        evaluations = self._session.ledger
        baselines: list[Trial] = []
        earlier: list[Trial] = []
        stopped: list[Trial] = []
        for trial in evaluations.trials():
            if trial.kind is TrialKind.CANDIDATE:
                if trial.generation is None or trial.generation > generation:
                    continue
                if trial.state is TrialState.COMPLETE:
                    earlier.append(trial)
                elif trial.state is TrialState.PRUNED and trial.generation == generation:
                    stopped.append(trial)
            elif trial.kind.is_baseline and trial.state is TrialState.COMPLETE:
                baselines.append(trial)
        rows = {trial.number: self._row(trial) for trial in (*baselines, *earlier[-MOST_COMPLETE:], *stopped)}
        self._rows = {number: row for number, row in self._rows.items() if number in rows}
        whole = {trial.number for trial in stopped}
        kept = [number for number, (row, _) in rows.items() if number in whole or np.isfinite(row).all()]
        places = {number: place for place, number in enumerate(kept)}
        endpoints = tuple(
            places[trial.number] for trial in baselines if trial.kind.is_checkpoint and trial.number in places
        )
        scores, covariates = (np.array(column) for column in zip(*(rows[number] for number in kept), strict=True))
        known = covariates if self._session.references else None
        return Responses(scores=scores, covariates=known, endpoints=endpoints), kept

    def _row(self, trial: Trial) -> tuple[Scores, Scores]:
        """A trial's score on each search item, (items,), NaN where it wasn't asked; their mean is its score. And its
        covariates, (items,), NaN where they aren't known.
        """
        if trial.number not in self._rows:
            session = self._session
            objective, tasks = session.benchmark.objective, [item.task for item in session.benchmark.splits["search"]]
            evaluation = session.ledger.evaluation(trial.number, "search")
            if evaluation is not None and evaluation.table is not None:
                table, asked = evaluation.table, list(range(len(tasks)))
            else:
                table, asked = self._rivalry.answered(trial)
            known = table.covariates or self._covariates.of(asked_for(session, trial))
            row = scores_of(objective, table, tasks, asked)
            self._rows[trial.number] = row, covariates_of(objective, known, tasks)
        return self._rows[trial.number]

    def _say(self, found: Trusted) -> None:
        """Tell the user which estimator is gone by, when that changes."""
        if found.name == self._said:
            return
        wanted = next(iter(self._estimators))
        if found.name != wanted:
            why = "; ".join(f"{name}: {reason}" for name, reason in found.reasons.items())
            self._session.observer.message(f"scores are estimated by {found.name} instead of {wanted} ({why})")
        elif self._said:
            self._session.observer.message(f"scores are estimated by {found.name} from now on: it is calibrated")
        self._said = found.name

    def _record(self, generation: int, pruned: Sequence[Trial], found: Trusted, told: Scores) -> None:
        """Write down what was told and why, once for each generation."""
        if generation in self._written:
            return
        self._written.add(generation)
        data: dict[str, Any] = {
            "generation": generation,
            "estimator": found.name,
            "reasons": found.reasons,
            "calibration": None if found.calibration is None else found.calibration.to_data(),
            "trials": [trial.number for trial in pruned],
            "told": [float(value) for value in told],
            "errors": [float(error) for error in found.estimate.errors],
        }
        with writing(self._session.directory):
            self._lines.append(json.dumps(data, separators=(",", ":"), allow_nan=False) + "\n")
