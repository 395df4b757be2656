"""Optuna's storage of a run's journal, with trials that share what they have in common.

Optuna writes its distributions with each trial, and when it reads them makes new objects of all: a million for 10,000
trials over 100 dimensions. Those of one search are the same throughout. So Optuna is given each trial without its
parameters, and they are added to what it returns.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from evomerge.run.journal import CREATE_TRIAL, Journal


class JournalStudies(JournalStorage):
    """The study in a journal, which is waited for when asked to, and not for each operation."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._created = _Created(journal)
        super().__init__(self._created)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One trial. Raises: KeyError if there is none."""
        return self._complete(super().get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials in order of number, or those of them in certain states; shared objects unless copied."""
        found = [self._complete(trial) for trial in super().get_all_trials(study_id, False, states)]
        return copy.deepcopy(found) if deepcopy else found

    def _complete(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial, with the parameters that it was created with beside those set later."""
        created = self._created.parameters[trial.number]
        if not created.values.keys() <= trial.params.keys():
            trial.params = {**created.values, **trial.params}
            later = trial.distributions
            trial.distributions = {**created.distributions, **later} if later else created.distributions
        return trial


class _Parameters(NamedTuple):
    """Those of one trial."""

    values: dict[str, Any]
    distributions: dict[str, BaseDistribution]


@lru_cache(maxsize=4096)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


class _Created(BaseJournalBackend):
    """A journal whose trials are created without parameters, which are kept here."""

    def __init__(self, journal: Journal) -> None:
        self.parameters: list[_Parameters] = []
        """By number of the trial."""
        self._journal = journal
        self._written: Mapping[str, str] = {}
        self._distributions: dict[str, BaseDistribution] = {}

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """As the journal's, without parameters."""
        if log_number_from == 0:
            self.parameters.clear()
        for log in self._journal.read_logs(log_number_from):
            if log["op_code"] == CREATE_TRIAL:
                self.parameters.append(self._taken(log.pop("params", {}), log.pop("distributions", {})))
            yield log

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As the journal's."""
        self._journal.append_logs(logs)

    def _taken(self, values: Mapping[str, float], written: Mapping[str, str]) -> _Parameters:
        """What Optuna would make of them. Distributions that are written like those before are the same objects."""
        if written != self._written:
            self._distributions = {name: _distribution(text) for name, text in written.items()}
            self._written = written
        distributions = self._distributions
        return _Parameters(
            {name: distributions[name].to_external_repr(value) for name, value in values.items()}, distributions
        )
