"""Candidates that fail, and workers that answer in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.execute.base import Executor, Failure, Job, Outcome
from evomerge.run.directory import open_run
from evomerge.study import session as session_module
from evomerge.study.search import resume, search
from helpers.search import Count, essence


class Sabotage:
    """An executor in which some candidates fail and others are slow to report."""

    def __init__(self, executor: Executor, fails: Callable[[Job], bool]) -> None:
        self._executor, self._fails = executor, fails
        self.workers = executor.workers
        self.add_requests = executor.add_requests
        self.close = executor.close

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        finished = list(self._executor.run(jobs))
        random.Random(len(finished)).shuffle(finished)
        for job, outcome in finished:
            failure = Failure(reason="not_finite", message=f"trial {job.number}: tensor x")
            yield job, failure if self._fails(job) else outcome


def sabotaged(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Job], bool]) -> None:
    make = session_module.make_executor
    monkeypatch.setattr(session_module, "make_executor", lambda *args: Sabotage(make(*args), fails))


def test_the_order_in_which_workers_answer_does_not_matter(
    tmp_path: Path, config: Config, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, lambda job: False)
    search(config, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_failed_candidates_are_failed_trials_and_the_search_goes_on(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotaged(monkeypatch, lambda job: job.split == "search" and job.number > 6 and job.number % 3 == 0)
    result = search(config, tmp_path / "run")
    trials = open_run(tmp_path / "run").trials()
    failed = [trial for trial in trials if trial.state == "failed"]
    assert {trial.number for trial in failed} == {number for number in range(7, len(trials)) if number % 3 == 0}
    assert all(trial.reason == f"not_finite: trial {trial.number}: tensor x" for trial in failed)
    assert result.winner not in {trial.number for trial in failed}
    count = Count()
    resume(tmp_path / "run", evaluations=28, observer=count)
    assert count.evaluated == []
