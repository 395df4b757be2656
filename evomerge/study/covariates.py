"""Covariates of an open search: what a model says of the items that it hasn't answered.

The reference answers are requests of their own, apart from those of the items, so answers and scores are the same to
the last bit with and without them. A model is asked them all at once, before its first block of items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.execute.base import Failure, Job, Outcome
from evomerge.run.trial import Trial, TrialKind
from evomerge.score.table import ItemTable
from evomerge.study.references import REFERENCE, probabilities
from evomerge.study.session import Session


class Covariates:
    """The covariates of an open search: who is still to be asked, and what those that were asked gave."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def are_missing(self, trial: Trial) -> bool:
        """Whether a trial is to be asked for the reference answers, and hasn't been.

        A model that is asked by itself isn't, nor is the elite: nothing is estimated from what these answer.
        """
        session = self._session
        if not session.references or trial.kind is TrialKind.ELITE or session.is_by_itself(trial):
            return False
        return not session.parts.count(trial.number, REFERENCE)

    def of(self, trial: Trial) -> Mapping[str, Sequence[float]]:
        """By task, the covariate of each search item, for a trial that was asked itself; empty if none was."""
        answers = self._session.parts.blocks(trial.number, REFERENCE)
        found: dict[str, list[float]] = {}
        if self._session.references and answers:
            values = probabilities(answers[0])
            for item, value in zip(self._session.benchmark.splits["search"], values, strict=True):
                found.setdefault(item.task, []).append(value)
        return found

    def in_table(self, table: ItemTable, trial: Trial) -> ItemTable:
        """A trial's scores on all search items, with its covariates if it has any."""
        found = self.of(trial)
        return table.with_covariates(found) if found else table

    def blamed(self, job: Job, outcome: Outcome) -> Outcome:
        """An outcome whose failure, if it is one, names a request of the items instead of a reference answer."""
        if job.split != REFERENCE or not isinstance(outcome, Failure) or outcome.request is None:
            return outcome
        return replace(outcome, request=self._session.benchmark.places("search", [outcome.request])[0])
