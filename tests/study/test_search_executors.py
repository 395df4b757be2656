"""Whatever the workers do, in whichever order and however many: the same trials, and failures as values."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from evomerge.config.config import Config
from evomerge.errors import ConfigError
from evomerge.execute import EXECUTORS
from evomerge.execute.base import Executor, Failure, Job, Outcome
from evomerge.run.directory import open_run
from evomerge.run.lock import lock
from evomerge.run.observer import SilentObserver
from evomerge.run.records import TrialRecord
from evomerge.run.trial import TrialKind
from evomerge.study import session as session_module
from evomerge.study.candidates import Candidates
from evomerge.study.check import check
from evomerge.study.search import resume, search
from evomerge.study.session import Session
from evomerge.testing.runs import essence
from helpers.search import Count, changed, kill_after_lines, start, write_config

pytestmark = pytest.mark.slow


@pytest.mark.ray
def test_ray_with_any_number_of_workers_gives_the_inline_trials(
    tmp_path: Path, config: Config, undisturbed: Path, local_ray: None
) -> None:
    for workers in (1, 2, 4):
        directory = tmp_path / f"ray-{workers}"
        search(changed(config, execution={"backend": "ray", "workers": workers, "cpus_per_worker": 0.5}), directory)
        assert essence(directory) == essence(undisturbed)


@pytest.mark.ray
def test_a_killed_ray_driver_and_a_killed_worker_change_nothing(
    tmp_path: Path, tiny_llama: dict[str, Path], tasks: Path, undisturbed: Path, local_ray: None
) -> None:
    file = write_config(
        tmp_path / "ray.yaml",
        tiny_llama,
        tasks,
        execution={"backend": "ray", "workers": 2, "cpus_per_worker": 1, "dtype": "float32"},
    )
    directory = tmp_path / "run"
    process = start(file, directory)
    kill_after_lines(process, directory / "evaluations.jsonl", 17)
    assert process.returncode == -signal.SIGKILL

    class KillAWorker(SilentObserver):
        done = False

        def trial(self, record: TrialRecord) -> None:
            if not self.done:
                self.done = True
                last = (directory / "evaluations.jsonl").read_text().splitlines()[-1]
                os.kill(int(json.loads(last)["worker"].rpartition(":")[2]), signal.SIGKILL)

    killer = KillAWorker()
    resume(directory, observer=killer)
    assert killer.done
    assert essence(directory) == essence(undisturbed)


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


def test_the_executor_of_another_package_is_chosen_by_its_name_and_refused_where_it_is_unknown(
    tmp_path: Path, config: Config, undisturbed: Path
) -> None:
    theirs = changed(config, execution={"backend": "theirs"})
    refusal = r"x\.yaml: execution\.backend: unknown executor 'theirs'\..* Available: auto, inline, ray\."
    for refused in (lambda: search(theirs, tmp_path / "run", where="x.yaml"), lambda: check(theirs, where="x.yaml")):
        with pytest.raises(ConfigError, match=refusal):
            refused()
    assert not (tmp_path / "run").exists()
    with EXECUTORS.extended({"theirs": "helpers.executors:Theirs"}):
        assert check(theirs).backend == "theirs"
        search(theirs, tmp_path / "run")
    assert essence(tmp_path / "run") == essence(undisturbed)


def test_the_same_recipe_is_evaluated_once(tmp_path: Path, config: Config) -> None:
    with lock(tmp_path / "run"), Session(config, tmp_path / "run", SilentObserver(), "x") as session:
        candidates = Candidates(session)
        genome = candidates.space.default()
        trials = [candidates.trial(TrialKind.CANDIDATE, f"c{index}", genome, generation=0) for index in range(3)]
        candidates.evaluate(trials[:2], "search")
        candidates.evaluate(trials, "search")
        found = [candidates.ledger.evaluation(trial.number, "search") for trial in trials]
    assert [item.same_as for item in found if item is not None] == [None, 0, 0]
    assert len({item.score for item in found if item is not None}) == 1
