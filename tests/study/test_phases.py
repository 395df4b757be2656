"""How many evaluations a phase of a search announces, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.config.config import Config
from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.run.trial import Trial, TrialKind
from evomerge.study import conclude
from evomerge.study.search import search
from helpers.search import changed


class Counts(SilentObserver):
    """By phase with evaluations, how many were announced and how many came."""

    def __init__(self) -> None:
        self.announced: dict[str, int] = {}
        self.came: dict[str, int] = {}
        self._phase = ""

    def phase(self, name: str, total: int | None) -> None:
        if total is not None:
            self._phase, self.announced[name], self.came[name] = name, total, 0

    def trial(self, record: TrialRecord) -> None:
        self.came[self._phase] += 1


@pytest.mark.slow
def test_a_model_that_is_tested_for_two_reasons_counts_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uniform(trials: Sequence[Trial], _: Mapping[int, Any]) -> Trial:
        return next(trial for trial in trials if trial.kind is TrialKind.UNIFORM)

    # The winner is the best uniform merge.
    monkeypatch.setattr(conclude, "best_validated", uniform)
    counts = Counts()
    result = search(
        changed(config, search={"evaluations": 4, "population": 4, "scan": 2}), tmp_path / "run", observer=counts
    )
    kinds = [model["kind"] for model in result.data["test"]["models"]]
    assert kinds[-2:] == ["uniform", "winner"]
    assert counts.announced["test"] == len(kinds) - 1
    # The mean is asked after the candidates, outside the budget.
    counts.announced["search"] += 1
    assert counts.came == counts.announced
    evaluations = [(one.trial, one.split) for one in open_run(tmp_path / "run").ledger().evaluations()]
    assert len(evaluations) == len({*evaluations})
